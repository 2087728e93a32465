"""The figures as pictures, in a size that fits a paper's column. Measured, published and simulated arms look as they do in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from ..analysis.comparison import Comparison
from ..analysis.repeats import half_interval
from ..analysis.rows import Row, Series
from ..errors import EnvironmentLacks, printable
from .titles import series_titles

COLUMN_IN = (3.4, 2.9)  # inches
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6000", "#6A3D9A")  # Okabe and Ito's, for the colour-blind
MARKERS = ("o", "s", "D", "^", "P", "X", "*", "h")
LINES = {"measured": "-", "published": "--", "simulated": ":"}
LOOK: Any = {
    "font.size": 7, "axes.labelsize": 7, "legend.fontsize": 6, "axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3.6,
    "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "glm5bench", "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}  # the same points make the same bytes


def write_figures(c: Comparison, folder: Path, formats: Sequence[str], *, price_id: str) -> list[Path]:
    """Throughput and cost against interactivity, of the workload with most series: the files. Raises EnvironmentLacks where it cannot."""
    of: dict[tuple[object, ...], list[Series]] = {}
    for series in c.fronts:
        of.setdefault(series.workload, []).append(series)
    drawn = max(of.values(), key=len, default=[])
    wanted: dict[str, tuple[Callable[[Row], float], str]] = {
        "throughput": (lambda r: r.total_tput_per_gpu_tok_s, "total tok/s/GPU"),
        "cost": (c.economy.cost, r"\$/Mtok (" + printable(price_id).replace("$", r"\$") + ")"),
    }
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (height, label) in wanted.items():
            with mpl.rc_context(LOOK):
                figure = _figure(c, drawn, height, label, _prices(c, drawn) if name == "cost" else "")
                for kind in formats:
                    made.append(folder / f"{name}.{kind}")
                    figure.savefig(made[-1], format=kind, dpi=300, metadata=NO_DATE[kind])
    except OSError as error:
        raise EnvironmentLacks(f"The figures cannot be written: {error.strerror}.", where=str(folder)) from error
    return made


def _prices(c: Comparison, drawn: Sequence[Series]) -> str:
    """The price of each GPU that is drawn."""
    known = {h: c.economy.usd_per_gpu_h.get(h) for h in sorted({s.hardware for s in drawn})}
    told = ", ".join(f"{printable(h)} {usd:g}" for h, usd in known.items() if usd is not None)
    return rf"\$ per GPU and hour: {told}" if told else ""


def _figure(c: Comparison, drawn: Sequence[Series], height: Callable[[Row], float], label: str, note: str) -> Figure:
    figure = Figure(figsize=COLUMN_IN, layout="constrained")
    axes: Any = figure.subplots()
    sources = {series.source for series in drawn}
    if len(sources) == 1 and sources != {"measured"}:
        axes.set_title(f"{sources.copy().pop().upper()} points", fontsize=7, loc="right", color="0.35")
    named = series_titles(drawn, with_source=len(sources) > 1)
    for i, series in enumerate(drawn):
        rows = c.fronts[series]
        name = printable(named[series])
        axes.errorbar(
            [r.interactivity_tok_s_user for r in rows], [height(r) for r in rows], yerr=_error(rows, height),
            color=COLORS[i % len(COLORS)], marker=MARKERS[(i + i // len(COLORS)) % len(MARKERS)], linestyle=LINES[series.source],
            markerfacecolor=COLORS[i % len(COLORS)] if series.source == "measured" else "white", label=name.replace("$", r"\$"),
            capsize=1.5, elinewidth=0.7, clip_on=False,
        )  # fmt: skip
    axes.set(xlabel="interactivity, tok/s/user" + (f"\n{note}" if note else ""), ylabel=label, yscale="log", xlim=(0, None))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, linewidth=0.4)
    if drawn:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=2.6, columnspacing=1.2)
    return figure


def _error(rows: Sequence[Row], height: Callable[[Row], float]) -> list[list[float]] | None:
    """Bars of 95 %, in proportion to those of throughput; None where nothing is known."""
    shares = [half_interval(r, "total_tput_per_gpu_tok_s") / r.total_tput_per_gpu_tok_s for r in rows]
    if all(s != s for s in shares):  # noqa: PLR0124  NaN
        return None
    known = [min(s, 0.99) if s == s else 0.0 for s in shares]  # noqa: PLR0124
    return [[height(r) * s for r, s in zip(rows, known, strict=True)]] * 2
