"""The energy of a server's GPUs over exactly the measured window, and what it was spent on. Pure.

Two ways to it: the GPU's own counter, and the area under its power. The counter counts where there is one; a GPU that has both must
agree with itself. What cannot be said is no figure, and has its reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .reasons import Reason
from .telemetry import Curve, Telemetry

GAP_S = 3.0  # longest time between two readings
WITHIN = 3  # readings inside of a window, between which counter and power are compared where its edges hide what happened
AGREEMENT = 0.05  # of the counter with the area under the power
THERMAL_SHARE = 0.01  # of the readings in which a GPU slowed itself down


@dataclass(frozen=True)
class Energy:
    """Joules of all GPUs over the window, of simulated seconds where the clock ran faster; NaN where they cannot be said.

    `faults`: reason code and sentence.
    """

    joules: float
    power_w: float  # mean, of all GPUs
    faults: tuple[Reason, ...]


def energy(t: Telemetry, devices: Sequence[str], start_ns: int, end_ns: int, *, time_scale: float = 1.0) -> Energy:
    """Of these GPUs, by their UUIDs: those that the server uses, read or not."""
    counters, powers = t.curves("energy"), t.curves("power")
    unseen = [d for d in devices if d not in counters and d not in powers]
    if unseen or not devices or end_ns <= start_ns:
        told = f"{len(unseen)} of {len(devices)} GPUs gave no power, the first {unseen[0]}" if unseen else "no GPU was read"
        return missing(told)
    joules = 0.0
    for device in devices:
        own = [curves[device] for curves in (counters, powers) if device in curves]
        if not all(curve.covers(start_ns, end_ns) for curve in own):
            return _none("power_gap", f"{device} was not read from before the window until after it")
        gap = max(curve.longest_gap_s(start_ns, end_ns) for curve in own)
        if gap > GAP_S:
            return _none("power_gap", f"{device} was not read for {gap:.1f} s")
        counted = counters[device].gained(start_ns, end_ns) if device in counters else math.nan
        area = powers[device].integral(start_ns, end_ns) * time_scale if device in powers else math.nan
        if _differ(counted, area) and _differ(*_within(counters[device], powers[device], start_ns, end_ns, time_scale)):
            return _none("power_disagrees", f"{device} counted {counted:,.0f} J, and its power adds up to {area:,.0f} J")
        joules += area if math.isnan(counted) else counted
    if not math.isfinite(joules):
        return _none("power_disagrees", "the readings add up to no finite energy")
    seconds = (end_ns - start_ns) / 1e9 * time_scale
    return Energy(joules, joules / seconds, ())


def _differ(counted: float, area: float) -> bool:
    return abs(counted - area) > AGREEMENT * max(counted, area)


def _within(counter: Curve, power: Curve, start_ns: int, end_ns: int, time_scale: float) -> tuple[float, float]:
    """Both between the first and the last reading of power in the window: at its edges power jumps, and nobody saw when.

    The same as over the window where fewer than three readings are inside.
    """
    inside = power.at_ns[(power.at_ns >= start_ns) & (power.at_ns <= end_ns)]
    begin, end = (int(inside[0]), int(inside[-1])) if len(inside) >= WITHIN else (start_ns, end_ns)
    return counter.gained(begin, end), power.integral(begin, end) * time_scale


def missing(why: str) -> Energy:
    """Where not every GPU was read."""
    return _none("power_gpu_missing", why)


def _none(code: str, text: str) -> Energy:
    return Energy(math.nan, math.nan, (Reason(code, text),))


def faults(t: Telemetry, devices: Sequence[str], start_ns: int, end_ns: int) -> list[Reason]:
    """What GPUs say against a figure besides: that they slowed themselves down, that their memory erred."""
    found = []
    slowed = {d: c.inside(start_ns, end_ns) for d, c in t.curves("slowed_down").items() if d in devices}
    shares = {d: float((inside > 0).mean()) for d, inside in slowed.items() if len(inside)}
    if shares and max(shares.values()) > THERMAL_SHARE:
        worst = max(shares, key=lambda d: shares[d])
        said = f"{worst} slowed itself down (heat or its power supply) in {shares[worst]:.0%} of the readings"
        found.append(Reason("gpu_slowed_down", said))
    erred = {d: c.gained(start_ns, end_ns) for d, c in t.curves("ecc_uncorrected").items() if d in devices and c.covers(start_ns, end_ns)}
    if any(erred.values()):
        worst = max(erred, key=lambda d: erred[d])
        found.append(Reason("gpu_memory_errors", f"{worst} counted {erred[worst]:.0f} uncorrected memory errors"))
    return found
