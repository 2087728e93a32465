"""What the step model predicts for an arm before its first point, and which points are planned from it.

Input: an arm and a bound recipe. Output: a Prior, and the concurrencies of the planned design. Pure: no file, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..prediction import Prediction, Serving, predict, serving, with_factors
from ..values.point import Arm, Recipe
from ..values.search import Prior
from .curves import Floats

N_PLANNED = 4  # concurrencies of an arm
ALL_BELOW = 8  # every concurrency up to here is a candidate, and four for each factor of two above
PAST_KNEE = 1.3  # no planned point is further above the predicted knee
N_PREDICTED = 10  # concurrencies that are predicted; the curve between them is interpolated
STEP = 0.05  # of a factor's logarithm, for its derivative
UNLIMITED = 10**9


def candidates(low: int, high: int) -> tuple[int, ...]:
    """The concurrencies that a search can choose between `low` and `high`."""
    octaves = (round(ALL_BELOW * 2 ** (k / 4)) for k in range(4 * 20))
    return tuple(sorted({c for c in (*range(1, ALL_BELOW), *octaves, low, high) if low <= c <= high}))


def prior_of(arm: Arm, recipe: Recipe, among: Sequence[int], figures: Sequence[str] = ()) -> Prior:
    """The prediction at each of these candidates, with these figures of latency."""
    server = serving(arm, recipe)
    knee = min(server.limits.max_running, server.limits.capacity_tokens / _tokens(arm))
    free = replace(server, limits=replace(server.limits, max_running=UNLIMITED, capacity_tokens=UNLIMITED))
    grid = np.unique(np.round(np.geomspace(among[0], among[-1], N_PREDICTED))).astype(int)
    plain, decode, prefill = (
        _figures(with_factors(free, d, p), arm, grid) for d, p in ((1.0, 1.0), (math.exp(STEP), 1.0), (1.0, math.exp(STEP)))
    )
    by_decode, by_prefill = (decode - plain) / STEP, (prefill - plain) / STEP
    share = np.array([_fixed_share(free, arm, int(c)) for c in grid])
    slopes = np.array([by_decode * share, by_decode * (1 - share), by_prefill])  # (3, 2, len(grid))
    wanted, known = np.log(among), np.log(grid)

    def read(values: Floats) -> tuple[float, ...]:
        return tuple(np.interp(wanted, known, values).tolist())

    w = arm.workload
    tokens = [(w.n_prompts(c) + w.n_warmups(c)) * _tokens(arm) / arm.tp for c in among]
    d_tput, d_x = (tuple(read(row) for row in slopes[:, figure]) for figure in range(2))
    waits = [predict(server, arm.workload, int(c)) for c in grid] if figures else []
    latency = {name: read(np.log([getattr(p, f"{name}_s") for p in waits])) for name in figures}
    return Prior(
        tuple(among), read(plain[0]), read(plain[1]), d_tput, d_x, tuple(tokens), max(1.0, knee), arm.engine.start_estimate_s, latency
    )  # fmt: skip


def _tokens(arm: Arm) -> float:
    """The mean length of a prompt with its output."""
    return arm.workload.mean_isl_tokens + arm.workload.mean_osl_tokens


def _figures(server: Serving, arm: Arm, grid: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """Log throughput per GPU and log interactivity at each concurrency, shape (2, len(grid))."""
    found: list[Prediction] = [predict(server, arm.workload, int(c)) for c in grid]
    return np.log([[p.total_tput_per_gpu_tok_s for p in found], [p.interactivity_tok_s_user for p in found]])


def _fixed_share(server: Serving, arm: Arm, concurrency: int) -> float:
    """The share of a decode pass that a single request would also take."""
    w = arm.workload
    context = w.mean_isl_tokens + w.mean_osl_tokens / 2
    read = min(context, server.model.checkpoint.architecture.index_topk or math.inf)
    one = server.model.decode_s(1, context, read)
    return one / server.model.decode_s(concurrency, concurrency * context, concurrency * read)


def planned(prior: Prior, low: float, high: float, n: int = N_PLANNED) -> tuple[int, ...]:
    """The planned concurrencies for a band of interactivity, evenly in log, rising. `low`, `high`: tok/s/user."""
    at, x = np.array(prior.concurrency), np.array(prior.log_x)
    is_slow, is_fast = x <= math.log(low), x >= math.log(high)
    largest = min(at[is_slow].min() if is_slow.any() else at[-1], max(at[0], PAST_KNEE * prior.knee))
    smallest = min(at[is_fast].max() if is_fast.any() else at[0], largest)
    wanted = np.geomspace(smallest, largest, n)
    nearest = {int(at[np.argmin(np.abs(np.log(at) - math.log(c)))]) for c in wanted}
    return tuple(sorted(nearest))
