"""The commands report and diff."""

from __future__ import annotations

import atexit
import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileError, UsageError
from .app import app, one_of, say, tell_bad
from .archives import BASELINE, INTERPOLATION, PATHS, PRICE, gathered

if TYPE_CHECKING:
    from ..analysis.comparison import Comparison
    from ..analysis.limits import Facts
    from ..analysis.rows import Row, Series
    from ..archive.measurement import Measurement
    from ..report.page import Beside, Detail
    from ..values.settings import Price

MOST_DETAILS = 400  # points whose raw times are read for the page
FIGURES = ("png", "svg", "pdf")


@app.command()
def report(
    paths: PATHS,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page; with --format the folder of the figures.")],
    format_: Annotated[str, typer.Option("--format", help="html, or figures for a paper: png,svg,pdf")] = "html",
    title: Annotated[str, typer.Option(help="Title of the page.")] = "",
    at: Annotated[str, typer.Option(help="More stops of the slider, tok/s/user: 25,30,40")] = "",
    interpolation: INTERPOLATION = "steffen",
    price: PRICE = "hyperscaler",
    baseline: BASELINE = "",
) -> int:
    """Write one self-contained page with plots, tables and provenance of any files, or their figures as pictures."""
    from ..archive.collection import no_point
    from ..files import write_text
    from ..settings.prices import price_table

    wanted = [word.strip() for word in format_.split(",") if word.strip()]
    for word in wanted or [""]:
        one_of("--format", word, ("html", *FIGURES))
    if "html" in wanted and len(wanted) > 1:
        raise UsageError("--format html cannot be combined: -o is a page for html and a folder for pictures.", next_step="run it twice")
    _refuse_to_overwrite(output, is_page="html" in wanted)
    prices = price_table(price)
    found, made = gathered(paths, prices, at=at, interpolation=interpolation, baseline=baseline)
    if not found.rows:
        tell_bad(found.bad)
        raise no_point(", ".join(paths))
    if "html" not in wanted:
        _give_matplotlib_a_directory()
        from ..report.figures import write_figures

        for path in write_figures(made, output, wanted, price_id=prices.id):
            print(path)
    else:
        from ..report.page import page

        beside = _beside(made, paths, prices, interpolation, title or f"glm5bench: {', '.join(paths)}", found.tables.values(), found.bad)
        write_text(output, page(made, beside, asked=made.at))
        print(output)
    tell_bad(found.bad)
    return 1 if found.bad else 0


def _give_matplotlib_a_directory() -> None:
    """A temporary one for its settings and fonts if HOME cannot be written. Otherwise it prints long warnings."""
    home = os.environ.get("MPLCONFIGDIR") or os.environ.get("XDG_CONFIG_HOME") or str(Path.home())
    try:
        tempfile.TemporaryFile(dir=home).close()
    except OSError:
        folder = tempfile.mkdtemp(prefix="glm5bench-matplotlib-")
        os.environ["MPLCONFIGDIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _refuse_to_overwrite(output: Path, *, is_page: bool) -> None:
    """Raises UsageError if the path is something else than what would be written, for example an archive."""
    if not output.exists():
        return
    if not is_page:
        if not output.is_dir():
            raise UsageError(f"{output} is a file, but the figures need a folder.", next_step="give -o another name")
    elif output.is_dir() or (output.stat().st_size and not output.read_bytes()[:64].lstrip().lower().startswith(b"<!doctype html")):
        what = "a directory" if output.is_dir() else "not a report page"
        raise UsageError(f"{output} is {what}, so it is not overwritten.", next_step="give -o another name")


def _beside(
    made: Comparison, paths: Sequence[str], prices: Price, method: str, title: str, tables: Any, bad: Sequence[FileError]
) -> Beside:
    from .. import __version__
    from ..analysis.limits import bounds_of, limits_of, specifications
    from ..report.page import Beside
    from .planned import planned_limit

    facts = _known_facts(made.fronts)
    bases = {r.series.workload: r.series for r in made.iso if r.is_baseline}
    drawn = {s.hardware for s in made.fronts}
    return Beside(
        title=title,
        prices=_price_sets(prices),
        price_id=prices.id,
        method=method,
        made_utc=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        details=_details(made, paths),
        limits=limits_of(made.fronts, facts),
        bounds=bounds_of(made.fronts, bases, facts.hardware, made.economy.usd_per_gpu_h),
        specifications={name: values for name, values in specifications(list(facts.hardware.values())).items() if name in drawn},
        source_tables=[(t.name, t.rows) for t in tables],
        searches=_searches(paths, prices),
        bad=[(e.path, e.message) for e in bad],
        planned_limit=planned_limit,
    )


def _searches(paths: Sequence[str], prices: Price) -> list[dict[str, Any]]:
    """The answers of the campaigns among the paths that have a search, over a fine grid of their band."""
    from ..campaign.searching import search_of
    from ..directory import Campaign
    from .answer import told_of

    found = []
    for path in paths:
        campaign = Campaign(Path(path).absolute())
        if campaign.plan.is_file() and (search := search_of(campaign, campaign.read_plan())) is not None:
            q = search.question
            grid = [q.low * (q.high / q.low) ** (i / 24) for i in range(25)] if not q.limits else []
            found.append(told_of(campaign, prices, ",".join(f"{x:.4g}" for x in grid)))
    return found


def _price_sets(chosen: Price) -> dict[str, Mapping[str, float | None]]:
    from ..settings.prices import price_table
    from ..settings.validated import group_values

    shipped = {name: price_table(name) for name in group_values("price")}
    sets = {name: p.usd_per_gpu_h for name, p in shipped.items() if any(v is not None for v in p.usd_per_gpu_h.values())}
    return {**sets, chosen.id: chosen.usd_per_gpu_h}


def _known_facts(fronts: Iterable[Series]) -> Facts:
    """The facts of conf/ about the hardware, the checkpoints and the speculative settings of the series."""
    from ..analysis.limits import Facts
    from ..settings.overrides import compose
    from ..settings.prices import fact_table
    from ..settings.validated import group_values

    id_of = {repository: id_ for id_, repository in fact_table("checkpoint", "repository").items()}
    checkpoints = {s.checkpoint: id_of[s.checkpoint] for s in fronts if s.checkpoint in id_of}
    return Facts(
        hardware={name: compose(f"hardware={name}").arm.hardware for name in group_values("hardware")},
        arms={name: compose(f"checkpoint={id_}").arm for name, id_ in checkpoints.items()},
        speculative={name: compose(f"speculative={name}").arm.speculative for name in fact_table("speculative", "id")},
    )


def _details(made: Comparison, paths: Sequence[str]) -> dict[str, Detail]:
    """Command line and times of the frontiers' points, of each configuration the first run."""
    from ..archive.points import each_made
    from ..report.page import Detail, detail

    shown = [r for rows in made.fronts.values() for r in rows] + list(made.sessions)
    wanted = list(dict.fromkeys(r.digest for r in shown if r.series.source != "published"))
    if len(wanted) > MOST_DETAILS:
        say(f"{len(wanted)} points are on frontiers or of agent sessions. The page has command lines and times of {MOST_DETAILS} of them.")

    def told(m: Measurement) -> Detail:
        command, figures = shlex.join(map(str, m.provenance.get("argv", ()))), m.session_figures()
        if m.requests is None:
            return Detail(command)
        plays = m.requests.plays if figures is not None and math.isfinite(figures.hit_share) else None
        return detail(m.requests, m.telemetry, command, m.time_scale, from_due=m.is_open_loop, plays=plays)

    found: dict[str, Detail] = {}
    for digest, each in each_made(paths, wanted[:MOST_DETAILS], told):
        if isinstance(each, FileError):
            say(str(each))
        else:
            found[digest] = each
    return found


def _settings_of(paths: Sequence[str], rows: Sequence[Row]) -> list[dict[str, str]]:
    """The recorded settings of one point of each arm and concurrency."""
    from ..analysis.difference import settings_told
    from ..archive.points import each_made

    one_each = {(r.series, r.tp, r.concurrency): r.digest for r in rows if r.series.source != "published"}
    made = each_made(paths, list(one_each.values())[:MOST_DETAILS], lambda m: settings_told(m.point))
    return [told for _, told in made if not isinstance(told, FileError)]


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Before: a point file, campaign, archive, folder, or pattern.")],
    b: Annotated[str, typer.Argument(help="After.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Changes up to this share count as the same.")] = 0.02,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Settings that differ between A and B, and points that got better or worse. Exit code 1 if one got worse. docs/intervals.md"""
    from ..analysis.difference import difference, differing
    from ..archive.collection import collect, no_point
    from ..report.differing import as_plain, as_words

    if not math.isfinite(tolerance):
        raise UsageError(f"--tolerance {tolerance} is not a valid share.", next_step="--tolerance 0.02")
    sides = [collect([path]) for path in (a, b)]
    for path, side in zip((a, b), sides, strict=True):
        if not side.rows:
            tell_bad(side.bad)
            raise no_point(path)
    rows = [list(side.rows.values()) for side in sides]
    found = difference(*rows, tolerance=tolerance)
    compared = [[c.a for c in found.changes], [c.b for c in found.changes]] if found.changes else rows
    more = differing(*(_settings_of([path], of) for path, of in zip((a, b), compared, strict=True)))
    kept = [s for s in found.settings if not more or s.name not in ("requests", "variant")]  # which `more` says in detail
    found = replace(found, settings=(*kept, *more))
    print(json.dumps(as_plain(found), indent=1) if json_ else as_words(found, tolerance=tolerance))
    for side in sides:
        tell_bad(side.bad)
    if not found.changes:
        say("No point of A is in B, so nothing can be compared.")
    return 1 if not found.changes or found.is_worse or any(side.bad for side in sides) else 0
