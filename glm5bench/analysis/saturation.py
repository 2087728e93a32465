"""Where an arm stops getting faster: the concurrency above which throughput no longer rises, the latency that grows there, and the limit.

Input: the configurations of series. Output: one finding per arm (a series at one TP) that was measured at three or more concurrencies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .rows import Row, Series

RISE = 1.05  # least rise of throughput at any higher concurrency; less does not count
NEEDS = 3  # concurrencies
FLAT, STEP = 1.02, 1.25  # an arm is saturated if a concurrency at least STEP times higher has less than FLAT times the throughput
MUCH = 1.5
GIVES = {"ttft_median_s": "TTFT", "tpot_median_s": "TPOT", "itl_chunk_p99_s": "ITL p99"}
KNOWN = {"admission_capped": "admission limit", "kv_limited": "KV capacity"}


@dataclass(frozen=True)
class Growth:
    """How a latency grows from one concurrency to the next higher one."""

    name: str
    from_s: float
    to_s: float
    at_concurrency: int

    @property
    def ratio(self) -> float:
        """The higher latency divided by the lower one."""
        return self.to_s / self.from_s


@dataclass(frozen=True)
class Saturation:
    """The saturation of one arm. `knee` is None if throughput still rises at the highest measured concurrency."""

    series: Series
    tp: int
    knee: Row | None
    best: Row
    gives: Growth | None  # the latency that grows most in one step, above the knee if one grows there
    why: str  # the limit that a point at or above the knee observed; empty: none
    planned: str = ""  # the limit according to the plan of such a point; empty: no recipe is known


def saturations(grouped: Mapping[Series, Sequence[Row]], planned_limit: Callable[[Row], str] | None = None) -> list[Saturation]:
    """The saturation of every arm, in the order of its series. `planned_limit` returns the limit of a row according to its plan."""
    found = []
    for series, rows in grouped.items():
        for tp in sorted({r.tp for r in rows}):
            arm = _arm([r for r in rows if r.tp == tp])
            if tp > 0 and len(arm) >= NEEDS:
                found.append(_saturation(series, tp, arm, planned_limit))
    return found


def saturated_at(rows: Sequence[Row]) -> Row | None:
    """The highest concurrency of one arm, if its throughput shows that higher ones cannot be on the frontier; None if they may be."""
    arm = _arm(rows)
    if len(arm) < NEEDS:
        return None
    *lower, last = arm
    far = [r for r in lower if r.concurrency * STEP <= last.concurrency]
    best = max(far, key=lambda r: r.total_tput_per_gpu_tok_s, default=None)
    is_flat = best is not None and last.total_tput_per_gpu_tok_s < FLAT * best.total_tput_per_gpu_tok_s
    return last if is_flat else None


def _arm(rows: Sequence[Row]) -> list[Row]:
    """Rows by rising concurrency; if a concurrency has several rows (for example several seeds), the fastest."""
    best: dict[int, Row] = {}
    for r in rows:
        if r.concurrency > 0 and 0 < r.total_tput_per_gpu_tok_s < math.inf:
            here = best.setdefault(r.concurrency, r)
            best[r.concurrency] = max(here, r, key=lambda x: x.total_tput_per_gpu_tok_s)
    return [best[c] for c in sorted(best)]


def _saturation(series: Series, tp: int, arm: Sequence[Row], planned_limit: Callable[[Row], str] | None) -> Saturation:
    best = max(arm, key=lambda r: r.total_tput_per_gpu_tok_s)
    knee = next(r for r in arm if r.total_tput_per_gpu_tok_s * RISE > best.total_tput_per_gpu_tok_s)
    past = [r for r in arm if r.concurrency > knee.concurrency]
    codes = [code for code in KNOWN if any(code in r.reasons for r in (knee, *past))]
    why = ", ".join(KNOWN[code] for code in codes)
    planned = planned_limit(past[0]) if planned_limit is not None and past and not why else ""
    return Saturation(series, tp, knee if past else None, best, _gives(arm, knee) if past else None, why, planned)


def _gives(arm: Sequence[Row], knee: Row) -> Growth | None:
    """The latency that grows most in one step above the knee; if none grows much there, in any step."""
    steps = [
        Growth(words, getattr(low, name), getattr(high, name), high.concurrency)
        for name, words in GIVES.items()
        for low, high in itertools.pairwise(arm)
        if low.concurrency > 1 and getattr(low, name) > 0 and math.isfinite(getattr(high, name))
    ]
    past = [g for g in steps if g.at_concurrency > knee.concurrency and g.ratio >= MUCH]
    return max(past or steps, key=lambda g: g.ratio, default=None)
