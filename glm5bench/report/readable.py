"""Tables to read: Markdown for a page or a terminal, LaTeX for a paper. Figures rounded, a section a kind, definitions below."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ..errors import printable
from .cells import (
    MAY_LACK,
    STEPS,
    band_cells,
    cost_text,
    energy_cells,
    gain_cells,
    lengths_and_spread,
    nearest_cell,
    point_cells,
    ratio_text,
    rounded,
    saturation_cells,
    series_label,
    session_cells,
    startup_cells,
)
from .tables import Tables

DEFINITIONS = (
    "total tok/s/GPU: prompt and output tokens over the whole wall time, divided by the GPUs that the server uses",
    "steady: the same between the first wave and the last; good req/s: requests a second within the bounds of workload.goodput",
    "mean: prompt and output tokens of a request, as the server counted them",
    "tok/s/user (interactivity): 1000 / median TPOT in ms; TPOT = (E2EL - TTFT)/(output tokens - 1)",
    "$/Mtok: ($/GPU/h) / (3600 x total tok/s/GPU / 1e6); $/Mtok node: the same with the node's idle GPUs paid",
)
INTERVAL_DEFINITION = (
    "[low, high], +/-: 95 % intervals. starts: over server starts, what would differ if you measured again; runs: over runs of one start; "
    "requests: within one run. Only `starts` can show that two systems differ. inf: the system may not reach it"
)
ENERGY_DEFINITION = (
    "J, W/GPU and tok/s/MW boards: energy that the GPUs' boards counted over the wall time of the requests; assumed: all-in, of "
    "conf/hardware; capped: share of the readings in which its power limit held a GPU back; used: share of the time with a kernel"
)
SESSIONS_DEFINITION = (
    "agent sessions: conc. is the number of live sessions. P50, P90 tok/s: 1 / percentile of (time of a request / its output tokens). "
    "hit: prompt tokens from the prefix cache; ideal: the same with an infinite cache. fresh: prompt tokens that were computed. "
    "sessions/h: a request counts as its share of its session. late: p99 of sending after the due time, by the client"
)
NUMBER = re.compile(
    r"(not .*|no gain .*|no price|-?[\d.]+×?)?( \+/-[\d.]+)?( \[[-\d., inf]+\])?( starts| runs| requests)?( \(i\))?(, whole node [\d.]+×?)?"
)
READABLE = 5000  # points; of more, Markdown shows the frontiers
ISO_DEFINITION = (
    "perf/$: cost of the baseline over cost of the row, at the same interactivity; whole node: with the idle GPUs of the nodes paid; "
    "not measured: outside the measured range; not reached: a single user is slower; "
    "no gain: measured, and beaten by the end of the frontier"
)


@dataclass(frozen=True)
class Style:
    """How a language has its tables, headings and remarks."""

    table: Callable[[Sequence[Mapping[str, str]]], str]
    heading: Callable[[str], str]
    remark: Callable[[str], str]


def as_markdown(t: Tables) -> str:
    """For a page or a terminal."""
    return _as_text(t, Style(markdown, "## {}".format, "- {}".format))


def as_latex(t: Tables) -> str:
    """For a paper: tables with booktabs' rules, everything else as comments."""
    return _as_text(t, Style(_latex, "% {}".format, "% {}".format))


def _as_text(t: Tables, style: Style) -> str:
    heading, table = style.heading, style.table
    parts: list[str] = []
    if t.notes and len({r["source"] for r in t.frontier}) > 1:
        parts += [style.remark(t.notes[0]), ""]
    if t.n_points > READABLE and t.frontier:
        many = f"{t.n_points:,} points, too many to read: `--table points` prints them all, `--format csv` is quicker"
        parts += [heading("Points"), style.remark(many)]
    elif t.points:
        parts += [heading("Points"), table(point_columns(t.points))]
    if t.frontier:
        parts += [heading("Frontier"), table(point_columns(t.frontier))]
    if t.arms:
        parts += [heading("Frontier of each arm, where a series has several TPs"), table(point_columns(t.arms))]
    for workload in dict.fromkeys(lengths_and_spread(r) for r in t.iso):
        rows = [r for r in t.iso if lengths_and_spread(r) == workload]
        parts += [heading(f"Iso-interactivity: {workload}, interpolation {t.method}"), *_iso(rows, style)]
    for name, (title, cells) in SECTIONS.items():
        if getattr(t, name):
            parts += [heading(title), table(told([cells(r) for r in getattr(t, name)]))]
    definitions = [
        *DEFINITIONS,
        *([ENERGY_DEFINITION] if t.energy else []),
        *([ISO_DEFINITION] if t.iso else []),
        *([INTERVAL_DEFINITION] if _has_interval(t) else []),
        *([SESSIONS_DEFINITION] if t.sessions else []),
    ]
    parts += ["", *map(style.remark, [*definitions, prices_line(t), *t.notes])]
    return "\n".join(_spaced(parts, heading(""))) + "\n"


def prices_line(t: Tables) -> str:
    """Every price that the costs are made with."""
    each = ", ".join(f"{h} {'unknown' if usd is None else f'{usd:g}'}" for h, usd in t.prices.items())
    return f"prices: {t.price_id}, $ per GPU and hour{': ' if each else ''}{each}"


def _has_interval(t: Tables) -> bool:
    return any(r["interval"] for r in (*t.frontier, *t.iso))


def _spaced(parts: Sequence[str], heading: str) -> list[str]:
    spaced: list[str] = []
    for part in parts:
        spaced += ["", part, ""] if part.startswith(heading) and "\n" not in part else [part]
    return spaced[1:] if spaced[0] == "" else spaced


def point_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The columns of the points, without those of which no source says anything."""
    cells = point_cells(rows)
    empty = {name for name in MAY_LACK if not any(row[name] for row in cells)}
    return [{name: text for name, text in row.items() if name not in empty} for row in cells]


def told(cells: list[dict[str, str]]) -> list[dict[str, str]]:
    """The cells without the columns in which nothing stands."""
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    return [{name: row[name] for name in names} for row in cells]


def _iso(rows: Sequence[Mapping[str, Any]], style: Style) -> list[str]:
    """A row an interactivity, a series a column: what it costs, and below that its ratio to the baseline and how it splits."""
    labels = list(dict.fromkeys(series_label(r) for r in rows))
    cells = {(r["interactivity_tok_s_user"], series_label(r)): r for r in rows}
    grid = sorted({r["interactivity_tok_s_user"] for r in rows if r["total_tput_per_gpu_tok_s"] is not None})
    if not grid:
        return [style.remark("no series was measured at these interactivities")]
    costs = [{"tok/s/user": f"{x:g}", **{label: cost_text(cells[x, label]) for label in labels}} for x in grid]
    table = style.table
    parts = [
        style.remark("$/Mtok; (i): interpolated between measured points; in brackets the 95 % interval and its level"),
        "",
        table(costs),
    ]
    baselines = {series_label(r) for r in rows if r["is_baseline"]}  # several: nobody says whether these workloads are the same
    baseline = next(iter(baselines)) if len(baselines) == 1 else ""
    others = [label for label in labels if label != baseline] if baseline else []
    ratios = [{"tok/s/user": f"{x:g}", **{label: ratio_text(cells[x, label]) for label in others}} for x in grid]
    ratios = [line for line in ratios if any(line[label] for label in others)]
    if ratios:
        parts += ["", style.remark(f"perf/$ against {baseline}, and its split into steps"), "", table(ratios), *_also(rows, style)]
    break_even = [
        {"tok/s/user": f"{x:g}", **{label: rounded(cells[x, label]["break_even_usd_per_gpu_h"], 2) for label in others}} for x in grid
    ]
    break_even = [line for line in break_even if any(line[label] for label in others)]
    if break_even:
        parts += ["", style.remark(f"$/GPU/h at which a token costs what it costs on {baseline}"), "", table(break_even)]
    nearest = [{"tok/s/user": f"{x:g}", **{label: nearest_cell(cells[x, label]) for label in labels}} for x in grid]
    nearest = [line for line in nearest if any(line[label] for label in labels)]
    if not nearest:
        return parts
    return [*parts, "", style.remark("nearest measured point: tok/s/user, TP and concurrency"), "", table(nearest)]


def _also(rows: Sequence[Mapping[str, Any]], style: Style) -> list[str]:
    """Steps that change more than one setting, each once."""
    said = dict.fromkeys((name, r[f"{name}_step_also"]) for r in rows for name in STEPS if r[f"{name}_step_also"])
    return ["", *(style.remark(f"the step of {name} also changes {also.replace(',', ', ')}") for name, also in said)] if said else []


SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, str]]]] = {
    "bands": ("Ratios as a whole", band_cells),
    "saturation": ("Saturation", saturation_cells),
    "speculation": ("Speculative decoding against none, at the same interactivity", gain_cells),
    "energy": ("Energy of the frontiers' points, measured by the GPUs", energy_cells),
    "sessions": ("Agent sessions", session_cells),
    "startup": ("Server starts, means of an arm: seconds, and memory of one GPU", startup_cells),
}


def _latex(rows: Sequence[Mapping[str, str]]) -> str:
    cells = [[printable(text) for text in r.values()] for r in rows]
    return tabulate(cells, headers=[printable(h) for h in rows[0]], tablefmt="latex_booktabs", disable_numparse=True)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of texts, columns of numbers to the right."""
    numeric = [all(_is_number(r[c]) for r in rows) for c in rows[0]]
    align = ["right" if n else "left" for n in numeric]
    cells = [[printable(text).replace("|", "\\|") for text in r.values()] for r in rows]
    return tabulate(cells, headers=[printable(h) for h in rows[0]], tablefmt="github", disable_numparse=True, colalign=align)


def _is_number(text: str) -> bool:
    return bool(NUMBER.fullmatch(text))
