"""Compares the frontiers of several series: the cost of each at the same interactivity, and the steps that a ratio of costs consists of.

Input: rows, one per point. Output: frontier rows, iso rows and steps. A series is the data of one curve: one source, hardware, engine,
checkpoint, precision, speculative setting and workload. All its TPs form one frontier. Prices and power are passed in as tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .cost import Economy, usd_per_mtok
from .frontier import frontier
from .interpolation import interpolated
from .repeats import Interval, configurations
from .resampling import Bounds, bounds, ratio_interval
from .rows import Row, Series, names, series_order, with_protocols
from .steps import Curve, Curves, Step, steps

PUBLISHED_GRID = (25.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 84.0, 100.0, 120.0, 140.0)  # the grid of the published table of 2026-05-25
MOST_WITH_INTERVALS = 5000  # configurations
MEASURED = ("measured", "interpolated")
Group = TypeVar("Group")


@dataclass(frozen=True)
class Band:
    """The range of a series' cost ratio to its baseline. From, to: where both were measured; the rest: over the table's grid."""

    series: Series
    baseline: Series
    peak: float
    peak_at_tok_s_user: float
    low: float
    high: float
    from_tok_s_user: float
    to_tok_s_user: float


@dataclass(frozen=True)
class IsoRow:
    """One series at one interactivity; NaN outside the measured range.

    status is one of:

    - measured, or interpolated
    - `not measured`: a concurrency outside the measured range would reach it
    - `not reached`: even a single user is slower
    - `no gain`: it was measured, but a point with higher interactivity also has more throughput

    `beyond` names the concurrency or interactivity at which the measured range ends.
    """

    series: Series
    interactivity_tok_s_user: float
    cost_usd_per_mtok: float
    total_tput_per_gpu_tok_s: float
    tput_per_mw_tok_s: float
    concurrency: float
    status: str
    perf_per_dollar_vs_baseline: float
    baseline: Series | None
    is_baseline: bool
    steps: tuple[Step, ...]  # their product is the whole ratio
    break_even_usd_per_gpu_h: float = float("nan")  # the GPU price at which it would cost as much as the baseline
    nearest: Row | None = None  # the measured frontier point with the nearest interactivity
    beyond: str = ""
    node_cost_usd_per_mtok: float = float("nan")  # including the cost of the node's idle GPUs; NaN: none are idle
    node_perf_per_dollar_vs_baseline: float = float("nan")  # both including idle GPUs; NaN: neither leaves GPUs idle
    cost_interval: Interval | None = None
    throughput_interval: Interval | None = None
    ratio_interval: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """All results for a set of rows."""

    rows: Sequence[Row]
    grouped: Mapping[Series, Sequence[Row]]
    fronts: Mapping[Series, Sequence[Row]]
    iso: Sequence[IsoRow]
    economy: Economy
    at: Sequence[float]  # interactivities of the iso table, tok/s/user
    has_intervals: bool  # in the iso table; left out for very many configurations, because resampling is slow
    sessions: Sequence[Row] = ()  # configurations of agent sessions, which are on no frontier


def compared(
    rows: Sequence[Row],
    economy: Economy,
    *,
    at: Sequence[float],
    method: str,
    baseline: str = "",
    is_baseline: Callable[[Series], bool] | None = None,
) -> Comparison:
    """The comparison with the series that the words in `baseline` name, or that `is_baseline` selects.

    Raises UsageError if the words name no series, or several series of one workload.
    """
    rows = with_protocols(rows)
    grouped = by_series(rows)
    fronts = frontiers(grouped)
    is_baseline = is_baseline or named(baseline, list(fronts))
    has_intervals = sum(map(len, grouped.values())) <= MOST_WITH_INTERVALS
    iso = iso_table(fronts, economy, at=at, method=method, is_baseline=is_baseline, grouped=grouped, has_intervals=has_intervals)
    return Comparison(rows, grouped, fronts, iso, economy, at, has_intervals, of_sessions(rows))


def of_sessions(rows: Sequence[Row]) -> list[Row]:
    """The configurations of agent sessions: repeats as their mean, invalid points left out."""
    order = sorted(
        (r for r in rows if r.series.has_sessions), key=lambda r: (*series_order(r.series), r.tp, r.concurrency, r.key, r.digest)
    )
    return configurations(order)


def by_series(rows: Sequence[Row]) -> dict[Series, list[Row]]:
    """The configurations of each series: repeats as their mean; invalid points and agent sessions left out. Any order of rows."""
    grouped: dict[Series, list[Row]] = {}
    without_sessions = (r for r in rows if not r.series.has_sessions)
    for row in configurations(sorted(without_sessions, key=lambda r: (r.tp, r.concurrency, r.key, r.digest))):
        grouped.setdefault(row.series, []).append(row)
    return {series: grouped[series] for series in sorted(grouped, key=series_order)}


def frontiers(grouped: Mapping[Group, Sequence[Row]]) -> dict[Group, list[Row]]:
    """The frontier of each group of rows, by rising interactivity; groups without a frontier are left out."""
    fronts = {}
    for series, members in grouped.items():
        x = np.array([r.interactivity_tok_s_user for r in members])
        kept = frontier(x, np.array([r.total_tput_per_gpu_tok_s for r in members]))
        if len(kept):
            fronts[series] = [members[i] for i in kept]
    return fronts


def arm_frontiers(grouped: Mapping[Series, Sequence[Row]]) -> dict[tuple[Series, int], list[Row]]:
    """The frontier of each arm (one TP), for series with several TPs. Series with one TP are left out: their frontier is the arm's."""
    arms: dict[Series, dict[Any, list[Row]]] = {}
    for series, rows in grouped.items():
        tps = sorted({r.tp for r in rows})
        if len(tps) > 1:
            arms[series] = {tp: [r for r in rows if r.tp == tp] for tp in tps}
    return {(series, tp): kept for series, of in arms.items() for tp, kept in frontiers(of).items()}


def iso_table(
    fronts: Mapping[Series, Sequence[Row]],
    economy: Economy,
    *,
    at: Sequence[float] = PUBLISHED_GRID,
    method: str = "steffen",
    is_baseline: Callable[[Series], bool] | None = None,
    grouped: Mapping[Series, Sequence[Row]] | None = None,
    has_intervals: bool = True,
) -> list[IsoRow]:
    """Every series at every interactivity. The baseline of a workload is the requested one, else the first series of the cheapest GPU.

    `grouped`: the configurations of each series, from `by_series`. Without it there are no intervals, and points that are not on the
    frontier do not count.
    """
    grid = np.array(at, dtype=np.float64)
    curves = Curves({s: _curve(rows, (grouped or fronts).get(s, rows), economy, grid, method) for s, rows in fronts.items()})
    known = {s: bounds(grouped[s], grid, method) for s in curves} if grouped is not None and has_intervals else {}
    bases = {workload: _baseline(peers, economy, is_baseline) for workload, peers in curves.peers.items()}
    table = []
    for series in curves:
        base = bases[series.workload]
        own, other = known.get(series), known.get(base) if base is not None and base != series else None
        table += [_iso_row(series, base, curves, fronts[series], own, other, i, x) for i, x in enumerate(grid.tolist())]
    return table


def _iso_row(
    series: Series, base: Series | None, curves: Curves, front: Sequence[Row], own: Bounds | None, other: Bounds | None, i: int, x: float
) -> IsoRow:
    """A series at the i-th interactivity of the grid. `own`, `other`: bounds of its curve, and of another baseline's."""
    curve, against = curves[series], curves[base] if base is not None else None
    cost, unit_cost, throughput = (float(of[i]) for of in (curve.cost, curve.unit_cost, curve.throughput))
    base_cost = float(against.cost[i]) if against is not None else float("nan")
    interval = own.interval(throughput, i) if own is not None else None
    return IsoRow(
        series, x, cost, throughput, float(curve.per_mw[i]), float(curve.concurrency[i]), curve.status[i], base_cost / cost, base,
        series == base,
        steps(base, series, curves, i) if base is not None else (),
        break_even_usd_per_gpu_h=base_cost / unit_cost,
        nearest=min(front, key=lambda r: abs(r.interactivity_tok_s_user - x)) if curve.status[i] in MEASURED else None,
        beyond=curve.beyond[i],
        node_cost_usd_per_mtok=float(curve.node_cost[i]) if curve.has_idle_gpus else float("nan"),
        node_perf_per_dollar_vs_baseline=_node_ratio(against, curve, i),
        cost_interval=_cost_interval(interval, cost * throughput),
        throughput_interval=interval,
        ratio_interval=ratio_interval(own, other, base_cost / cost, i) if own and other else None,
    )  # fmt: skip


def _cost_interval(throughput: Interval | None, cost_times_throughput: float) -> Interval | None:
    """The costs at the two bounds of a throughput."""
    if throughput is None or not np.isfinite(cost_times_throughput):
        return None
    low, high = (cost_times_throughput / t if t > 0 else float("inf") for t in (throughput.high, throughput.low))
    return Interval(low, high, throughput.level)


def _node_ratio(against: Curve | None, curve: Curve, i: int) -> float:
    if against is None or not (against.has_idle_gpus or curve.has_idle_gpus):
        return float("nan")
    return float(against.node_cost[i] / curve.node_cost[i])


def bands(iso: Sequence[IsoRow], fronts: Mapping[Series, Sequence[Row]]) -> list[Band]:
    """The bands of every series against the baseline, and of pairs that differ only in the hardware; only where a ratio is defined."""
    costs: dict[Series, dict[float, float]] = {}
    for r in iso:
        if np.isfinite(r.cost_usd_per_mtok):
            costs.setdefault(r.series, {})[r.interactivity_tok_s_user] = r.cost_usd_per_mtok
    bases = {r.series.workload: r.series for r in iso if r.is_baseline}
    found = [_band(s, bases[s.workload], costs, fronts) for s in costs if s.workload in bases and s != bases[s.workload]]
    alike: dict[tuple[object, ...], list[Series]] = {}
    for s in costs:
        if s not in bases.values():
            alike.setdefault((s.workload, s.engine, s.precision, s.speculative), []).append(s)
    pairs = (pair for of in alike.values() for pair in itertools.combinations(of, 2) if pair[0].hardware != pair[1].hardware)
    found += [_band(series, base, costs, fronts) for base, series in pairs]
    return [band for band in found if band is not None]


def _band(
    series: Series, base: Series, costs: Mapping[Series, Mapping[float, float]], fronts: Mapping[Series, Sequence[Row]]
) -> Band | None:
    own, other = costs[series], costs.get(base, {})
    ratios = [(other[x] / own[x], x) for x in own if x in other]
    if not ratios:
        return None
    (own_from, own_to), (from_, to) = (_reach(fronts[s]) for s in (series, base))
    peak, at = max(ratios)
    return Band(series, base, peak, at, min(ratios)[0], peak, max(own_from, from_), min(own_to, to))


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    return rows[0].interactivity_tok_s_user, rows[-1].interactivity_tok_s_user


def _curve(rows: Sequence[Row], measured: Sequence[Row], economy: Economy, grid: NDArray[np.float64], method: str) -> Curve:
    x = np.array([r.interactivity_tok_s_user for r in rows])

    def on_grid(quantity: Callable[[Row], float]) -> NDArray[np.float64]:
        return interpolated(x, np.array([quantity(r) for r in rows], dtype=np.float64), grid, method)

    hardware, unit_cost = rows[0].series.hardware, on_grid(lambda r: usd_per_mtok(1.0, r.total_tput_per_gpu_tok_s))
    throughput = 1e6 / 3600 / unit_cost
    price, power = economy.usd_per_gpu_h.get(hardware), economy.power_kw.get(hardware)
    each = [_status(rows, measured, float(g)) for g in grid]
    return Curve(
        unit_cost * (price if price is not None else np.nan),
        unit_cost,
        throughput,
        throughput / power * 1000.0 if power else np.full(len(grid), np.nan),
        throughput * on_grid(lambda r: r.concurrency / r.total_tput_per_gpu_tok_s if r.concurrency >= 0 else float("nan")),
        _node_costs(measured, economy, grid, method),
        any(r.gpus_per_node > r.gpus > 0 for r in rows),
        [status for status, _ in each],
        [beyond for _, beyond in each],
        [{"tp": frozenset(r.tp for r in _beside(rows, g))} for g in grid],
    )


def _node_costs(measured: Sequence[Row], economy: Economy, grid: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """The lowest cost of whole nodes at each interactivity, over all points and over those of each TP alone.

    If idle GPUs are paid for, other points are on the frontier than without them.
    """
    known = [r for r in measured if np.isfinite(economy.node_cost(r)) and economy.node_cost(r) > 0]
    lowest = np.full(len(grid), np.nan)
    for rows in (known, *([r for r in known if r.tp == tp] for tp in sorted({r.tp for r in known}))):
        x, cost = np.array([r.interactivity_tok_s_user for r in rows]), np.array([economy.node_cost(r) for r in rows])
        kept = frontier(x, 1 / cost)
        lowest = np.fmin(lowest, interpolated(x[kept], cost[kept], grid, method))
    return lowest


def _status(front: Sequence[Row], measured: Sequence[Row], at: float) -> tuple[str, str]:
    """The status of an interactivity, and the concurrencies outside the frontier that would reach it. `measured`: also dominated points."""
    x = [r.interactivity_tok_s_user for r in front]
    if x[0] <= at <= x[-1]:
        return ("measured" if at in x else "interpolated"), ""
    users = [r.concurrency for r in measured if r.concurrency > 0]
    if at < x[0] and any(r.interactivity_tok_s_user <= at for r in measured):
        return "no gain", f"below {x[0]:.1f} tok/s/user"
    if at > x[-1]:
        return ("not reached", "") if not users or min(users) == 1 else ("not measured", f"below concurrency {min(users)}")
    return "not measured", f"above concurrency {max(users)}" if users else ""


def _beside(rows: Sequence[Row], at: float) -> Sequence[Row]:
    """The nearest measured points on both sides of an interactivity."""
    below = [r for r in rows if r.interactivity_tok_s_user <= at][-1:]
    return [*below, *[r for r in rows if r.interactivity_tok_s_user >= at][:1]]


def _baseline(peers: Sequence[Series], economy: Economy, is_baseline: Callable[[Series], bool] | None) -> Series | None:
    if is_baseline is not None:
        return next((s for s in peers if is_baseline(s)), None)
    return min(peers, key=lambda s: (economy.usd_per_gpu_h.get(s.hardware, None) or float("inf"), series_order(s)))


def named(words: str, series: Sequence[Series]) -> Callable[[Series], bool] | None:
    """A function that tests whether a series matches all the words, one series per workload; None if there are no words.

    Raises UsageError if no series, or several of one workload, match.
    """
    if not words:
        return None
    wanted, of = set(words.lower().split()), names(series)

    def matches(s: Series) -> bool:
        told = {s.source, s.hardware, s.engine, s.engine_version, s.precision, s.speculative}
        return wanted <= told | {word for text in (s.checkpoint, s.image, s.protocol, s.variant, of[s]) for word in text.lower().split()}

    found = [s for s in series if matches(s)]
    if not found or len(found) != len({s.workload for s in found}):
        what = f"matches {len(found)} series, but each workload has one baseline" if found else "matches no series"
        labels = sorted({*of.values()})
        raise UsageError(f"--baseline {words!r} {what}.", next_step=f"use one of {', '.join(labels)}")
    return matches
