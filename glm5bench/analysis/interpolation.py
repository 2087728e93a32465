"""Values between the measured points of a frontier: monotone, through every point, and never outside the measured range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import AnalysisError

Floats = NDArray[np.float64]


def interpolated(x: Floats, y: Floats, at: Floats, method: str = "steffen") -> Floats:
    """Y at `at`, NaN outside [x[0], x[-1]].

    Shapes: x and y (N,), x strictly rising; at (M,); result (M,). One point answers at its own x only.
    method: steffen (M. Steffen, Astron. Astrophys. 239, 443, 1990), pchip (Fritsch and Butland 1984), linear.
    """
    if method not in METHODS:
        raise AnalysisError(f"There is no interpolation {method!r}.", next_step="one of " + ", ".join(METHODS))
    if len(x) == 0:
        return np.full(len(at), np.nan)
    if (np.diff(x) <= 0).any():
        raise AnalysisError("The frontier's interactivity does not rise strictly.")
    inside = (at >= x[0]) & (at <= x[-1])
    result = np.full(len(at), np.nan)
    result[inside] = y[0] if len(x) == 1 else METHODS[method](x, y, at[inside])
    return result


def _linear(x: Floats, y: Floats, at: Floats) -> Floats:
    return np.interp(at, x, y)


def _steffen(x: Floats, y: Floats, at: Floats) -> Floats:
    return _hermite(x, y, _steffen_slopes(x, y), at)


def _pchip(x: Floats, y: Floats, at: Floats) -> Floats:
    return _hermite(x, y, _pchip_slopes(x, y), at)


def _steffen_slopes(x: Floats, y: Floats) -> Floats:
    h, s = np.diff(x), np.diff(y) / np.diff(x)
    if len(x) == 2:
        return np.array([s[0], s[0]])
    p = (s[:-1] * h[1:] + s[1:] * h[:-1]) / (h[:-1] + h[1:])
    limit = np.minimum(np.minimum(np.abs(s[:-1]), np.abs(s[1:])), 0.5 * np.abs(p))
    inner = (np.sign(s[:-1]) + np.sign(s[1:])) * limit
    return np.concatenate([[_steffen_end(s[0], inner[0])], inner, [_steffen_end(s[-1], inner[-1])]])


def _steffen_end(s: float, m: float) -> float:
    """(3s - m)/2: within [s/2, 3s/2], because the inner slope m lies within [0, 2s], so that the interval stays monotone."""
    return 1.5 * s - 0.5 * m


def _pchip_slopes(x: Floats, y: Floats) -> Floats:
    h, s = np.diff(x), np.diff(y) / np.diff(x)
    if len(x) == 2:
        return np.array([s[0], s[0]])
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        harmonic = (w1 + w2) / (w1 / s[:-1] + w2 / s[1:])
    inner = np.where(s[:-1] * s[1:] > 0, harmonic, 0.0)
    return np.concatenate([[_pchip_end(h[0], h[1], s[0], s[1])], inner, [_pchip_end(h[-1], h[-2], s[-1], s[-2])]])


def _pchip_end(h0: float, h1: float, s0: float, s1: float) -> float:
    slope = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
    if np.sign(slope) != np.sign(s0):
        return 0.0
    return 3 * s0 if np.sign(s0) != np.sign(s1) and abs(slope) > 3 * abs(s0) else float(slope)


def _hermite(x: Floats, y: Floats, m: Floats, at: Floats) -> Floats:
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    h, t = x[i + 1] - x[i], (at - x[i]) / (x[i + 1] - x[i])
    value: Floats = (
        y[i] * (1 + 2 * t) * (1 - t) ** 2 + h * m[i] * t * (1 - t) ** 2 + y[i + 1] * t**2 * (3 - 2 * t) + h * m[i + 1] * t**2 * (t - 1)
    )
    return value


METHODS: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {"steffen": _steffen, "linear": _linear, "pchip": _pchip}
