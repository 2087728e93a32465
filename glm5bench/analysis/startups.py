"""The cost of starting a server of an arm: seconds by phase, memory, and the planned and actual size of the KV cache.

Input: rows. Output: one value per arm, with means over its starts. A server start counts once, even if several points were measured on it.
Start-up costs money, because GPUs that load weights are paid for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rows import Row, Series, series_order

FIGURES = (
    "start_s",
    "image_s",
    "load_s",
    "compile_s",
    "graphs_s",
    "weights_gib",
    "kv_gib",
    "graphs_gib",
    "kv_tokens",
    "kv_tokens_predicted",
)


@dataclass(frozen=True)
class Startup:
    """Means of FIGURES over an arm's server starts; NaN if no engine reported the figure."""

    series: Series
    tp: int
    n_starts: int
    gpus_per_node: int
    figures: dict[str, float]


def startups(rows: Sequence[Row]) -> list[Startup]:
    """The start-ups of every arm with a known start. Invalid points are included, because their server did start."""
    starts: dict[tuple[Series, int], dict[tuple[object, ...], Row]] = {}
    for row in rows:
        if math.isfinite(row.of("start_s")):
            one = (row.node, row.job_id, row.of("start_s"))
            starts.setdefault((row.series, row.tp), {}).setdefault(one, row)
    in_order = sorted(starts, key=lambda arm: (*series_order(arm[0]), arm[1]))
    return [
        Startup(series, tp, len(own), max(r.gpus_per_node for r in own), {name: _mean([r.of(name) for r in own]) for name in FIGURES})
        for series, tp in in_order
        for own in [list(starts[series, tp].values())]
    ]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan
