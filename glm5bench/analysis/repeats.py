"""The runs of one point as one row, and the interval in which its figures lie.

Enters: rows, one a run. Leaves: rows, one a configuration: runs that differ in the repeat alone become their mean, whatever campaign they
come from. An interval has a level, which says what its spread is taken over:

- starts: the starts of a server. Only this one contains everything that would differ if the measurement were made again.
- runs: runs of one start. It leaves out what differs from start to start.
- requests: the requests of one run, by batch means. It leaves out what differs from run to run, too.

A run of which only figures are known has no interval.
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

Level = Literal["requests", "runs", "starts"]  # in the order of what they contain
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
    """Where a figure lies, 95 %, and over what. A bound may be infinite: an interactivity that the system may not reach."""

    low: float
    high: float
    level: Level


@dataclass(frozen=True)
class Spread:
    """How far a figure may be from its mean: the standard error as a share of it, its degrees of freedom, and the level."""

    error: float
    degrees: float
    level: Level

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval, as a share of the mean."""
        return self.error * quantile(self.degrees)


def configurations(rows: Sequence[Row]) -> list[Row]:
    """Rows that are not invalid, the runs of a configuration as their mean, in the order of their first.

    Runs are repeats of one configuration if all but the number of the repeat is the same. If one number has several keys, the points differ
    in something that rows do not show, for example a flag of a recipe: then only runs of one key are averaged. The mean is over server
    starts, and of a start over its runs. If some runs are left out, because they are invalid or lack a figure, the row is flagged:
    `repeats_left_out`.
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
    n_requests = r.n_requests if not r.series.protocol else 0  # without a rule for it, the number itself tells runs apart
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
    """Of what every run says."""
    names = [name for name in told[0] if all(name in one for one in told)]
    return {name: fmean(one[name] for one in told) for name in names}


def level(row: Row) -> Level:
    """Over what the interval of a row is."""
    return "starts" if len(row.starts) > 1 else "runs" if row.repeats else "requests"


def of_starts(row: Row, figure: str) -> list[float]:
    """A figure of each server start: the mean of its runs."""
    return [_mean_of(runs, figure) for runs in row.starts]


def _mean_of(runs: Sequence[Row], figure: str) -> float:
    return fmean(getattr(r, figure) for r in runs)


def samples(row: Row, figure: str) -> list[float]:
    """The values that the interval of a row is over: of its starts, or of its runs on one start."""
    return of_starts(row, figure) if level(row) == "starts" else [float(getattr(r, figure)) for r in row.repeats or (row,)]


def spread(row: Row, figure: str) -> Spread | None:
    """How far a figure of the row may be from its mean; None if there is too little to say."""
    middle, over = getattr(row, figure), level(row)
    if over == "requests":
        error, degrees = standard_error(row, figure), n_batches(row.n_requests, row.concurrency) - 1
    else:
        values = np.array(samples(row, figure))
        error, degrees = float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1
    is_known = math.isfinite(error) and degrees > 0 and math.isfinite(middle) and middle > 0
    return Spread(error / middle, degrees, over) if is_known else None


def interval(row: Row, figure: str) -> Interval | None:
    """The 95 % interval of a figure of the row; None if there is too little to say."""
    told, middle = spread(row, figure), getattr(row, figure)
    return Interval(middle * (1 - told.half), middle * (1 + told.half), told.level) if told else None


def half_interval(row: Row, figure: str) -> float:
    """Half the width of that interval; NaN if there is too little to say."""
    told = spread(row, figure)
    return told.half * float(getattr(row, figure)) if told else math.nan


def standard_error(row: Row, figure: str) -> float:
    """Of a figure of a single run, by batch means; NaN if nobody computed one."""
    return float(getattr(row, STANDARD_ERRORS[figure])) if figure in STANDARD_ERRORS else math.nan


def quantile(degrees: float) -> float:
    """How many standard errors the 95 % interval of a mean reaches to each side: Student's quantile, widened for skewed noise.

    Server starts differ by a few slow ones. If their noise is exponential, Student's interval covers the truth in 88 to 90 % of cases
    instead of 95 %. Widened, it covers 92 %, and 96 to 97 % of normal noise. Source: benchmarks/coverage.py.
    """
    return (1.2 if degrees < 5 else 1.1) * student(degrees)


def student(degrees: float, tail: float = 0.025) -> float:
    """The quantile of Student's t that leaves so much above it. It is enough for differences: skewed noise of both sides cancels."""
    from scipy.special import stdtrit  # it takes 0.3 s to import, which only intervals are worth

    return float(stdtrit(degrees, 1 - tail))


def lowest(levels: Sequence[Level]) -> Level:
    """The level of what is made of figures of several levels."""
    return min(levels, key=LEVELS.index)
