"""The uncertainty of a curve by resampling: its configurations are drawn at random, and each draw gets its own frontier.

Input: the configurations of a series. Output: the bounds of its throughput at each interactivity of a grid, as shares of the estimate.
A configuration is drawn around its mean in the directions of its server starts. A start that measured several configurations moves them
together, because a slow node is slow at every concurrency. The width of the draws follows Student's quantile.

If two points are nearly tied, the better one of a draw is better by chance, so draws and estimate are biased to one side. Both bounds
therefore have the same distance from the estimate: that of the farther side of the draws.

A draw that does not reach an interactivity has a throughput of 0 there. The lower bound is 0 in two cases: if more than 0.3 % of the draws
do not reach the interactivity, and within 3 % of the measured end. Cells near the end exist only because the end was measured beyond them,
which favours starts that happened to be fast. Below the lowest measured interactivity, the throughput is at least that of the lowest point.
Coverage: benchmarks/coverage.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .interpolation import interpolated_rows
from .repeats import Interval, Level, Spread, level, lowest, quantile, samples, spread, student
from .rows import Row

Floats = NDArray[np.float64]
DRAWS = 1000
FEWEST_DRAWS = 200  # for a series with very many configurations
MOST_VALUES = 100_000  # largest number of values that are drawn for each figure of a series
UNREACHED = 0.003  # share of draws that do not reach an interactivity, above which the system may not reach it
NEAR_THE_END = 0.03  # least uncertainty of the end of a curve, even if a few starts happen to agree
FAR = 2.0  # half intervals
NORMAL_975 = 1.959964
X, Y = "interactivity_tok_s_user", "total_tput_per_gpu_tok_s"


@dataclass(frozen=True)
class Bounds:
    """Bounds of a series on the grid, all (M,): natural logarithms of throughput over its estimate; -inf: it may not be reached."""

    below: Floats
    above: Floats
    degrees: float
    level: Level

    def interval(self, middle: float, i: int) -> Interval | None:
        """The interval around a throughput of `middle` at the i-th interactivity; None if the curve does not reach it."""
        if not math.isfinite(middle) or math.isnan(self.below[i]):
            return None
        return Interval(middle * math.exp(self.below[i]), middle * math.exp(self.above[i]), self.level)


def bounds(rows: Sequence[Row], grid: Floats, method: str) -> Bounds | None:
    """The bounds of the curve of these configurations; None if one of them has no interval. The same rows give the same bounds."""
    spreads = [(spread(r, X), spread(r, Y)) for r in rows]
    known = [(r, x, y) for r, (x, y) in zip(rows, spreads, strict=True) if x is not None and y is not None]
    if not rows or len(known) < len(rows):
        return None
    known = _near(known)
    rng = np.random.default_rng(zlib.crc32(repr([(r.series, r.tp, r.concurrency, r.digest) for r, _, _ in known]).encode()))
    n_draws = max(FEWEST_DRAWS, min(DRAWS, MOST_VALUES // len(known)))
    middle = np.log([[getattr(r, name) for r, _, _ in known] for name in (X, Y)])
    (x0, y0), (x, y) = np.exp(middle), np.exp(_drawn(known, middle, n_draws, rng))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.log(curves(x0[None], y0[None], grid, method)[0])
        drawn = np.sort(np.log(curves(x, y, grid, method)), axis=0) - estimate
    low, high = (drawn[round(share * (n_draws - 1))] for share in (0.025, 0.975))
    is_sure = np.isfinite(drawn[round(UNREACHED * (n_draws - 1))]) & (grid * (1 + NEAR_THE_END) < x0.max())
    low = np.where(is_sure, low, -np.inf)
    farther = np.where(np.isfinite(low), np.maximum(-low, high), high)
    is_reached = np.isfinite(estimate)
    degrees = min(s.degrees for _, *both in known for s in both)
    return Bounds(
        np.where(is_reached, np.where(np.isfinite(low), -farther, -np.inf), np.nan),
        np.where(is_reached, farther, np.nan),
        degrees,
        lowest([level(r) for r, _, _ in known]),
    )


Known = tuple[Row, Spread, Spread]


def _near(rows: Sequence[Known]) -> list[Known]:
    """Rows that a draw could put on the frontier. Rows beaten in both figures by far more than the uncertainty are left out."""
    x, y = (np.array([getattr(r, name) for r, _, _ in rows]) for name in (X, Y))
    hx, hy = x * [FAR * s.half for _, s, _ in rows], y * [FAR * s.half for _, _, s in rows]
    is_beaten: NDArray[np.bool_] = ((x - hx > (x + hx)[:, None]) & (y - hy > (y + hy)[:, None])).any(axis=1)
    return [row for row, beaten in zip(rows, is_beaten, strict=True) if not beaten]


def _drawn(rows: Sequence[Known], middle: Floats, n_draws: int, rng: np.random.Generator) -> Floats:
    """Drawn logarithms of interactivity and throughput of each row, (2, D, N)."""
    made = np.repeat(middle[:, None, :], n_draws, axis=1)
    of_start: dict[str, Floats] = {}
    for i, (row, x, y) in enumerate(rows):
        wide = quantile(x.degrees) / NORMAL_975
        if x.level == "requests":
            made[:, :, i] += wide * np.array([[x.error], [y.error]]) * rng.standard_normal((2, n_draws))
            continue
        runs = np.log([samples(row, name) for name in (X, Y)])
        around = (runs - runs.mean(axis=1, keepdims=True)) / math.sqrt(runs.shape[1] * (runs.shape[1] - 1))
        names = [r[0].server_start for r in row.starts] if x.level == "starts" else [f"{row.digest} {k}" for k in range(runs.shape[1])]
        pushes = np.array([of_start.setdefault(name, rng.standard_normal(n_draws)) for name in names])
        made[:, :, i] += wide * (around @ pushes)
    return made


def curves(x: Floats, y: Floats, grid: Floats, method: str) -> Floats:
    """Throughput of D frontiers at each interactivity of the grid, (D, M), interpolated like costs.

    Shapes: x and y (D, N), both above 0. Below a frontier's lowest interactivity, the value is the throughput there; above its highest, 0.
    """
    order = np.lexsort((-y, -x), axis=-1)
    x, y = np.take_along_axis(x, order, axis=-1), np.take_along_axis(y, order, axis=-1)
    best = np.maximum.accumulate(y, axis=-1)
    is_kept = np.concatenate([np.ones((len(y), 1), dtype=bool), y[:, 1:] > best[:, :-1]], axis=1)
    n_kept = is_kept.sum(axis=1)
    found = np.zeros((len(x), len(grid)))
    for n in np.unique(n_kept):
        of = np.flatnonzero(n_kept == n)
        kept = is_kept[of]
        xs, ys = (v[of][kept].reshape(-1, n)[:, ::-1] for v in (x, y))
        inside = 1.0 / interpolated_rows(xs, 1.0 / ys, grid, method)
        found[of] = np.where(grid < xs[:, :1], ys[:, :1], np.where(grid > xs[:, -1:], 0.0, inside))
    return found


def ratio_interval(own: Bounds, other: Bounds, ratio: float, i: int) -> Interval | None:
    """The interval of one series' throughput over another's, at the i-th interactivity. Their errors are independent (Welch)."""
    if not math.isfinite(ratio) or math.isnan(own.below[i]) or math.isnan(other.below[i]):
        return None
    one, two = (float(b.above[i]) / quantile(b.degrees) for b in (own, other))
    half = welch_half(one, own.degrees, two, other.degrees)
    below = half if math.isfinite(own.below[i]) else math.inf
    above = half if math.isfinite(other.below[i]) else math.inf
    return Interval(ratio * math.exp(-below), ratio * math.exp(above), lowest([own.level, other.level]))


def welch_half(one: float, n: float, two: float, m: float, tail: float = 0.025) -> float:
    """Half the width of the interval of a difference whose parts have these standard errors and degrees of freedom."""
    error = math.hypot(one, two)
    if error == 0:
        return 0.0
    degrees = error**4 / (one**4 / n + two**4 / m)
    return student(degrees, tail) * error
