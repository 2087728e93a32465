"""The points that no other point beats in both interactivity and throughput per GPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frontier(interactivity: NDArray[np.float64], throughput: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the frontier points, by rising interactivity and strictly falling throughput.

    Shapes: both (N,). Points with a NaN or a value of 0 are never on it; of equal points, the first one is.
    """
    finite = np.flatnonzero(np.isfinite(interactivity) & np.isfinite(throughput) & (interactivity > 0) & (throughput > 0))
    best, kept = -np.inf, []
    for i in sorted(finite.tolist(), key=lambda j: (-interactivity[j], -throughput[j], j)):
        if throughput[i] > best:
            best = float(throughput[i])
            kept.append(i)
    return np.array(kept[::-1], dtype=np.int64)
