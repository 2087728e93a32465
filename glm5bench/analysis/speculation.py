"""Compares series with and without multi-token prediction, at the same interactivity and with all other settings equal.

Input: iso rows and frontiers. Output: one row for each interactivity that both reach, with its acceptance lengths. Acceptance
lengths of two engines are not comparable, because each engine counts its own steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .comparison import IsoRow
from .rows import Row, Series


@dataclass(frozen=True)
class Gain:
    """The gain from speculation at one interactivity. Acceptance lengths are those of the frontier's points; NaN: unknown."""

    series: Series
    interactivity_tok_s_user: float
    off_tput_per_gpu_tok_s: float
    tput_per_gpu_tok_s: float
    off_cost_usd_per_mtok: float
    cost_usd_per_mtok: float
    acceptance_low: float
    acceptance_high: float

    @property
    def throughput_ratio(self) -> float:
        """Throughput with speculation divided by throughput without."""
        return self.tput_per_gpu_tok_s / self.off_tput_per_gpu_tok_s


def gains(iso: Sequence[IsoRow], fronts: Mapping[Series, Sequence[Row]]) -> list[Gain]:
    """The gains of every series with speculation that has a counterpart without."""
    at = {(r.series, r.interactivity_tok_s_user): r for r in iso}
    found = []
    for row in iso:
        off = at.get((dataclasses.replace(row.series, speculative="off"), row.interactivity_tok_s_user))
        if row.series.speculative == "off" or off is None:
            continue
        if math.isfinite(row.total_tput_per_gpu_tok_s) and 0 < off.total_tput_per_gpu_tok_s < math.inf:
            lengths = [r.acceptance_length for r in fronts[row.series] if math.isfinite(r.acceptance_length)]
            found.append(
                Gain(row.series, row.interactivity_tok_s_user, off.total_tput_per_gpu_tok_s, row.total_tput_per_gpu_tok_s,
                     off.cost_usd_per_mtok, row.cost_usd_per_mtok, min(lengths, default=math.nan), max(lengths, default=math.nan))
            )  # fmt: skip
    return found


def engines_with_acceptance(fronts: Mapping[Series, Sequence[Row]]) -> list[str]:
    """The engines with acceptance lengths on these frontiers, sorted. Lengths of different engines are not comparable."""
    return sorted({s.engine for s, rows in fronts.items() if any(math.isfinite(r.acceptance_length) for r in rows)})
