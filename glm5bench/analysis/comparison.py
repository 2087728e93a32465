"""Frontiers of several series side by side: at the same interactivity, what each costs, and how a ratio of costs splits into steps.

Enters: rows, one a point. Leaves: frontier rows, iso rows and steps. A series is what one curve is drawn of: one source, hardware,
engine, checkpoint, precision, speculative setting and workload; its TPs form one frontier. Prices and power come in as tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .cost import node_usd_per_mtok, tput_per_mw_tok_s, usd_per_mtok
from .frontier import frontier
from .interpolation import interpolated

PUBLISHED_GRID = (25.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 84.0, 100.0, 120.0, 140.0)  # of the table of 2026-05-25
STEP_ORDER = ("hardware", "precision", "speculative")


@dataclass(frozen=True)
class Series:
    """What one curve is drawn of."""

    source: str
    hardware: str
    engine: str
    checkpoint: str
    precision: str
    speculative: str
    isl_tokens: int  # lengths and ratio below 0: an import that does not say
    osl_tokens: int
    range_ratio: float = 1.0
    endpoint: str = "completions"
    model: str = "GLM-5"
    variant: str = ""  # a digest of overridden facts and flags that the other fields do not show
    time_scale: float | None = None  # of a simulated one

    @property
    def workload(self) -> tuple[object, ...]:
        """Only series with the same of this are compared: the kind of number, the model, and what was sent."""
        sent = (self.isl_tokens, self.osl_tokens, self.range_ratio)
        nobody_knows = (self.label, self.checkpoint, self.variant) if min(sent) < 0 else ()
        return (self.source, self.model, *sent, self.endpoint, self.time_scale, *nobody_knows)

    @property
    def label(self) -> str:
        """The series in a few words."""
        return f"{self.hardware} {self.engine} {self.precision} {self.speculative}"


@dataclass(frozen=True)
class Row:
    """One point as tables see it. NaN where a source does not give a figure; throughput and TPOT as DESIGN defines them."""

    series: Series
    key: str
    digest: str
    tp: int
    gpus: int
    gpus_per_node: int
    concurrency: int
    repeat: int
    seed: int
    server_scope: str
    binding: int | None
    total_tput_per_gpu_tok_s: float
    input_tput_per_gpu_tok_s: float
    output_tput_per_gpu_tok_s: float
    interactivity_tok_s_user: float  # 1 / median TPOT, or as a source states it: it may round it apart from its TPOT
    tpot_median_s: float
    ttft_median_s: float
    ttft_p99_s: float
    n_requests: int
    validity: str
    reasons: tuple[str, ...]
    origin: str
    mean_isl_tokens: float = float("nan")  # as the server counted them
    mean_osl_tokens: float = float("nan")
    steady_tput_per_gpu_tok_s: float = float("nan")  # total tokens, while all users had a request in flight
    peak_output_tput_per_gpu_tok_s: float = float("nan")  # of the best full second
    goodput_rps: float = float("nan")  # requests within the workload's bounds


@dataclass(frozen=True)
class Economy:
    """What the tables are made with: $ per GPU and hour and all-in kW per GPU, by hardware."""

    usd_per_gpu_h: Mapping[str, float | None]
    power_kw: Mapping[str, float]

    def cost(self, row: Row) -> float:
        """$ per million tokens of the GPUs that serve; NaN without a price."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        return usd_per_mtok(price, row.total_tput_per_gpu_tok_s) if price is not None else float("nan")

    def node_cost(self, row: Row) -> float:
        """The same with the idle GPUs of the node paid; NaN also where nobody says how many it has."""
        price = self.usd_per_gpu_h.get(row.series.hardware)
        if price is None or row.gpus_per_node < row.gpus:
            return float("nan")
        return node_usd_per_mtok(price, row.total_tput_per_gpu_tok_s, row.gpus, row.gpus_per_node)

    def per_mw(self, row: Row) -> float:
        """tok/s/MW with the assumed power; NaN without one."""
        power = self.power_kw.get(row.series.hardware)
        return tput_per_mw_tok_s(row.total_tput_per_gpu_tok_s, power) if power else float("nan")


@dataclass(frozen=True)
class IsoRow:
    """One series at one interactivity; NaN where unreachable."""

    series: Series
    interactivity_tok_s_user: float
    cost_usd_per_mtok: float
    total_tput_per_gpu_tok_s: float
    tput_per_mw_tok_s: float
    concurrency: float
    status: str
    perf_per_dollar_vs_baseline: float
    baseline: str
    is_baseline: bool
    steps: tuple[tuple[str, float], ...]  # (what changed, ratio of cost); their product is the whole ratio


def series_frontiers(rows: Sequence[Row]) -> dict[Series, list[Row]]:
    """The frontier of each series over its TPs, invalid points left out, by rising interactivity."""
    grouped: dict[Series, list[Row]] = {}
    for row in rows:
        if row.validity != "invalid":
            grouped.setdefault(row.series, []).append(row)
    fronts = {}
    for series in sorted(grouped, key=series_order):
        members = grouped[series]
        x = np.array([r.interactivity_tok_s_user for r in members])
        kept = frontier(x, np.array([r.total_tput_per_gpu_tok_s for r in members]))
        if len(kept):
            fronts[series] = [members[i] for i in kept]
    return fronts


def series_order(s: Series) -> tuple[object, ...]:
    """The order in which tables show series: by workload, then by hardware and recipe."""
    workload = (s.source, s.model, s.isl_tokens, s.osl_tokens, s.range_ratio, s.endpoint, s.time_scale or 0.0)
    return (*workload, s.hardware, s.engine, s.checkpoint, s.precision, s.speculative, s.variant)


def iso_table(
    fronts: Mapping[Series, Sequence[Row]],
    economy: Economy,
    *,
    at: Sequence[float] = PUBLISHED_GRID,
    method: str = "steffen",
    is_baseline: Callable[[Series], bool] | None = None,
) -> list[IsoRow]:
    """Every series at every interactivity. The baseline of each workload: the one asked for, else the cheapest GPU's first series."""
    grid = np.array(at, dtype=np.float64)
    curves = _Curves({s: _curve(rows, economy, grid, method) for s, rows in fronts.items()})
    bases = {workload: _baseline(peers, economy, is_baseline) for workload, peers in curves.peers.items()}
    table = []
    for series, curve in curves.items():
        base = bases[series.workload]
        for i, x in enumerate(grid.tolist()):
            ratio = curves[base].cost[i] / curve.cost[i] if base is not None else float("nan")
            steps = _steps(base, series, curves, i) if base is not None else ()
            table.append(
                IsoRow(series, x, curve.cost[i], curve.throughput[i], curve.per_mw[i], curve.concurrency[i], curve.status[i],
                       ratio, base.label if base is not None else "", series == base, steps)
            )  # fmt: skip
    return table


@dataclass(frozen=True)
class _Curve:
    """A series on the grid, all (M,). Each quantity is interpolated on its own."""

    cost: NDArray[np.float64]
    throughput: NDArray[np.float64]
    per_mw: NDArray[np.float64]
    concurrency: NDArray[np.float64]
    status: list[str]


class _Curves(dict[Series, _Curve]):
    """The curves by their series; which series share a workload, and which share what a step holds still."""

    def __init__(self, curves: Mapping[Series, _Curve]) -> None:
        super().__init__(curves)
        self.peers: dict[tuple[object, ...], list[Series]] = {}
        self.alike: dict[tuple[object, ...], list[Series]] = {}
        for s in curves:
            self.peers.setdefault(s.workload, []).append(s)
            self.alike.setdefault((s.workload, s.engine, *(getattr(s, name) for name in STEP_ORDER)), []).append(s)


def _curve(rows: Sequence[Row], economy: Economy, grid: NDArray[np.float64], method: str) -> _Curve:
    x = np.array([r.interactivity_tok_s_user for r in rows])

    def on_grid(quantity: Callable[[Row], float]) -> NDArray[np.float64]:
        return interpolated(x, np.array([quantity(r) for r in rows], dtype=np.float64), grid, method)

    status = ["unreachable" if g < x[0] or g > x[-1] else "measured" if (x == g).any() else "interpolated" for g in grid]
    return _Curve(
        on_grid(economy.cost),
        on_grid(lambda r: r.total_tput_per_gpu_tok_s),
        on_grid(economy.per_mw),
        on_grid(lambda r: float(r.concurrency)),
        status,
    )


def _baseline(peers: Sequence[Series], economy: Economy, is_baseline: Callable[[Series], bool] | None) -> Series | None:
    if is_baseline is not None:
        return next((s for s in peers if is_baseline(s)), None)
    return min(peers, key=lambda s: (economy.usd_per_gpu_h.get(s.hardware, None) or float("inf"), series_order(s)))


def named(words: str, series: Sequence[Series]) -> Callable[[Series], bool] | None:
    """Which series `words` mean, one a workload; None for no words.

    Raises UsageError when no series, or several of one workload, hold all the words.
    """
    if not words:
        return None
    wanted = set(words.lower().split())

    def matches(s: Series) -> bool:
        return wanted <= {s.source, s.hardware, s.engine, s.checkpoint.lower(), s.precision, s.speculative}

    found = [s for s in series if matches(s)]
    if not found or len(found) != len({s.workload for s in found}):
        what = f"names {len(found)} series, and a workload has one baseline" if found else "names no series"
        raise UsageError(f"--baseline {words!r} {what}.", next_step=f"one of {', '.join(sorted({s.label for s in series}))}")
    return matches


def _steps(base: Series, target: Series, curves: _Curves, i: int) -> tuple[tuple[str, float], ...]:
    """The way from the baseline to the target, one setting at a time: hardware, precision, speculative, or as the arms allow."""
    differing = [setting for setting in STEP_ORDER if getattr(base, setting) != getattr(target, setting)]
    ways = (_way(base, target, order, curves, i) for order in itertools.permutations(differing))
    return next((way for way in ways if way), ())


def _way(base: Series, target: Series, order: Sequence[str], curves: _Curves, i: int) -> tuple[tuple[str, float], ...]:
    steps, here = [], base
    for setting in order:
        following = _changed(here, target, setting, curves)
        if following is None:
            return ()
        steps.append((setting, float(curves[here].cost[i] / curves[following].cost[i])))
        here = following
    is_whole = here == target and all(np.isfinite(ratio) for _, ratio in steps)
    return tuple(steps) if is_whole else ()


def _changed(here: Series, target: Series, setting: str, curves: _Curves) -> Series | None:
    """The series like `here` but for one setting, which is the target's. A precision brings its own checkpoint."""
    wanted = {name: getattr(target if name == setting else here, name) for name in STEP_ORDER}
    fits = curves.alike.get((here.workload, target.engine, *(wanted[name] for name in STEP_ORDER)), [])
    return min(fits, key=lambda s: (s != target, s.checkpoint != here.checkpoint), default=None)
