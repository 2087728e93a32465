"""Values between the measured points of a frontier: monotone, through every point, and never outside the measured range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import AnalysisError

Floats = NDArray[np.float64]


def interpolated(x: Floats, y: Floats, at: Floats, method: str = "steffen") -> Floats:
    """Y at `at`, NaN outside [x[0], x[-1]].

    Shapes: x and y (N,), x strictly rising; at (M,); result (M,). A single point has a value only at its own x.
    method: steffen (M. Steffen, Astron. Astrophys. 239, 443, 1990), pchip (Fritsch and Butland 1984), linear.
    """
    if method not in METHODS:
        raise AnalysisError(f"Unknown interpolation {method!r}.", next_step="use one of " + ", ".join(METHODS))
    if len(x) == 0:
        return np.full(len(at), np.nan)
    if (np.diff(x) <= 0).any():
        raise AnalysisError("The frontier's interactivity does not rise strictly.")
    values: Floats = interpolated_rows(x[None], y[None], at, method)[0]
    return values


def interpolated_rows(x: Floats, y: Floats, at: Floats, method: str) -> Floats:
    """The same as `interpolated`, for D curves with N points each. Shapes: x and y (D, N), N at least 1; at (M,); result (D, M)."""
    is_inside = (at >= x[:, :1]) & (at <= x[:, -1:])
    if x.shape[1] == 1:
        return np.where(is_inside, y, np.nan)
    i = np.clip((x[:, :, None] <= at).sum(axis=1) - 1, 0, x.shape[1] - 2)
    return np.where(is_inside, _hermite(x, y, METHODS[method](x, y), at, i), np.nan)


def _linear_slopes(x: Floats, y: Floats) -> None:
    """None: straight lines need no slopes at the points."""


def _steffen_slopes(x: Floats, y: Floats) -> Floats:
    h, s = np.diff(x), np.diff(y) / np.diff(x)
    if x.shape[1] == 2:
        return np.repeat(s, 2, axis=1)
    p = (s[:, :-1] * h[:, 1:] + s[:, 1:] * h[:, :-1]) / (h[:, :-1] + h[:, 1:])
    limit = np.minimum(np.minimum(np.abs(s[:, :-1]), np.abs(s[:, 1:])), 0.5 * np.abs(p))
    inner = (np.sign(s[:, :-1]) + np.sign(s[:, 1:])) * limit
    ends = [1.5 * s[:, i : i + 1 or None] - 0.5 * inner[:, i : i + 1 or None] for i in (0, -1)]  # within [s/2, 3s/2]: m is in [0, 2s]
    return np.concatenate([ends[0], inner, ends[1]], axis=1)


def _pchip_slopes(x: Floats, y: Floats) -> Floats:
    from scipy.interpolate import PchipInterpolator  # imported here: it takes 0.3 s and is not the default

    return np.array([PchipInterpolator(one, values).derivative()(one) for one, values in zip(x, y, strict=True)])


def _hermite(x: Floats, y: Floats, slopes: Floats | None, at: Floats, i: NDArray[np.int64]) -> Floats:
    """The cubic of interval `i`, (D, M), or the straight line if there are no slopes."""

    def of(values: Floats, j: NDArray[np.int64]) -> Floats:
        return np.take_along_axis(values, j, axis=1)

    h = of(x, i + 1) - of(x, i)
    t = (at - of(x, i)) / h
    if slopes is None:
        return of(y, i) + t * (of(y, i + 1) - of(y, i))
    value: Floats = (
        of(y, i) * (1 + 2 * t) * (1 - t) ** 2
        + h * of(slopes, i) * t * (1 - t) ** 2
        + of(y, i + 1) * t**2 * (3 - 2 * t)
        + h * of(slopes, i + 1) * t**2 * (t - 1)
    )
    return value


METHODS: dict[str, Callable[[Floats, Floats], Floats | None]] = {
    "steffen": _steffen_slopes,
    "linear": _linear_slopes,
    "pchip": _pchip_slopes,
}
