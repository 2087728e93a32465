"""Everything that is shown of points, as flat rows with units in their names, and these as JSON and CSV. Here ms and $/Mtok begin.

Every row says its source, and a simulated one its time scale too. What a row does not know is None.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..analysis.comparison import MOST_WITH_INTERVALS, Comparison, arm_frontiers, bands
from ..analysis.rows import Row, Series, names, series_order, split_gpus, spread_of
from ..analysis.saturation import saturations
from ..analysis.speculation import engines_with_acceptance, gains
from ..analysis.startups import startups
from ..prediction import BANDS, error_text
from .records import FAILED, band_row, energy_row, frontier_row, gain_row, iso_row, point_row, saturation_row, session_row, startup_row
from .titles import session_titles


@dataclass(frozen=True)
class Tables:
    """Everything that `tables` prints, as rows of plain values."""

    points: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    arms: list[dict[str, Any]]
    iso: list[dict[str, Any]]
    bands: list[dict[str, Any]]
    saturation: list[dict[str, Any]]
    speculation: list[dict[str, Any]]
    energy: list[dict[str, Any]]
    startup: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    notes: list[str]
    price_id: str
    prices: dict[str, float | None]  # $ per GPU and hour, of the hardware that is shown
    method: str
    n_points: int  # also where their rows were not made


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet would calculate such a text
NAMES = ("points", "frontier", "arms", "iso", "bands", "saturation", "speculation", "energy", "startup", "sessions")


def tables(
    c: Comparison, *, price_id: str, method: str, most_points: float = math.inf, planned_limit: Callable[[Row], str] | None = None
) -> Tables:
    """Flat rows, the same in every format: docs/json.md. Of more points than `most_points` there are no rows of points.

    `planned_limit`: what would hold a point back by its plan, for the table of saturation.
    """
    failed = accuracy_failed(c)
    named = names([*c.grouped, *(r.series for r in c.rows)])
    on_curves = {s for s, tp in failed if any(r.tp == tp for r in c.fronts.get(s, ()))}
    each_tp = arm_frontiers(c.grouped)
    drawn = {id(r): r for fronts in (c.fronts, each_tp) for rows in fronts.values() for r in rows}
    in_order = (
        []
        if len(c.rows) > most_points
        else sorted(c.rows, key=lambda r: (*series_order(r.series), r.tp, r.concurrency, r.seed, r.repeat, r.digest))
    )
    return Tables(
        points=[point_row(r, c.economy, named) for r in in_order],
        frontier=[frontier_row(r, c.economy, named) for members in c.fronts.values() for r in members],
        arms=[frontier_row(r, c.economy, named) for members in each_tp.values() for r in members],
        iso=[iso_row(r, named) | _mark(r.series in on_curves) for r in c.iso],
        bands=[band_row(b, named) | _mark(b.series in on_curves) for b in bands(c.iso, c.fronts)],
        saturation=[saturation_row(s, named) | _mark((s.series, s.tp) in failed) for s in saturations(c.grouped, planned_limit)],
        speculation=[gain_row(g, named) | _mark(g.series in on_curves) for g in gains(c.iso, c.fronts)],
        energy=[
            energy_row(r, c.economy, named) | _mark((r.series, r.tp) in failed)
            for r in drawn.values()
            if math.isfinite(r.of("gpu_power_w"))
        ],
        startup=[startup_row(s, c.economy, named) | _mark((s.series, s.tp) in failed) for s in startups(c.rows)],
        sessions=_sessions(c, named, failed),
        notes=notes(c),
        price_id=price_id,
        prices={h: c.economy.usd_per_gpu_h.get(h) for h in sorted({r.series.hardware for r in c.rows})},
        method=method,
        n_points=len(c.rows),
    )


def _sessions(c: Comparison, named: Mapping[Series, str], failed: Container[tuple[Series, int]]) -> list[dict[str, Any]]:
    rows = [session_row(r, c.economy, named) | _mark((r.series, r.tp) in failed) for r in c.sessions]
    return [{**row, "system": title + (FAILED if row["accuracy"] else "")} for row, title in zip(rows, session_titles(rows), strict=True)]


def accuracy_failed(c: Comparison) -> dict[tuple[Series, int], float]:
    """The arms that answered too few questions right, invalid points counted too, and their lowest share of right answers."""
    found: dict[tuple[Series, int], float] = {}
    for r in c.rows:
        if "accuracy_failed" in r.reasons:
            scores = [s for s in (r.of("accuracy_strict"), r.of("accuracy_flexible")) if math.isfinite(s)]
            found[r.series, r.tp] = min([*scores, found.get((r.series, r.tp), 1.0)])
    return found


def _mark(is_failed: bool) -> dict[str, str | None]:
    return {"accuracy": "failed" if is_failed else None}


def notes(c: Comparison) -> list[str]:
    """What a reader must know before the first figure."""
    said = []
    series = {r.series for r in c.rows}
    sources = sorted({s.source for s in series})
    if len(sources) > 1:
        said.append(f"these are {' and '.join(sources)} points side by side; a ratio is only of points of one source")
    if "simulated" in sources:
        scale = ", ".join(f"{s:g}" for s in sorted({s.time_scale for s in series if s.time_scale}))
        said.append(f"simulated: a model's figures at time scale {scale}, in simulated time; nothing of them was measured on a GPU")
        rows = [r for r in c.rows if r.series.source == "simulated"]
        is_other = any(spread_of(r.series.variant) or split_gpus(r.series.variant) or r.nodes > 1 for r in rows)
        said.append(f"the model's error in throughput: {error_text([*BANDS, *(['other parallelism'] if is_other else [])])}")
    if c.sessions and c.economy.weights is not None:
        cached, output = c.economy.weights
        said.append(f"$/M weighted: a computed prompt token counts 1, a cached one {cached:.3g}, an output token {output:.3g}")
    engines = engines_with_acceptance(c.fronts)
    if len(engines) > 1:
        said.append(f"acceptance lengths of {' and '.join(engines)} are not comparable: each engine counts its own steps")
    for (s, tp), score in sorted(accuracy_failed(c).items(), key=lambda arm: (*series_order(arm[0][0]), arm[0][1])):
        said.append(f"{s.label} at TP {tp} failed its accuracy gate: {score:.3f} of the answers are right")
    if not c.has_intervals:
        said.append(
            f"iso cells have no intervals: there are more than {MOST_WITH_INTERVALS:,} configurations; a merge --where of some has them"
        )
    return said


def as_json(t: Tables) -> str:
    """One object, a list of rows for each of NAMES, a row a line; and `notes`."""
    parts = [f'"{name}": [{_json_lines(getattr(t, name))}]' for name in NAMES]
    prices = {"id": t.price_id, "usd_per_gpu_h": t.prices}
    return "{" + ",\n".join([*parts, f'"prices": {json.dumps(prices)}', f'"notes": {json.dumps(t.notes)}']) + "}"


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n" + ",\n".join(msgspec.json.encode(row).decode() for row in rows) + "\n" if rows else ""


def as_csv(t: Tables) -> str:
    """The tables one after another, each under a line with its name; one alone has no such line."""
    out = io.StringIO()
    sections = [(name, getattr(t, name)) for name in NAMES if getattr(t, name)]
    for i, (name, rows) in enumerate(sections):
        if len(sections) > 1:
            out.write(("\n" if i else "") + f"# {name}\n")
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for name, v in row.items()} for row in rows)
    return out.getvalue()


def only(t: Tables, name: str) -> Tables:
    """One of the tables alone."""
    return without(t, *(n for n in NAMES if n != name))


def without(t: Tables, *names: str) -> Tables:
    """The tables but for these."""
    dropped: dict[str, Any] = {name: [] for name in names}
    return dataclasses.replace(t, **dropped)
