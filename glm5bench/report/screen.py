"""The tables on a terminal: cost at equal interactivity first, then the frontier, in the width that there is.

`--format md`, csv and json are complete; this form leaves columns and rows out, and says which command prints them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ..errors import counted, printable
from .cells import STEPS, lengths_and_spread, nearest_cell, rounded
from .legend import LEFT_OUT, flags, flags_of_all, footer, wrapped
from .readable import SECTIONS, point_columns, told
from .tables import NAMES, Tables
from .titles import title_of, titles

LINES = 60
LEAST_ROWS = 6  # of a frontier, however much there is above it
Cells = dict[str, str]

OF_ALL = ("source", "engine", "ISL/OSL", "served by", "against")  # above the table if it is the same in all rows
TEXT_WIDTH = 28  # of a cell of words; a longer one takes several lines
LEAST_NEEDED = ("TPOT ms", "95 %", "TTFT ms", "TTFT p99 ms", "flags", "TP", "whole node")  # the first goes first if a screen is narrow


def as_screen(t: Tables, *, width: int, is_whole: bool = False) -> str:
    """The answer in at most LINES lines and `width` columns; `is_whole`: every table, as long as it is."""
    named = _Titles(t)
    with_sources = len({r["source"] for r in (*t.iso, *t.frontier)}) > 1
    parts = [wrapped(f"note: {note}", width) for note in t.notes]
    workloads = list(dict.fromkeys(lengths_and_spread(r) for r in t.iso))
    iso = [_iso(w, [r for r in t.iso if lengths_and_spread(r) == w], named, width, is_whole=is_whole) for w in workloads]
    iso = [block for block in iso if block]
    kept = iso if is_whole else _first(iso, LINES // 2)
    parts += kept
    if len(kept) < len(iso):
        n = len(iso) - len(kept)
        parts.append(f"{counted(n, 'more table')} of other workloads or sources: `--table iso` prints all {len(iso)}.")
    if is_whole:
        parts += [_section(name, t, width) for name in NAMES if name not in ("iso",) and getattr(t, name)]
        return "\n\n".join([*parts, "\n".join(footer(t, "\n".join(parts), t.frontier or t.points, width))]) + "\n"
    if t.sessions:
        parts.append(_section("sessions", t, width))
    alone = [r for r in t.points if "content=sessions" not in r["variant"].split()]
    rows, heading = (t.frontier, "Frontier: the points that no other beats in both figures") if t.frontier else (alone, "Points")
    for most in range(min(len(rows), LINES), LEAST_ROWS - 1, -1) if len(rows) > LEAST_ROWS else [LEAST_ROWS]:
        body = "\n\n".join([*parts, *([_points(rows, heading, named, width, most, with_sources=with_sources)] if rows else [])])
        text = "\n".join([body, "", *footer(t, body, [*t.sessions, *rows], width)]) + "\n"
        if text.count("\n") <= LINES:
            break
    return text


def one_table(t: Tables, name: str, *, width: int) -> str:
    """One of the tables with all its rows, and the columns that fit."""
    if name == "iso":
        named = _Titles(t)
        workloads = list(dict.fromkeys(lengths_and_spread(r) for r in t.iso))
        blocks = [_iso(w, [r for r in t.iso if lengths_and_spread(r) == w], named, width, is_whole=True) for w in workloads]
        body = "\n\n".join(filter(None, blocks))
    else:
        body = _section(name, t, width)
    return "\n".join([body, "", *footer(t, body, getattr(t, name), width)]) + "\n"


class _Titles:
    """The titles of all series of the tables."""

    def __init__(self, t: Tables) -> None:
        shown = (*t.iso, *(t.frontier or t.points))
        self._named = titles(shown, with_source=False)

    def __call__(self, r: Mapping[str, Any]) -> str:
        return title_of(self._named, r)


def _first(blocks: Sequence[str], lines: int) -> list[str]:
    kept: list[str] = []
    for block in blocks:
        lines -= block.count("\n") + 2
        if kept and lines < 0:
            break
        kept.append(block)
    return kept


def _iso(workload: str, rows: Sequence[Mapping[str, Any]], named: _Titles, width: int, *, is_whole: bool) -> str:
    """A row a series, an interactivity a column. With `is_whole` every interactivity, and the steps of the ratios."""
    grid = sorted({r["interactivity_tok_s_user"] for r in rows if r["total_tput_per_gpu_tok_s"] is not None})
    if not grid:
        asked = ", ".join(f"{x:g}" for x in sorted({r["interactivity_tok_s_user"] for r in rows}))
        none = f"Cost at equal interactivity: no series of {workload} was measured on both sides of {asked} tok/s/user."
        return "\n".join(textwrap.wrap(f"{none} `--at` chooses others.", width, break_on_hyphens=False))
    of: dict[str, dict[float, Mapping[str, Any]]] = {}
    for r in rows:
        of.setdefault(named(r), {})[r["interactivity_tok_s_user"]] = r
    baselines = [named(r) for r in rows if r["is_baseline"]]
    baseline = baselines[0] if len(set(baselines)) == 1 else ""
    lines = [line for title, cells in of.items() for line in _series_lines(title, cells, grid, baseline, is_whole=is_whole)]
    label_width = max(len(line[0]) for line in lines)
    cell_width = max(5, *(len(text) for line in lines for text in line[1]))
    fit = max(1, (width - max(label_width, 10)) // (cell_width + 2))
    chosen = [list(range(len(grid)))[i : i + fit] for i in range(0, len(grid), fit)] if is_whole else [_spread(len(grid), fit)]
    blocks = [_grid_block(lines, grid, columns) for columns in chosen]
    if not is_whole and len(grid) > fit:
        blocks.append(f"{fit} of {len(grid)} interactivities: `--table iso` prints all, `--at 30,50` chooses.")
    return "\n".join(["Cost in $/Mtok at equal interactivity", *textwrap.wrap(f"({workload})", width), *blocks])


def _grid_block(lines: Sequence[tuple[str, list[str]]], grid: Sequence[float], columns: Sequence[int]) -> str:
    cells = [[label, *(texts[i] for i in columns)] for label, texts in lines if not label.startswith(" ") or any(texts[i] for i in columns)]
    return _table([["tok/s/user", *(f"{grid[i]:g}" for i in columns)], *cells], ["left", *(["right"] * len(columns))])


def _table(rows: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    """Columns as narrow as their texts, a rule below the first row. (tabulate pads its own headers by two columns more.)"""
    lines = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align, preserve_whitespace=True).splitlines()
    lines = [line.rstrip() for line in lines]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _series_lines(
    title: str, cells: Mapping[float, Mapping[str, Any]], grid: Sequence[float], baseline: str, *, is_whole: bool
) -> list[tuple[str, list[str]]]:
    """The costs of a series, then its interval, the cost of the whole node, and the ratio to the baseline, each only if known."""
    at = [cells.get(x) for x in grid]
    lines = [(title, [_cost(r) for r in at])]

    def add(label: str, text: Callable[[Mapping[str, Any]], str]) -> None:
        texts = ["" if r is None else text(r) for r in at]
        if any(texts):
            lines.append((label, texts))

    for level in dict.fromkeys(r["interval"] for r in at if r and r["interval"]):
        add(f"  95 % over {level}", lambda r, of=level: _between(r, "cost_usd_per_mtok") if r["interval"] == of else "")  # type: ignore[misc]
    add("  whole node", lambda r: rounded(r["node_cost_usd_per_mtok"], 2))
    if baseline and title != baseline:
        add(f"  × vs {baseline}", lambda r: _times(r["perf_per_dollar_vs_baseline"]))
        for level in dict.fromkeys(r["ratio_interval"] for r in at if r and r["ratio_interval"]):
            add(
                f"    95 % over {level}",
                lambda r, of=level: _between(r, "perf_per_dollar_vs_baseline") if r["ratio_interval"] == of else "",  # type: ignore[misc]
            )
        add("    whole node", lambda r: _times(r["node_perf_per_dollar_vs_baseline"]))
        if is_whole:
            for step in STEPS:
                add(f"    by {step}", lambda r, of=step: _times(r[f"{of}_step"]))  # type: ignore[misc]
            add("    break-even $/GPU/h", lambda r: rounded(r["break_even_usd_per_gpu_h"], 2))
    if is_whole:
        add("  nearest point", nearest_cell)
    return lines


def _cost(r: Mapping[str, Any] | None) -> str:
    """The cost, or one of the marks that the footer explains."""
    if r is None:
        return ""
    if r["total_tput_per_gpu_tok_s"] is not None:
        return "no price" if r["cost_usd_per_mtok"] is None else rounded(r["cost_usd_per_mtok"], 2)
    way, _, number = (r["beyond"] or "").rpartition(" ")
    if r["status"] == "not measured" and "concurrency" in way:
        return f"c{'<' if way.startswith('below') else '>'}{number}"
    return {"not reached": "none", "no gain": "no gain"}.get(r["status"], "-")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


def _between(r: Mapping[str, Any], name: str) -> str:
    low, high = r[f"{name}_low"], r[f"{name}_high"]
    if low is None and high is None:
        return ""
    return f"{0 if low is None else low:.2f}-{'inf' if high is None else f'{high:.2f}'}"


def _points(rows: Sequence[Mapping[str, Any]], heading: str, named: _Titles, width: int, most: int, *, with_sources: bool) -> str:
    """The rows of points, series by series; of many an even selection of each series."""
    shown = _selection(rows, most, named)
    by_all = flags_of_all(rows)
    several = len({(r["isl_tokens"], r["osl_tokens"]) for r in rows}) > 1
    cells = []
    last = None
    for r in shown:
        title = named(r) + (f", {r['source']}" if with_sources and r["source"] != "measured" else "")
        cells.append(_point(r, "" if title == last else title, by_all, several))
        last = title
    table = _fitted(cells, width)
    more = [f"{len(shown)} of {len(rows)} points: `--table {'frontier' if 'Frontier' in heading else 'points'}` prints all."]
    return "\n".join([heading, table, *(more if len(shown) < len(rows) else [])])


def _point(r: Mapping[str, Any], title: str, by_all: Mapping[str, set[str]], several_workloads: bool) -> Cells:
    node, cost = r["node_cost_usd_per_mtok"], r["cost_usd_per_mtok"]
    is_idle = node is not None and cost is not None and abs(node - cost) > 1e-9 * node
    lengths = "/".join(rounded(r[name], 0) or "?" for name in ("isl_tokens", "osl_tokens"))
    width = _half(r, "total_tput_per_gpu_tok_s")
    return {
        "system": title,
        **({"ISL/OSL": lengths} if several_workloads else {}),
        "TP": rounded(r["tp"], 0),
        "conc.": rounded(r["concurrency"], 0),
        "tok/s/GPU": rounded(r["total_tput_per_gpu_tok_s"], 0),
        "95 %": "" if width is None else f"±{width:.0f}",
        "tok/s/user": rounded(r["interactivity_tok_s_user"], 1),
        "TTFT ms": rounded(r["ttft_median_ms"], 0),
        "TTFT p99 ms": rounded(r["ttft_p99_ms"], 0),
        "TPOT ms": rounded(r["tpot_ms"], 1),
        "$/Mtok": rounded(cost, 2),
        "whole node": rounded(node, 2) if is_idle else "",
        "flags": " ".join(code for code in flags(r) if code not in by_all[r["source"]]),
    }


def _half(r: Mapping[str, Any], name: str) -> float | None:
    low, high = r.get(f"{name}_low"), r.get(f"{name}_high")
    return None if low is None or high is None else (high - low) / 2


def _selection(rows: Sequence[Mapping[str, Any]], most: int, named: _Titles) -> list[Mapping[str, Any]]:
    """At most `most` rows: of each series the ends and an even choice between, the first series if there are more than rows."""
    if len(rows) <= most:
        return list(rows)
    of: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in rows:
        of.setdefault((r["source"], named(r), lengths_and_spread(r)), []).append(r)
    groups = list(of.values())[:most]
    own = [group for group in groups if group[0]["source"] != "published"]
    shares = _shares([len(group) for group in (own or groups)], max(len(own), most - len(groups) + len(own)) if own else most)
    shares += _shares([len(group) for group in groups[len(own) :]], most - sum(shares)) if own else []
    kept = []
    for group, share in zip(groups, shares, strict=True):
        kept += [group[j] for j in _spread(len(group), share)]
    return kept


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many rows each group gets: as equal as their sizes allow, at least one, `most` in all if possible."""
    shares = [1] * len(sizes)
    while sum(shares) < most and any(share < size for share, size in zip(shares, sizes, strict=True)):
        i = min((i for i, size in enumerate(sizes) if shares[i] < size), key=lambda i: shares[i])
        shares[i] += 1
    return shares


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of n places, evenly, with both ends."""
    if n <= most:
        return list(range(n))
    return [0] if most == 1 else sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})


def _fitted(cells: Sequence[Cells], width: int, least: Sequence[str] = LEAST_NEEDED) -> str:
    """The table without empty columns, and without the least needed ones while it is too wide."""
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    gone = []
    while True:
        text = _plain([{name: row[name] for name in names} for row in cells])
        goes = next((name for name in least if name in names), None)
        if max(map(len, text.splitlines())) <= width or goes is None:
            break
        names.remove(goes)
        gone.append(goes)
    left_out = wrapped(f"{LEFT_OUT} {', '.join(gone)}.", width)
    return text + (f"\n{left_out}" if gone else "")


def _plain(cells: Sequence[Cells]) -> str:
    texts = {name: [row[name] for row in cells] for name in cells[0]}
    align = ["right" if all(_is_number(text) for text in column) else "left" for column in texts.values()]
    return _table([[printable(name) for name in texts], *([_cell(text) for text in row.values()] for row in cells)], align)


def _cell(text: str) -> str:
    return (
        "\n".join(textwrap.wrap(printable(text), TEXT_WIDTH, break_long_words=False))
        if " " in text and len(text) > TEXT_WIDTH
        else printable(text)
    )


def _is_number(text: str) -> bool:
    return not text or text.lstrip("±-").replace(".", "", 1).replace(",", "").replace("×", "").isdigit()


def _section(name: str, t: Tables, width: int) -> str:
    """One table with the cells of the Markdown form, in the columns that fit."""
    rows = getattr(t, name)
    cells: list[Cells]
    if not rows:
        return f"There is nothing for the table {name} in these files."
    if name in ("points", "frontier", "arms"):
        heading = {"points": "Points", "frontier": "Frontier", "arms": "Frontier of each arm, if a series has several TPs"}[name]
        cells = point_columns(rows)
    else:
        heading, make = SECTIONS[name]
        cells = told([make(r) for r in rows])
    same = {name: cells[0][name] for name in OF_ALL if name in cells[0] and len(cells) > 1 and len({row.get(name) for row in cells}) == 1}
    cells = [{name: text for name, text in row.items() if name not in same} for row in cells]
    always = (
        "system",
        "$/session",
        "hit",
        "P90 tok/s",
        "hardware",
        "precision",
        "MTP",
        "conc.",
        "total tok/s/GPU",
        "tok/s/user",
        "$/Mtok",
        "limit",
    )
    first = ("mean", "steady", "in flight", "ran", "served by", "engine", "source", "interval")
    least = [*(name for name in first if name in cells[0]), *(name for name in reversed(list(cells[0])) if name not in (*always, *first))]
    return "\n".join(
        [
            heading,
            *wrapped(f"({', '.join(filter(None, same.values()))})" if any(same.values()) else "", width).splitlines(),
            _fitted(cells, width, least),
        ]
    )
