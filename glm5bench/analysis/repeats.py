"""Repeats of one configuration as one row, and the interval in which its figures lie.

Enters: rows, one a run. Leaves: rows, one a configuration: runs whose keys differ in the repeat alone become their mean. The interval of a
mean is Student's, over its runs; of a single run it comes from its requests and is a lower bound, because what differs from one start of a
server to the next is not in it. A run of which only figures are known has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .rows import Row

Kind = Literal["repeats", "requests"]
AVERAGED = (
    "total_tput_per_gpu_tok_s", "input_tput_per_gpu_tok_s", "output_tput_per_gpu_tok_s", "interactivity_tok_s_user", "tpot_median_s",
    "ttft_median_s", "ttft_p99_s", "mean_isl_tokens", "mean_osl_tokens", "steady_tput_per_gpu_tok_s", "peak_output_tput_per_gpu_tok_s",
    "goodput_rps", "itl_chunk_p99_s", "mean_concurrency", "acceptance_length",
)  # fmt: skip
STANDARD_ERRORS = {
    "total_tput_per_gpu_tok_s": "total_tput_per_gpu_se_tok_s",
    "interactivity_tok_s_user": "interactivity_se_tok_s_user",
}
NORMAL_975 = 1.959964
LEFT_OUT = "repeats_left_out"
# 97.5 % quantile of Student's t by degrees of freedom, from 1; beyond them Fisher's expansion is right to four digits
STUDENT_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """Where a figure lies, 95 %. `kind`: over the repeats, or over the requests of one run, a lower bound."""

    low: float
    high: float
    kind: Kind


def configurations(rows: Sequence[Row]) -> list[Row]:
    """Rows that are not invalid, the repeats of a configuration as their mean, in the order of their first.

    Runs are repeats where all but the number of the repeat is the same. Two under one number are different measurements of one key, or
    differ in what nobody wrote down: such runs are not averaged. Of fewer runs than there were,
    because some are invalid or lack a figure, it is flagged: `repeats_left_out`.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_configuration(row), []).append(row)
    found: list[Row] = []
    for group in groups.values():
        valid = [row for row in group if row.validity != "invalid"]
        told = [row for row in valid if math.isfinite(row.interactivity_tok_s_user) and math.isfinite(row.total_tput_per_gpu_tok_s)]
        kept = told or valid
        n_left_out = len({row.repeat for row in group} - {row.repeat for row in kept})
        if len({row.repeat for row in kept}) < len(kept):
            found += kept
        elif len(kept) > 1:
            found.append(_mean(kept, n_left_out=n_left_out))
        else:
            found += [_flagged(row) if n_left_out else row for row in kept]
    return found


def _flagged(row: Row) -> Row:
    return dataclasses.replace(row, validity="flagged", reasons=(*row.reasons, LEFT_OUT))


def _configuration(r: Row) -> tuple[object, ...]:
    return (r.series, r.tp, r.gpus, r.gpus_per_node, r.concurrency, r.seed, r.server_scope, r.binding, r.engine_version, r.image)


def _mean(rows: Sequence[Row], *, n_left_out: int) -> Row:
    in_order = sorted(rows, key=lambda r: r.repeat)
    reasons = tuple(dict.fromkeys([code for r in in_order for code in r.reasons] + [LEFT_OUT] * (n_left_out > 0)))
    means: dict[str, Any] = {name: float(np.mean([getattr(r, name) for r in in_order])) for name in AVERAGED}
    return dataclasses.replace(
        in_order[0],
        **means,
        n_requests=sum(r.n_requests for r in in_order),
        validity="flagged" if n_left_out or any(r.validity == "flagged" for r in in_order) else "valid",
        reasons=reasons,
        beside=_means([r.beside for r in in_order]),
        repeats=tuple(in_order),
        total_tput_per_gpu_se_tok_s=math.nan,
        interactivity_se_tok_s_user=math.nan,
    )


def _means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of what every run says."""
    names = [name for name in told[0] if all(name in one for one in told)]
    return {name: float(np.mean([one[name] for one in told])) for name in names}


def interval(row: Row, figure: str) -> Interval | None:
    """The 95 % interval of a figure of the row; None where there is too little to say."""
    middle, half = getattr(row, figure), half_interval(row, figure)
    return Interval(middle - half, middle + half, "repeats" if row.repeats else "requests") if math.isfinite(half) else None


def half_interval(row: Row, figure: str) -> float:
    """Half the width of that interval; NaN where there is too little to say."""
    if not row.repeats:
        return NORMAL_975 * standard_error(row, figure)
    values = np.array([getattr(r, figure) for r in row.repeats])
    return student_975(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def standard_error(row: Row, figure: str) -> float:
    """Of a figure of a single run, over its requests; NaN where nobody computed one."""
    return float(getattr(row, STANDARD_ERRORS[figure])) if figure in STANDARD_ERRORS else math.nan


def student_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    if degrees <= len(STUDENT_975):
        return STUDENT_975[degrees - 1]
    z = NORMAL_975
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
