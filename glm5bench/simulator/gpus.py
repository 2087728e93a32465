"""Readings of the simulated server's GPUs: power, energy, memory. They are computed from two constants and are never a measurement.

A GPU is busy while a step runs and idle otherwise; its energy counter runs in simulated seconds. Quantities that are not simulated
(clocks, temperature, errors) are missing. The format is that of telemetry/double.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .options import Options

BUSY, IDLE = 0.4, 0.05  # shares of the hardware's all-in power, which includes fans, CPUs and network


@dataclass
class Meter:
    """The energy of one GPU since the start. Call `turn` when a step begins or when nothing is left to do."""

    time_scale: float
    busy_w: float
    idle_w: float
    is_busy: bool = False
    _joules: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    @property
    def power_w(self) -> float:
        """The power now."""
        return self.busy_w if self.is_busy else self.idle_w

    @property
    def joules(self) -> float:
        """The energy until now."""
        return self._joules + (time.monotonic() - self._since) * self.time_scale * self.power_w

    def turn(self, *, busy: bool) -> None:
        """Sets whether the GPU is busy from now on."""
        if busy != self.is_busy:
            self._joules, self._since, self.is_busy = self.joules, time.monotonic(), busy


def meter(o: Options) -> Meter:
    """The meter of each of the server's GPUs, which all have the same load."""
    watts = o.arm.hardware.power_kw * 1e3
    return Meter(o.time_scale, BUSY * watts, IDLE * watts)


def readings(o: Options, m: Meter) -> list[dict[str, Any]]:
    """One reading of each GPU, in NVML's units."""
    one = {
        "name": f"simulated {o.arm.hardware.id}",
        "power_mw": round(m.power_w * 1e3),
        "energy_mj": round(m.joules * 1e3),
        "utilisation_percent": 100 if m.is_busy else 0,
        "memory_used_b": round((o.memory.weights_gib + o.memory.kv_gib) * 2**30),
    }
    return [{"uuid": f"GPU-simulated-{i}", **one} for i in range(o.arm.tp)]
