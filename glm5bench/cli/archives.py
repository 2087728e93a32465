"""The verbs of files: merge, check, tables."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError, counted, printable
from .app import app, numbers, one_of, progress, say, tell_bad, token_weights

if TYPE_CHECKING:  # verbs import what they need when they run, so that `--help` and `status` start fast
    from ..analysis.comparison import Comparison
    from ..archive.checking import Check
    from ..archive.collection import Collected, Found
    from ..archive.union import Merged, Progress
    from ..values.settings import Price

JOBS = Annotated[int, typer.Option(min=1, help="Processes that read.")]
AT = Annotated[str, typer.Option(help="Interactivities of the iso table, tok/s/user: 25,30,40")]
INTERPOLATION = Annotated[str, typer.Option(help="steffen, linear or pchip.")]
PRICE = Annotated[str, typer.Option(help="A set of conf/price, a YAML file, or b200=2.5,h200=1.4")]
TOKEN_PRICES = Annotated[str, typer.Option(help="Prices of 1M computed, cached and output tokens: 1.40,0.26,4.40. Else those of --price")]
BASELINE = Annotated[str, typer.Option(help="Words of the series to compare with: 'h200 fp8 mtp'")]
PATHS = Annotated[list[str], typer.Argument(help="Point files, campaigns, archives, folders of them, patterns in quotes, `published`.")]


@app.command()
def merge(
    paths: PATHS,
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive. If it exists, its points are kept.")],
    is_new: Annotated[bool, typer.Option("--new", help="Replace an archive that exists, without keeping its points.")] = False,
    raw: Annotated[str, typer.Option(help="keep, or summary: without per-request and per-chunk rows.")] = "keep",
    where: Annotated[str, typer.Option(help="Only points that match: 'hardware=b200,precision=nvfp4,tp<=8'")] = "",
    jobs: JOBS = 2,
    strict: Annotated[bool, typer.Option(help="Stop at the first bad file.")] = False,
    is_public: Annotated[
        bool, typer.Option("--public", help="Leave out paths, users and hosts, for an archive that you publish (docs/security.md).")
    ] = False,
    on: Annotated[str, typer.Option(help="here, or slurm: shards as jobs of an array, then their union here.")] = "here",
    shards: Annotated[int, typer.Option(min=1, help="With --on slurm: how many jobs.")] = 8,
    ask: Annotated[str, typer.Option(help="With --on slurm, of each job: 'partition=cpu,time=60,cpus_per_task=4,mem=8G'")] = "",
) -> int:
    """Consolidate point files, campaigns and archives into one archive. Bad files are reported and skipped (exit code 1)."""
    from ..archive.selection import selection
    from ..archive.writer import left_by_killed, refuse_to_overwrite

    one_of("--raw", raw, ("keep", "summary"))
    _refuse_other_kind(output, (".h5", ".hdf5"), "name it .h5; `glm5bench export csv` and `glm5bench tables --format csv` write others")
    output = output.resolve()
    refuse_to_overwrite(output)
    one_of("--on", on, ("here", "slurm"))
    for left in left_by_killed(output):
        say(printable(f"{left} belongs to a killed merge, or to one that runs on another machine. Remove it if no merge is running."))
    sources = [*paths, str(output)] if output.exists() and not is_new else paths
    how = {"is_raw_kept": raw == "keep", "where": selection(where), "jobs": jobs, "strict": strict}
    _tell_empty(paths)
    _tell_foreign(paths)
    _tell_missing(paths)
    if is_public:
        if on == "slurm":
            raise UsageError("--public works here only, not with --on slurm.", next_step="leave --on out")
        return _publish(sources, output, how)
    if on == "slurm":
        from ..schedulers.slurm.merging import merge_on_slurm, parameters

        how |= {"shards": shards, "asked": parameters(ask)}
        return _tell_archive(output, lambda tick: merge_on_slurm(sources, output, progress=tick, **how))  # type: ignore[arg-type]
    return write_archive_of(sources, output, **how)


def _publish(sources: Sequence[str], output: Path, how: dict[str, Any]) -> int:
    """Merges into a temporary archive, and writes its points without names to the output."""
    from ..archive.public import publish
    from ..archive.union import merge as merged
    from ..schedulers.submissions import user

    is_raw_kept = how.pop("is_raw_kept")
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent) as folder:
        whole = Path(folder) / "whole.h5"
        with progress("merging") as tick:
            done = merged(sources, whole, progress=tick, **how)
        tell_bad(done.bad)
        code = _tell_archive(output, lambda tick: publish(whole, output, is_raw_kept=is_raw_kept, users=[user()]))
    say("Paths, users and hosts were replaced. Look at the logs in it before you publish it: a program can print anything.")
    return 1 if done.bad else code


def _tell_empty(paths: Sequence[str]) -> None:
    """Reports each path without a point file or archive."""
    from ..archive.collection import files

    for path in paths:
        if next(files([path]), None) is None:
            say(f"{path}: contains no point file and no archive")


def _refuse_other_kind(output: Path, kinds: Sequence[str], instead: str) -> None:
    """Raises UsageError if the name of the output promises another kind of file."""
    if output.suffix.lower() in OTHER_KINDS and output.suffix.lower() not in kinds:
        raise UsageError(f"-o {output}: this command does not write {output.suffix} files.", next_step=instead)


OTHER_KINDS = (".csv", ".json", ".jsonl", ".parquet", ".md", ".txt", ".pdf", ".png", ".svg", ".html", ".xlsx", ".h5", ".hdf5")


def _tell_missing(paths: Sequence[str]) -> None:
    """Reports the planned points without a measurement, for each path that is a campaign."""
    from ..campaign.status import unmeasured
    from ..directory import Campaign
    from ..errors import BenchError

    for path in paths:
        campaign = Campaign(Path(path).absolute())
        if not campaign.plan.is_file():
            continue
        try:
            n, missing = unmeasured(campaign)
        except BenchError as error:
            say(printable(str(error)))
            continue
        of: dict[str, list[int]] = {}
        for arm, concurrency in missing:
            of.setdefault(arm, []).append(concurrency)
        if missing:
            say(f"{path}: {len(missing)} of {n} planned points are not measured:")
            for arm, each in of.items():
                say(printable(f"  {arm}, concurrency {', '.join(map(str, dict.fromkeys(each)))}"))
            here = shlex.quote(path)
            say(f"next: `glm5bench resubmit {here}` measures what can be measured, and `glm5bench status {here}` says why they are missing")


def write_archive_of(paths: Sequence[str], output: Path, **how: Any) -> int:
    """Writes the union of the paths and reports its content. Exit code 1 for a bad file."""
    from ..archive.union import merge as merged

    return _tell_archive(output, lambda tick: merged(paths, output, progress=tick, **how))


def _tell_archive(output: Path, make: Callable[[Progress], Merged]) -> int:
    with progress("merging") as tick:
        done = make(tick)
    tell_bad(done.bad)
    if done.n_files:
        new = done.n_points - done.n_kept
        there = done.n_read - done.n_unselected - new
        words = [f"{new} new", *([f"{there} already there"] if there > 0 else [])]
        words += [f"{done.n_unselected} excluded by --where"] if done.n_unselected else []
        say(f"Read {counted(done.n_files, 'file')} with {counted(done.n_read, 'point')}: {', '.join(words)}.")
    tables = f" and {counted(done.n_tables, 'source table')}" if done.n_tables else ""
    say(f"{output}: {counted(done.n_points, 'point')}{tables}, digest {done.digest[:16]}.")
    return 1 if done.bad else 0


@app.command()
def check(
    paths: PATHS,
    digest: Annotated[bool, typer.Option(help="Print the digest of the whole set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    jobs: JOBS = 2,
) -> int:
    """Verify files, judge every point again from its raw times, and compare its stored figures with them.

    Exit code 1 if a file is bad, a point is invalid, or a figure does not follow from the raw times.
    """
    from ..archive.checking import check as checked

    with progress("checking") as tick:
        found = checked(paths, jobs=jobs, progress=tick)
    print(json.dumps(_checked(found), indent=1) if as_json else "\n".join(printable(line) for line in _lines(found)))
    if digest and not as_json:
        print(found.digest())
    if not as_json:
        tell_bad(found.bad)
    is_good = all(point.is_good for point in found.points.values())
    return max(_refuse_nothing(found, len(found.points), paths), 0 if is_good else 1)


def _lines(found: Check) -> list[str]:
    from ..analysis.rows import is_told

    lines = []
    for point in found.points.values():
        v = point.values
        words = " ".join([f"tp{v['tp']}", *filter(is_told, v["variant"].split())])
        what = f"{v['hardware']} {v['precision']} {words} concurrency {v['concurrency']}"
        lines.append(f"{point.verdict.validity:8} {v['source']:9} {v['key']} {what}")
        lines += [f"           {reason.code}: {reason.text}" for reason in point.verdict.reasons]
        lines += [f"           stored figure: {text}" for text in point.differing]
    return lines


def _checked(found: Check) -> dict[str, Any]:
    return {
        "digest": found.digest(),
        "points": [
            {
                **{name: point.values[name] for name in ("key", "digest", "source")},
                "origin": point.origin,
                "validity": point.verdict.validity,
                "reasons": [{"code": r.code, "text": r.text} for r in point.verdict.reasons],
                "has_raw": point.is_whole,
                "differing": list(point.differing),
            }
            for point in found.points.values()
        ],
        "bad": [{"path": e.path, "reason": e.message} for e in found.bad],
    }


@app.command()
def tables(
    paths: PATHS,
    format_: Annotated[str, typer.Option("--format", help="text: for this terminal. Complete: md, csv, json or latex.")] = "text",
    at: AT = "",
    interpolation: INTERPOLATION = "steffen",
    price: PRICE = "hyperscaler",
    baseline: BASELINE = "",
    only: Annotated[
        str, typer.Option("--table", help="points, frontier, arms, iso, bands, saturation, speculation, energy, startup or sessions.")
    ] = "",
    token_prices: TOKEN_PRICES = "",
    is_all: Annotated[bool, typer.Option("--all", help="Every table, and a plot of the frontiers.")] = False,
    startup: Annotated[bool, typer.Option(help="With md or latex: also what server starts take (seconds, memory, dollars).")] = False,
) -> int:
    """Cost at equal interactivity and the frontier of any files (`published` is what ships); --all and --table print the rest."""
    from ..settings.prices import price_table

    return tables_of(
        paths,
        price=price_table(price),
        format_=format_,
        at=at,
        interpolation=interpolation,
        baseline=baseline,
        only=only,
        is_all=is_all,
        startup=startup,
        weights=token_weights(token_prices),
    )


def tables_of(
    paths: list[str],
    *,
    price: Price,
    format_: str = "text",
    at: str = "",
    interpolation: str = "steffen",
    baseline: str = "",
    only: str = "",
    is_all: bool = False,
    startup: bool = False,
    weights: tuple[float, float] | None = None,
) -> int:
    """Prints the tables of the paths."""
    from ..report import readable, screen
    from ..report import tables as report
    from .planned import planned_limit

    width = max(60, shutil.get_terminal_size((100, 60)).columns)
    writers: dict[str, Callable[[report.Tables], str]] = {
        "text": lambda t: screen.one_table(t, only, width=width) if only else screen.as_screen(t, width=width, is_whole=is_all),
        "md": readable.as_markdown, "csv": report.as_csv, "json": report.as_json, "latex": readable.as_latex
    }  # fmt: skip
    one_of("--format", format_, writers)
    one_of("--table", only or "points", report.NAMES)
    gc.disable()  # a hundred thousand rows of plain values, and no cycle among them
    collected, compare = gathered(paths, price, at=at, interpolation=interpolation, baseline=baseline, weights=weights)
    is_long = format_ in ("csv", "json") or not compare.fronts or only == "points"
    made = report.tables(
        compare,
        price_id=price.id,
        method=interpolation,
        most_points=math.inf if is_long else readable.READABLE,
        planned_limit=planned_limit,
    )
    if format_ in ("md", "latex") and not startup and only != "startup":
        made = report.without(made, "startup")
    if is_all and format_ == "text" and sys.stdout.isatty():
        from ..report.terminal import frontier_plot

        plot = frontier_plot(compare.fronts, width, sys.stdout.encoding)
        print(f"{plot}\n\n" if plot else "", end="")
    print(writers[format_](report.only(made, only) if only else made), end="\n" * (format_ == "json"))
    _tell_foreign(paths)
    tell_bad(collected.bad)
    return _refuse_nothing(collected, len(collected.rows), paths)


def _tell_foreign(paths: Sequence[str]) -> None:
    """States that the figures of other users' files were not recomputed."""
    from ..archive.collection import files
    from ..archive.writer import PUBLISHED

    owners = set()
    for file in files(paths):
        with contextlib.suppress(OSError):  # a circular link, or a file that has just been removed: reading it will report it
            owners |= {os.stat(file).st_uid} if file != PUBLISHED else set()
    if owners - {os.geteuid()}:
        command = f"`glm5bench check {shlex.join(paths)}`"
        say(f"note: some of these files belong to other users. Their figures are as stored; {command} recomputes them.")


def gathered(
    paths: Sequence[str],
    price: Price,
    *,
    at: str,
    interpolation: str,
    baseline: str,
    weights: tuple[float, float] | None = None,
) -> tuple[Collected, Comparison]:
    """What the paths hold, and what it says at these prices. Raises UsageError for a path or an option that is none."""
    from ..analysis.comparison import PUBLISHED_GRID, compared
    from ..analysis.cost import Economy
    from ..analysis.interpolation import METHODS
    from ..archive.collection import collect
    from ..settings.prices import power_table, refuse_gaps

    one_of("--interpolation", interpolation, METHODS)
    grid = numbers("--at", at) if at else PUBLISHED_GRID
    found = collect(paths)
    refuse_gaps(price, {r.series.hardware for r in found.rows.values() if r.series.source != "simulated"})
    economy = Economy(price.usd_per_gpu_h, power_table(), weights or price.weights)
    return found, compared(list(found.rows.values()), economy, at=grid, method=interpolation, baseline=baseline)


def _refuse_nothing(found: Found, n_points: int, paths: Sequence[str]) -> int:
    from ..archive.collection import no_point

    if not n_points:
        say(str(no_point(", ".join(paths))))
    return 1 if found.bad or not n_points else 0
