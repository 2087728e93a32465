"""What else could have been measured: draws of a point's figures, and of a frontier's, from which intervals are read off.

Enters: the requests of a run, or the rows of a series. Leaves: standard errors, or draws of every curve on a grid. A configuration with
repeats is drawn as its mean plus Student's t in the direction of its runs (throughput and interactivity of a run go together); one with a
single run by its standard errors. Every draw has a frontier of its own, which is interpolated as the measured one is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .interpolation import interpolated_rows
from .metrics import Requests, time_per_output_token_s
from .repeats import Interval, Kind, half_interval, standard_error
from .rows import Row

Floats = NDArray[np.float64]
DRAWS = 1000
FEWEST_DRAWS = 200  # of a series with very many configurations
MOST_VALUES = 100_000  # drawn of each figure of a series
RESAMPLES = 200  # of the requests of a run
BLOCK = 2_000_000  # requests drawn at once
FAR = 2.0  # half intervals
SURE = 0.975  # of the draws must reach an interactivity, or nothing is said there
X, Y = "interactivity_tok_s_user", "total_tput_per_gpu_tok_s"


@dataclass(frozen=True)
class Draws:
    """Curves that could have been, on the grid: (D, M), NaN where a draw does not reach."""

    unit_cost: Floats  # hours of a GPU a token/s, times the price the cost
    throughput: Floats
    kind: Kind


def relative_standard_errors(r: Requests, time_scale: float) -> tuple[float, float]:
    """Of total throughput in a closed loop and of interactivity, as shares of them, over the whole requests drawn anew.

    Users who wait for their answers send as fast as these come: throughput is tokens a request-second, times the users. NaN where fewer
    than two requests say anything.
    """
    whole = r.is_whole & (r.last_token_ns > r.sent_ns)
    n = int(whole.sum())
    if n < 2:
        return float("nan"), float("nan")
    took = ((r.last_token_ns - r.sent_ns)[whole] * (time_scale / 1e9)).astype(np.float64)
    first = ((r.first_token_ns - r.sent_ns)[whole] * (time_scale / 1e9)).astype(np.float64)
    tokens = (r.prompt_tokens + r.output_tokens)[whole].astype(np.float64)
    tpot = time_per_output_token_s(first, took, r.output_tokens[whole])
    rng = np.random.default_rng(0)
    rates, speeds = [], []
    for begun in range(0, RESAMPLES, max(1, BLOCK // n)):
        drawn = rng.integers(0, n, (min(max(1, BLOCK // n), RESAMPLES - begun), n))
        rates.append(tokens[drawn].sum(axis=1) / took[drawn].sum(axis=1))
        if len(tpot) > 1:
            speeds.append(np.median(tpot[drawn % len(tpot)], axis=1))
    return _spread(rates), _spread(speeds)


def _spread(drawn: Sequence[Floats]) -> float:
    values = np.concatenate(drawn) if drawn else np.empty(0)
    return float(values.std(ddof=1) / values.mean()) if len(values) and values.mean() > 0 else float("nan")


def draws(rows: Sequence[Row], grid: Floats, method: str) -> Draws | None:
    """Curves of a series from its configurations; None where one of them has no interval. The same rows give the same draws."""
    halves = np.array([[half_interval(r, name) for r in rows] for name in (X, Y)])
    if not rows or not np.isfinite(halves).all():
        return None
    rows = _near(rows, *(FAR * halves))
    rng = np.random.default_rng(zlib.crc32(repr([(r.series, r.tp, r.concurrency, r.digest) for r in rows]).encode()))
    n_draws = max(FEWEST_DRAWS, min(DRAWS, MOST_VALUES // len(rows)))
    x, y = _drawn(rows, n_draws, rng)
    order = np.lexsort((-y, -x), axis=-1)
    x, y = np.take_along_axis(x, order, axis=-1), np.take_along_axis(y, order, axis=-1)
    best = np.maximum.accumulate(y, axis=-1)
    is_kept = np.concatenate([np.ones((len(y), 1), dtype=bool), y[:, 1:] > best[:, :-1]], axis=1)
    is_kept &= (x > 0) & (y > 0)
    cost, throughput = np.full((2, len(x), len(grid)), np.nan)
    for n in np.unique(is_kept.sum(axis=1)):
        of = np.flatnonzero(is_kept.sum(axis=1) == n)
        if n:
            kept = is_kept[of]
            xs, ys = (v[of][kept].reshape(-1, n)[:, ::-1] for v in (x, y))
            cost[of] = interpolated_rows(xs, 1.0 / ys, grid, method)
            throughput[of] = interpolated_rows(xs, ys, grid, method)
    return Draws(cost, throughput, "repeats" if all(r.repeats for r in rows) else "requests")


def _near(rows: Sequence[Row], hx: Floats, hy: Floats) -> Sequence[Row]:
    """Rows that a draw could bring onto the frontier: not those that another beats in both by far more than either is unsure of."""
    x, y = (np.array([getattr(r, name) for r in rows]) for name in (X, Y))
    is_beaten: NDArray[np.bool_] = ((x - hx > (x + hx)[:, None]) & (y - hy > (y + hy)[:, None])).any(axis=1)  # type: ignore[assignment]
    return [r for r, beaten in zip(rows, is_beaten, strict=True) if not beaten]


def _drawn(rows: Sequence[Row], n_draws: int, rng: np.random.Generator) -> Floats:
    """Interactivity and throughput of each row, (2, D, N)."""
    middle = np.array([[getattr(r, name) for r in rows] for name in (X, Y)])
    errors = np.array([[0.0 if r.repeats else standard_error(r, name) for r in rows] for name in (X, Y)])
    made: Floats = middle[:, None, :] + errors[:, None, :] * rng.standard_normal((2, n_draws, len(rows)))
    for i, row in enumerate(rows):
        if row.repeats:
            runs = np.array([[getattr(r, X), getattr(r, Y)] for r in row.repeats])
            k = len(runs)
            around = (runs - runs.mean(axis=0)).T / np.sqrt(k * (k - 1))
            wide = np.sqrt((k - 1) / rng.chisquare(k - 1, n_draws))
            made[:, :, i] += (around @ rng.standard_normal((k, n_draws))) * wide
    return made


def read_off(values: Floats, kind: Kind) -> list[Interval | None]:
    """The middle 95 % of each column of (D, M); None where too many draws do not reach."""
    reached = np.isfinite(values)
    found: list[Interval | None] = []
    for m in range(values.shape[1]):
        if reached[:, m].mean() < SURE:
            found.append(None)
            continue
        low, high = np.percentile(values[reached[:, m], m], [2.5, 97.5])
        found.append(Interval(float(low), float(high), kind))
    return found
