"""The frontiers as a small plot of characters, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotille

from ..analysis.rows import Row, Series
from ..errors import printable
from .titles import series_titles

MARKERS = "ox+*#%@&$"
MOST = len(MARKERS)  # series


def frontier_plot(fronts: Mapping[Series, Sequence[Row]], width: int, encoding: str = "utf-8") -> str:
    """Throughput per GPU against interactivity, the workload with most series, `width` columns wide.

    Empty if there are no frontiers, or if the terminal's encoding does not have the characters.
    """
    of: dict[tuple[object, ...], list[Series]] = {}
    for series in fronts:
        of.setdefault(series.workload, []).append(series)
    drawn = max(of.values(), key=len, default=[])[:MOST]
    if not drawn or not _has_braille(encoding):
        return ""
    figure = plotille.Figure()
    figure.width, figure.height = max(30, width - 30), 14
    figure.with_colors = False
    figure.set_x_limits(min_=0)
    figure.set_y_limits(min_=0)
    figure.x_label, figure.y_label = "tok/s/user", "tok/s/GPU"
    figure.x_ticks_fkt = figure.y_ticks_fkt = lambda low, high: f"{low:8.0f}"
    named = series_titles(fronts, with_source=True)
    for series, marker in zip(drawn, MARKERS, strict=False):
        rows = fronts[series]
        label = printable(named[series])
        figure.plot([r.interactivity_tok_s_user for r in rows], [r.total_tput_per_gpu_tok_s for r in rows], label=label, marker=marker)
    plot: str = figure.show(legend=True)
    return plot


def _has_braille(encoding: str) -> bool:
    try:
        "\u28ff".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
