"""The energy of a server's GPUs over exactly the measured window. Pure.

Energy comes from the GPU's own counter, or else from the area under its power readings. If a GPU has both, they must agree. If the energy
cannot be determined, it is NaN and has a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .reasons import Reason
from .telemetry import Curve, Telemetry

GAP_S = 3.0  # longest time between two readings
WITHIN = 3  # least number of readings inside a window, to compare counter and power without its edges
AGREEMENT = 0.05  # largest difference between the counter and the area under the power, as a share
THERMAL_SHARE = 0.01  # share of the readings in which a GPU slowed itself down


@dataclass(frozen=True)
class Energy:
    """Joules of all GPUs over the window, in simulated time for simulations; NaN if they cannot be determined.

    `faults`: the reasons for NaN.
    """

    joules: float
    power_w: float  # mean, of all GPUs
    faults: tuple[Reason, ...]


def energy(t: Telemetry, devices: Sequence[str], start_ns: int, end_ns: int, *, time_scale: float = 1.0) -> Energy:
    """The energy of these GPUs. `devices`: UUIDs of all GPUs that the server uses, including those without readings."""
    counters, powers = t.curves("energy"), t.curves("power")
    unseen = [d for d in devices if d not in counters and d not in powers]
    if unseen or not devices or end_ns <= start_ns:
        told = f"{len(unseen)} of {len(devices)} GPUs reported no power, the first is {unseen[0]}" if unseen else "no GPU was read"
        return missing(told)
    joules = 0.0
    for device in devices:
        own = [curves[device] for curves in (counters, powers) if device in curves]
        if not all(curve.covers(start_ns, end_ns) for curve in own):
            return _none("power_gap", f"the readings of {device} do not cover the whole window")
        gap = max(curve.longest_gap_s(start_ns, end_ns) for curve in own)
        if gap > GAP_S:
            return _none("power_gap", f"{device} was not read for {gap:.1f} s")
        counted = counters[device].gained(start_ns, end_ns) if device in counters else math.nan
        area = powers[device].integral(start_ns, end_ns) * time_scale if device in powers else math.nan
        if _differ(counted, area) and _differ(*_within(counters[device], powers[device], start_ns, end_ns, time_scale)):
            return _none("power_disagrees", f"{device} counted {counted:,.0f} J, but its power readings add up to {area:,.0f} J")
        joules += area if math.isnan(counted) else counted
    if not math.isfinite(joules):
        return _none("power_disagrees", "the sum of the energy readings is not a finite number")
    seconds = (end_ns - start_ns) / 1e9 * time_scale
    return Energy(joules, joules / seconds, ())


def _differ(counted: float, area: float) -> bool:
    return abs(counted - area) > AGREEMENT * max(counted, area)


def _within(counter: Curve, power: Curve, start_ns: int, end_ns: int, time_scale: float) -> tuple[float, float]:
    """Counter and area between the first and the last power reading in the window, because the time of the jumps at its edges is unknown.

    With fewer than three readings inside, the values are those of the whole window.
    """
    inside = power.at_ns[(power.at_ns >= start_ns) & (power.at_ns <= end_ns)]
    begin, end = (int(inside[0]), int(inside[-1])) if len(inside) >= WITHIN else (start_ns, end_ns)
    return counter.gained(begin, end), power.integral(begin, end) * time_scale


def missing(why: str) -> Energy:
    """The result if not every GPU was read."""
    return _none("power_gpu_missing", why)


def _none(code: str, text: str) -> Energy:
    return Energy(math.nan, math.nan, (Reason(code, text),))


def faults(t: Telemetry, devices: Sequence[str], start_ns: int, end_ns: int) -> list[Reason]:
    """Other reasons from the GPUs: they slowed themselves down, or counted memory errors."""
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
