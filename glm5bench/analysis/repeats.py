"""Combines the runs of one point into one row, and computes the intervals of its figures.

Input: rows, one per run. Output: rows, one per configuration. Runs that differ only in the repeat become their mean, even if they come from
different campaigns. An interval has a level, which states what its spread is computed over:

- starts: the starts of a server. Only this level contains everything that would differ if the measurement were repeated.
- runs: the runs of one start. It does not contain differences from start to start.
- requests: the requests of one run, by batch means. It does not contain differences from run to run either.

A run for which only figures are known has no interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from .batches import n_batches
from .rows import Row

Level = Literal["requests", "runs", "starts"]  # each contains the differences of the levels before it
LEVELS: tuple[Level, ...] = ("requests", "runs", "starts")
AVERAGED = (
    "total_tput_per_gpu_tok_s", "input_tput_per_gpu_tok_s", "output_tput_per_gpu_tok_s", "interactivity_tok_s_user", "tpot_median_s",
    "ttft_median_s", "ttft_p99_s", "mean_isl_tokens", "mean_osl_tokens", "steady_tput_per_gpu_tok_s", "peak_output_tput_per_gpu_tok_s",
    "goodput_rps", "itl_chunk_p99_s", "mean_concurrency", "acceptance_length",
)  # fmt: skip
STANDARD_ERRORS = {
    "total_tput_per_gpu_tok_s": "total_tput_per_gpu_se_tok_s",
    "interactivity_tok_s_user": "interactivity_se_tok_s_user",
}
LEFT_OUT = "repeats_left_out"


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a figure, and its level. A bound is infinite if the system may not reach the interactivity."""

    low: float
    high: float
    level: Level


@dataclass(frozen=True)
class Spread:
    """The uncertainty of a mean: its standard error as a share of it, its degrees of freedom, and the level."""

    error: float
    degrees: float
    level: Level

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval, as a share of the mean."""
        return self.error * quantile(self.degrees)


def configurations(rows: Sequence[Row]) -> list[Row]:
    """One row per configuration, without invalid rows: the mean of its runs. The order is that of each configuration's first run.

    Runs are repeats of one configuration if everything except the repeat number is the same. If one repeat number has several keys, the
    points differ in something that rows do not show, for example a flag of a recipe. Then only runs with the same key are averaged. The
    mean is over server starts, and within a start over its runs. If some runs are left out, because they are invalid or have no figure,
    the row is flagged with `repeats_left_out`.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    alike: dict[tuple[object, ...], set[str]] = {}
    for row in rows:
        alike.setdefault((_configuration(row), row.repeat), set()).add(row.key)
    mixed = {configuration for (configuration, _), keys in alike.items() if len(keys) > 1}
    for row in rows:
        same = _configuration(row)
        groups.setdefault((same, row.key if same in mixed else ""), []).append(row)
    found: list[Row] = []
    for group in groups.values():
        valid = [row for row in group if row.validity != "invalid"]
        told = [row for row in valid if math.isfinite(row.interactivity_tok_s_user) and math.isfinite(row.total_tput_per_gpu_tok_s)]
        kept = told or valid
        n_left_out = len({row.repeat for row in group} - {row.repeat for row in kept})
        if len(kept) > 1:
            found.append(_mean(kept, n_left_out=n_left_out))
        else:
            found += [_flagged(row) if n_left_out else row for row in kept]
    return found


def _flagged(row: Row) -> Row:
    return dataclasses.replace(row, validity="flagged", reasons=(*row.reasons, LEFT_OUT))


def _configuration(r: Row) -> tuple[object, ...]:
    n_requests = r.n_requests if not r.series.protocol else 0  # without a rule, the number itself distinguishes runs
    return (r.series, r.tp, r.gpus, r.gpus_per_node, r.concurrency, r.seed, r.server_scope, r.binding, n_requests)


def _mean(rows: Sequence[Row], *, n_left_out: int) -> Row:
    in_order = sorted(rows, key=lambda r: (r.repeat, r.server_start, r.digest))
    reasons = tuple(dict.fromkeys([code for r in in_order for code in r.reasons] + [LEFT_OUT] * (n_left_out > 0)))
    row = dataclasses.replace(
        in_order[0],
        n_requests=sum(r.n_requests for r in in_order),
        validity="flagged" if n_left_out or any(r.validity == "flagged" for r in in_order) else "valid",
        reasons=reasons,
        origin=", ".join(dict.fromkeys(r.origin for r in in_order)),
        repeats=tuple(in_order),
        total_tput_per_gpu_se_tok_s=math.nan,
        interactivity_se_tok_s_user=math.nan,
    )
    starts = row.starts
    means: dict[str, Any] = {name: fmean(_mean_of(runs, name) for runs in starts) for name in AVERAGED}
    return dataclasses.replace(row, **means, beside=_means([r.beside for r in in_order]))


def _means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of the figures that all runs have."""
    names = [name for name in told[0] if all(name in one for one in told)]
    return {name: fmean(one[name] for one in told) for name in names}


def level(row: Row) -> Level:
    """The level of a row's interval."""
    return "starts" if len(row.starts) > 1 else "runs" if row.repeats else "requests"


def of_starts(row: Row, figure: str) -> list[float]:
    """A figure for each server start: the mean of its runs."""
    return [_mean_of(runs, figure) for runs in row.starts]


def _mean_of(runs: Sequence[Row], figure: str) -> float:
    return fmean(getattr(r, figure) for r in runs)


def samples(row: Row, figure: str) -> list[float]:
    """The values behind a row's interval: one per start, or one per run of a single start."""
    return of_starts(row, figure) if level(row) == "starts" else [float(getattr(r, figure)) for r in row.repeats or (row,)]


def spread(row: Row, figure: str) -> Spread | None:
    """The spread of a figure of the row; None if there are too few values."""
    middle, over = getattr(row, figure), level(row)
    if over == "requests":
        error, degrees = standard_error(row, figure), n_batches(row.n_requests, row.concurrency) - 1
    else:
        values = np.array(samples(row, figure))
        error, degrees = float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1
    is_known = math.isfinite(error) and degrees > 0 and math.isfinite(middle) and middle > 0
    return Spread(error / middle, degrees, over) if is_known else None


def interval(row: Row, figure: str) -> Interval | None:
    """The 95 % interval of a figure of the row; None if there are too few values."""
    told, middle = spread(row, figure), getattr(row, figure)
    return Interval(middle * (1 - told.half), middle * (1 + told.half), told.level) if told else None


def half_interval(row: Row, figure: str) -> float:
    """Half the width of that interval; NaN if there are too few values."""
    told = spread(row, figure)
    return told.half * float(getattr(row, figure)) if told else math.nan


def standard_error(row: Row, figure: str) -> float:
    """The standard error of a figure of a single run, by batch means; NaN if there is none."""
    return float(getattr(row, STANDARD_ERRORS[figure])) if figure in STANDARD_ERRORS else math.nan


def quantile(degrees: float) -> float:
    """Half the width of a mean's 95 % interval in standard errors: Student's quantile, widened for skewed noise.

    Server starts differ mainly by a few slow ones. If their noise is exponential, Student's interval covers the true value in 88 to 90 % of
    cases instead of 95 %. The widened one covers it in 92 % of cases, and in 96 to 97 % with normal noise. Source: benchmarks/coverage.py.
    """
    return (1.2 if degrees < 5 else 1.1) * student(degrees)


def student(degrees: float, tail: float = 0.025) -> float:
    """The quantile of Student's t with the share `tail` above it. For differences it needs no widening, because skewed noise cancels."""
    from scipy.special import stdtrit  # imported here: it takes 0.3 s and only intervals need it

    return float(stdtrit(degrees, 1 - tail))


def lowest(levels: Sequence[Level]) -> Level:
    """The level of a result that combines figures of several levels."""
    return min(levels, key=LEVELS.index)
