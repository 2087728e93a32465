"""The verbs of files: merge, check, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError, printable
from .app import app, one_of, say, tell_bad

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..analysis.validity import Verdict
    from ..settings import Price
    from ..store.archive import Collected, Stored


@app.command()
def merge(
    paths: list[str],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive; points that it already holds are kept.")],
    strict: Annotated[bool, typer.Option(help="Stop at the first bad file.")] = False,
) -> int:
    """Consolidate point files, campaigns and archives into one archive. Bad files are named and left out (exit code 1)."""
    from ..store.archive import refuse_to_overwrite

    output = output.resolve()
    refuse_to_overwrite(output)
    return write_archive_of([*paths, str(output)] if output.exists() else paths, output, strict=strict)


def write_archive_of(paths: list[str], output: Path, *, strict: bool = False) -> int:
    """Writes the union of the paths, and says what it holds. Exit code 1 for a bad file."""
    from ..store.archive import collect, write_archive

    collected = collect(paths, strict=strict)
    tell_bad(collected.bad)
    if not collected.points and not collected.tables:
        raise UsageError(f"No point was found in {', '.join(paths)}.", next_step="`glm5bench status DIR` says what a campaign holds")
    write_archive(output, collected)
    say(f"{output}: {len(collected.points)} points, digest {collected.digest()[:16]}.")
    return 1 if collected.bad else 0


@app.command()
def check(
    paths: list[str],
    digest: Annotated[bool, typer.Option(help="Print the digest of the whole set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Verify files and recompute the validity of every point from its raw times. Exit code 1 for a bad file or an invalid point."""
    from ..store.archive import collect

    collected = collect(paths)
    found = [(s, s.measurement.verdict()) for s in collected.points.values()]
    if as_json:
        print(json.dumps(_checked(collected, found), indent=1))
    else:
        for stored, verdict in found:
            m = stored.measurement
            p = m.point
            what = f"{p['hardware']} {p['precision']} tp{p['tp']} concurrency {p['concurrency']}"
            print(printable(f"{verdict.validity:8} {m.source:9} {m.key} {what}"))
            for reason in verdict.reasons:
                print(printable(f"           {reason.code}: {reason.text}"))
        if digest:
            print(collected.digest())
        tell_bad(collected.bad)
    return 1 if any(v.validity == "invalid" for _, v in found) else _refuse_nothing(collected, paths)


def _checked(collected: Collected, found: list[tuple[Stored, Verdict]]) -> dict[str, Any]:
    return {
        "digest": collected.digest(),
        "points": [
            {
                "key": s.measurement.key,
                "digest": s.digest,
                "source": s.measurement.source,
                "origin": s.origin,
                "validity": v.validity,
                "reasons": [{"code": r.code, "text": r.text} for r in v.reasons],
            }
            for s, v in found
        ],
        "bad": [{"path": e.path, "reason": e.message} for e in collected.bad],
    }


@app.command()
def tables(
    paths: list[str],
    format_: Annotated[str, typer.Option("--format", help="md, csv or json.")] = "md",
    at: Annotated[str, typer.Option(help="Interactivities of the iso table, tok/s/user: 25,30,40")] = "",
    interpolation: Annotated[str, typer.Option(help="steffen, linear or pchip.")] = "steffen",
    price: Annotated[str, typer.Option(help="A set of conf/price, a YAML file, or b200=2.5,h200=1.4")] = "hyperscaler",
    baseline: Annotated[str, typer.Option(help="Words of the series to compare with: 'h200 fp8 mtp'")] = "",
    only: Annotated[str, typer.Option("--table", help="points, frontier or iso alone.")] = "",
) -> int:
    """Points, frontier, iso-interactivity and cost tables of any files; `published` is what ships."""
    from ..prices import price_table

    return tables_of(paths, price=price_table(price), format_=format_, at=at, interpolation=interpolation, baseline=baseline, only=only)


def tables_of(
    paths: list[str], *, price: Price, format_: str = "md", at: str = "", interpolation: str = "steffen", baseline: str = "", only: str = ""
) -> int:
    """Prints the tables of the paths."""
    from ..analysis.comparison import PUBLISHED_GRID, Economy, iso_table, named, series_frontiers
    from ..analysis.interpolation import METHODS
    from ..prices import power_table
    from ..report import tables as report
    from ..store.archive import collect

    writers: dict[str, Callable[[report.Tables], str]] = {"md": report.as_markdown, "csv": report.as_csv, "json": report.as_json}
    one_of("--format", format_, writers)
    one_of("--interpolation", interpolation, METHODS)
    one_of("--table", only or "points", ("points", "frontier", "iso"))
    grid = _numbers("--at", at) if at else PUBLISHED_GRID
    economy = Economy(price.usd_per_gpu_h, power_table())
    collected = collect(paths)
    rows = [stored.row for stored in collected.points.values()]
    fronts = series_frontiers(rows)
    iso = iso_table(fronts, economy, at=grid, method=interpolation, is_baseline=named(baseline, list(fronts)))
    made = report.tables(rows, fronts, iso, economy, price_id=price.id, method=interpolation)
    print(writers[format_](report.only(made, only) if only else made), end="" if format_ == "md" else "\n" * (format_ == "json"))
    tell_bad(collected.bad)
    return _refuse_nothing(collected, paths)


def _refuse_nothing(collected: Collected, paths: list[str]) -> int:
    if not collected.points:
        say(f"No point was found in {', '.join(paths)}.\n  next: `glm5bench status DIR` says what a campaign holds")
    return 1 if collected.bad or not collected.points else 0


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < n < float("inf") for n in numbers):
        raise UsageError(f"{option} {text}: these are no positive numbers.", next_step=f"{option} 25,30,40")
    return numbers
