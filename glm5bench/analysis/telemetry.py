"""Readings over time that were taken during the load: of each GPU, of the server and of the observer. Pure; uses the requests' clock.

Input: the readings. Output: tracks (one quantity of one device over time), and their means, integrals and increases over a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import AnalysisError
from .metrics import Floats, Ints

SERVER, OBSERVER = "server", "observer"  # devices that are not GPUs


@dataclass(frozen=True)
class Track:
    """One quantity of one device: a GPU by its UUID, `server`, or `observer` (the process that reads)."""

    device: str
    name: str
    unit: str


@dataclass(frozen=True)
class Curve:
    """The readings of one track: `at_ns` (S,), rising, ns since the run's start, negative before it; `value` (S,), finite."""

    at_ns: Ints
    value: Floats

    def inside(self, start_ns: int, end_ns: int) -> Floats:
        """The values that were read inside the window."""
        return self.value[(self.at_ns >= start_ns) & (self.at_ns <= end_ns)]

    def mean(self, start_ns: int, end_ns: int) -> float:
        """The mean over the window, with straight lines between readings. Raises AnalysisError if the readings do not cover the window."""
        return self.integral(start_ns, end_ns) / ((end_ns - start_ns) / 1e9)

    def integral(self, start_ns: int, end_ns: int) -> float:
        """The area under the readings in the window by the trapezoidal rule, in units x s, with interpolated ends."""
        self._refuse_outside(start_ns, end_ns)
        within = (self.at_ns > start_ns) & (self.at_ns < end_ns)
        x = np.concatenate([[start_ns], self.at_ns[within], [end_ns]])
        y = np.interp(x, self.at_ns, self.value)
        with np.errstate(over="ignore", invalid="ignore"):  # untrusted readings may overflow; the caller reports inf and NaN
            return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / 1e9)

    def gained(self, start_ns: int, end_ns: int) -> float:
        """The increase of a counter over the window, with interpolated ends. Decreases (a counter that restarted) are not counted."""
        self._refuse_outside(start_ns, end_ns)
        with np.errstate(over="ignore", invalid="ignore"):
            rising = np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(self.value), 0.0))])
            low, high = np.interp([start_ns, end_ns], self.at_ns, rising)
            return float(high - low)

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether there are readings at or before the start of the window, and at or after its end."""
        return bool(len(self.at_ns) and self.at_ns[0] <= start_ns and self.at_ns[-1] >= end_ns)

    def longest_gap_s(self, start_ns: int, end_ns: int) -> float:
        """The longest time without a reading that touches the window, in real seconds, also for simulations."""
        first = max(0, int(np.searchsorted(self.at_ns, start_ns, side="right")) - 1)
        last = int(np.searchsorted(self.at_ns, end_ns, side="left"))
        return float(np.diff(self.at_ns[first : last + 1]).max(initial=0)) / 1e9

    def _refuse_outside(self, start_ns: int, end_ns: int) -> None:
        if not self.covers(start_ns, end_ns) or end_ns <= start_ns:
            raise AnalysisError("The readings do not cover the window.")


@dataclass(frozen=True)
class Telemetry:
    """All readings of a run. `track` (S,) is the index in `tracks`; rows are grouped by track, each by rising time."""

    tracks: tuple[Track, ...]
    track: Ints
    at_ns: Ints
    value: Floats

    @classmethod
    def of(cls, curves: Sequence[tuple[Track, Sequence[int], Sequence[float | None]]]) -> Telemetry:
        """The telemetry of (track, times in ns, values). Missing and non-finite values are left out, and so are tracks without values."""
        kept = []
        for track, at, values in curves:
            value = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
            is_read = np.isfinite(value)
            if is_read.any():
                kept.append((track, np.array(at, dtype=np.int64)[is_read], value[is_read]))
        return cls(
            tuple(track for track, _, _ in kept),
            np.repeat(np.arange(len(kept), dtype=np.int64), [len(at) for _, at, _ in kept]),
            np.concatenate([np.empty(0, np.int64), *(at for _, at, _ in kept)]),
            np.concatenate([np.empty(0, np.float64), *(value for _, _, value in kept)]),
        )

    def curves(self, name: str) -> dict[str, Curve]:
        """The quantity over time, for each device that has it."""
        return {t.device: self._curve(i) for i, t in enumerate(self.tracks) if t.name == name}

    def every(self) -> Iterator[tuple[Track, Curve]]:
        """Every track with its curve."""
        yield from ((t, self._curve(i)) for i, t in enumerate(self.tracks))

    def _curve(self, i: int) -> Curve:
        own = self.track == i
        return Curve(self.at_ns[own], self.value[own])
