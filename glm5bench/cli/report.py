"""The verbs that tell a reader: report and diff."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileError, UsageError
from .app import app, numbers, one_of, say, tell_bad
from .archives import PATHS

if TYPE_CHECKING:
    from ..analysis.comparison import Comparison
    from ..analysis.limits import Limit
    from ..analysis.rows import Row, Series
    from ..point import Hardware
    from ..report.page import Beside, Detail
    from ..settings import Price
    from ..store.measurement import Measurement

MOST_DETAILS = 400  # points whose raw times are read for the page
FIGURES = ("png", "svg", "pdf")


@app.command()
def report(
    paths: PATHS,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page; with --format the folder of the figures.")],
    format_: Annotated[str, typer.Option("--format", help="html, or figures for a paper: png,svg,pdf")] = "html",
    title: Annotated[str, typer.Option(help="What stands above it.")] = "",
    at: Annotated[str, typer.Option(help="Interactivities that the slider stops at besides round ones: 25,30,40")] = "",
    interpolation: Annotated[str, typer.Option(help="steffen, linear or pchip.")] = "steffen",
    price: Annotated[str, typer.Option(help="A set of conf/price, a YAML file, or b200=2.5,h200=1.4")] = "hyperscaler",
    baseline: Annotated[str, typer.Option(help="Words of the series to compare with: 'h200 fp8 mtp'")] = "",
) -> int:
    """One self-contained page with plots, tables and provenance of any files, or their figures as pictures."""
    from ..analysis.comparison import PUBLISHED_GRID, compared
    from ..analysis.cost import Economy
    from ..analysis.interpolation import METHODS
    from ..prices import power_table, price_table
    from ..store.collection import collect
    from ..store.files import write_text

    wanted = [word.strip() for word in format_.split(",") if word.strip()]
    for word in wanted or [""]:
        one_of("--format", word, ("html", *FIGURES))
    if "html" in wanted and len(wanted) > 1:
        raise UsageError("--format html stands alone: -o is a page there and a folder for pictures.", next_step="run it twice")
    one_of("--interpolation", interpolation, METHODS)
    _refuse_to_overwrite(output, is_page="html" in wanted)
    grid = numbers("--at", at) if at else PUBLISHED_GRID
    found, prices = collect(paths), price_table(price)
    rows = list(found.rows.values())
    if not rows:
        tell_bad(found.bad)
        raise UsageError(f"No point was found in {', '.join(paths)}.", next_step="`glm5bench status DIR` says what a campaign holds")
    made = compared(rows, Economy(prices.usd_per_gpu_h, power_table()), at=grid, method=interpolation, baseline=baseline)
    if "html" not in wanted:
        from ..report.figures import write_figures

        for path in write_figures(made, output, wanted, price_id=prices.id):
            print(path)
    else:
        from ..report.page import page

        beside = _beside(made, paths, prices, interpolation, title or f"glm5bench: {', '.join(paths)}", found.tables.values(), found.bad)
        write_text(output, page(made, beside, asked=grid))
        print(output)
    tell_bad(found.bad)
    return 1 if found.bad else 0


def _refuse_to_overwrite(output: Path, *, is_page: bool) -> None:
    """Raises UsageError where something else stands than what would be written: an archive, say."""
    if not output.exists():
        return
    if not is_page:
        if not output.is_dir():
            raise UsageError(f"{output} is a file, and the figures go into a folder.", next_step="give -o another name")
    elif output.is_dir() or (output.stat().st_size and not output.read_bytes()[:64].lstrip().lower().startswith(b"<!doctype html")):
        what = "a directory" if output.is_dir() else "no page"
        raise UsageError(f"{output} is {what}, and is not overwritten.", next_step="give -o another name")


def _beside(
    made: Comparison, paths: Sequence[str], prices: Price, method: str, title: str, tables: Any, bad: Sequence[FileError]
) -> Beside:
    from .. import __version__
    from ..analysis.limits import specifications
    from ..report.page import Beside

    hardware = _hardware()
    drawn = {s.hardware for s in made.fronts}
    return Beside(
        title=title,
        prices=_price_sets(prices),
        price_id=prices.id,
        method=method,
        made_utc=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        details=_details(made, paths),
        limits=_limits(made.fronts, hardware),
        bounds=_bounds(made, hardware),
        specifications={name: values for name, values in specifications(list(hardware.values())).items() if name in drawn},
        source_tables=[(t.name, t.rows) for t in tables],
        bad=[(e.path, e.message) for e in bad],
    )


def _price_sets(chosen: Price) -> dict[str, Mapping[str, float | None]]:
    from ..prices import price_table
    from ..settings import group_values

    shipped = {name: price_table(name) for name in group_values("price")}
    sets = {name: p.usd_per_gpu_h for name, p in shipped.items() if any(v is not None for v in p.usd_per_gpu_h.values())}
    return {**sets, chosen.id: chosen.usd_per_gpu_h}


def _hardware() -> dict[str, Hardware]:
    from ..overrides import compose
    from ..settings import group_values

    return {name: compose(f"hardware={name}").arm.hardware for name in group_values("hardware")}


def _limits(fronts: Mapping[Series, Sequence[Row]], hardware: Mapping[str, Hardware]) -> dict[Series, list[tuple[int, list[Limit]]]]:
    """Of the series whose facts conf/ knows, at each TP of their frontiers; of others there is no line."""
    from ..analysis.limits import limit_curve
    from ..overrides import compose
    from ..prices import fact_table
    from ..roofline import GEMM_RATE

    id_of = {repository: id_ for id_, repository in fact_table("checkpoint", "repository").items()}
    checkpoints = {s.checkpoint: id_of[s.checkpoint] for s in fronts if s.checkpoint in id_of}
    arms = {name: compose(f"checkpoint={id_}").arm for name, id_ in checkpoints.items()}
    speculative = {name: compose(f"speculative={name}").arm.speculative for name in fact_table("speculative", "id")}
    found: dict[Series, list[tuple[int, list[Limit]]]] = {}
    for s, rows in fronts.items():
        if (
            s.hardware not in hardware
            or s.checkpoint not in arms
            or s.speculative not in speculative
            or min(s.isl_tokens, s.osl_tokens) <= 0
        ):
            continue
        rates = {GEMM_RATE[p] for p in (arms[s.checkpoint].checkpoint.precision, arms[s.checkpoint].checkpoint.dense_precision)}
        if not rates <= hardware[s.hardware].tflop_s.keys():
            continue  # the hardware has no such multiplication: whatever ran there is not what conf/ knows
        mean = (1 + min(1.0, abs(s.range_ratio))) / 2
        for tp in sorted({r.tp for r in rows if r.tp > 0}):
            arm = replace(arms[s.checkpoint], hardware=hardware[s.hardware], speculative=speculative[s.speculative], tp=tp)
            found.setdefault(s, []).append((tp, limit_curve(arm, s.isl_tokens * mean, s.osl_tokens * mean)))
    return found


def _bounds(made: Comparison, hardware: Mapping[str, Hardware]) -> list[dict[str, Any]]:
    from ..analysis.limits import bounds

    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    bases = {r.series.workload: r.series for r in made.iso if r.is_baseline}
    for s in made.fronts:
        base = bases.get(s.workload)
        if base is None or s.hardware == base.hardware or s.hardware not in hardware or base.hardware not in hardware:
            continue
        told = bounds(hardware[s.hardware], hardware[base.hardware], made.economy.usd_per_gpu_h, s.precision, base.precision)
        place = {"hardware": s.hardware, "baseline": base.hardware, "precision": f"{s.precision} over {base.precision}"}
        found[s.hardware, base.hardware, place["precision"]] = {**place, **told}
    return list(found.values())


def _details(made: Comparison, paths: Sequence[str]) -> dict[str, Detail]:
    """Command line and times of the frontiers' points, of each configuration the first run."""
    from ..report.page import Detail, detail
    from ..store.points import each_made

    wanted = list(dict.fromkeys(r.digest for rows in made.fronts.values() for r in rows if r.series.source != "published"))
    if len(wanted) > MOST_DETAILS:
        say(f"{len(wanted)} points stand on frontiers: the page has command lines and times of {MOST_DETAILS} of them.")

    def told(m: Measurement) -> Detail:
        command = shlex.join(map(str, m.provenance.get("argv", ())))
        return detail(m.requests, command, m.time_scale, from_due=m.is_open_loop) if m.requests is not None else Detail(command)

    found: dict[str, Detail] = {}
    for digest, each in each_made(paths, wanted[:MOST_DETAILS], told):
        if isinstance(each, FileError):
            say(str(each))
        else:
            found[digest] = each
    return found


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Before: a point file, campaign, archive, folder, or pattern.")],
    b: Annotated[str, typer.Argument(help="After.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="A change of at most this share is none.")] = 0.02,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Which settings differ between A and B, and which points got better or worse. Exit code 1 where one got worse."""
    from ..analysis.difference import difference
    from ..report.differing import as_plain, as_words
    from ..store.collection import collect

    if not math.isfinite(tolerance):
        raise UsageError(f"--tolerance {tolerance} is no share.", next_step="--tolerance 0.02")
    sides = [collect([path]) for path in (a, b)]
    for path, side in zip((a, b), sides, strict=True):
        if not side.rows:
            tell_bad(side.bad)
            raise UsageError(f"No point was found in {path}.", next_step="`glm5bench status DIR` says what a campaign holds")
    found = difference(*(list(side.rows.values()) for side in sides), tolerance=tolerance)
    print(json.dumps(as_plain(found), indent=1) if json_ else as_words(found, tolerance=tolerance))
    for side in sides:
        tell_bad(side.bad)
    if not found.changes:
        say("No point of A has a counterpart in B: nothing could be compared.")
    return 1 if not found.changes or found.is_worse or any(side.bad for side in sides) else 0
