"""Points, frontiers and iso-interactivity as Markdown, CSV and JSON. Here milliseconds and $/Mtok begin.

Every figure's definition stands under the tables; every row says its source, and a simulated one its time scale too.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ..analysis.comparison import Economy, IsoRow, Row, Series, series_order
from ..errors import printable

DEFINITIONS = (
    "total tok/s/GPU: prompt and output tokens over the whole wall time, divided by the GPUs that the server uses",
    "steady: the same while all users had a request in flight; good req/s: requests a second within the bounds of workload.goodput",
    "mean: prompt and output tokens of a request, as the server counted them",
    "tok/s/user (interactivity): 1000 / median TPOT in ms; TPOT = (E2EL - TTFT)/(output tokens - 1)",
    "$/Mtok: ($/GPU/h) / (3600 x total tok/s/GPU / 1e6); $/Mtok node: the same with the node's idle GPUs paid",
)
READABLE = 5000  # points; of more, Markdown shows the frontiers
ISO_DEFINITION = "perf/$: cost of the baseline over cost of the row, at the same interactivity; unreachable: outside the measured range"


@dataclass(frozen=True)
class Tables:
    """Everything that `tables` prints, as rows of plain values."""

    points: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    iso: list[dict[str, Any]]
    price_id: str
    method: str


def tables(
    rows: Sequence[Row], fronts: Mapping[Series, Sequence[Row]], iso: Sequence[IsoRow], economy: Economy, **made_with: str
) -> Tables:
    """Flat rows with units in their names, the same in every format: docs/json.md."""
    in_order = sorted(rows, key=lambda r: (*series_order(r.series), r.tp, r.concurrency, r.seed, r.repeat, r.digest))
    return Tables(
        points=[point_row(r, economy) for r in in_order],
        frontier=[point_row(r, economy) for members in fronts.values() for r in members],
        iso=[iso_row(r) for r in iso],
        price_id=made_with["price_id"],
        method=made_with["method"],
    )


def _series(s: Series) -> dict[str, Any]:
    return {
        "source": s.source,
        "hardware": s.hardware,
        "engine": s.engine,
        "checkpoint": s.checkpoint,
        "precision": s.precision,
        "speculative": s.speculative,
        "isl_tokens": _known(s.isl_tokens),
        "osl_tokens": _known(s.osl_tokens),
        "range_ratio": _known(s.range_ratio),
        "endpoint": s.endpoint,
        "model": s.model,
        "variant": s.variant,
        "time_scale": s.time_scale,
    }


def point_row(r: Row, economy: Economy) -> dict[str, Any]:
    """One point, flat. None where the source gives nothing."""
    return {
        **_series(r.series),
        "tp": _known(r.tp),
        "gpus": r.gpus or None,
        "concurrency": _known(r.concurrency),
        "repeat": r.repeat,
        "seed": _known(r.seed),
        "server_scope": r.server_scope,
        "binding": r.binding,
        "total_tput_per_gpu_tok_s": _finite(r.total_tput_per_gpu_tok_s),
        "input_tput_per_gpu_tok_s": _finite(r.input_tput_per_gpu_tok_s),
        "output_tput_per_gpu_tok_s": _finite(r.output_tput_per_gpu_tok_s),
        "steady_tput_per_gpu_tok_s": _finite(r.steady_tput_per_gpu_tok_s),
        "peak_output_tput_per_gpu_tok_s": _finite(r.peak_output_tput_per_gpu_tok_s),
        "goodput_rps": _finite(r.goodput_rps),
        "mean_isl_tokens": _finite(r.mean_isl_tokens),
        "mean_osl_tokens": _finite(r.mean_osl_tokens),
        "interactivity_tok_s_user": _finite(r.interactivity_tok_s_user),
        "tpot_ms": _finite(r.tpot_median_s * 1e3),
        "ttft_median_ms": _finite(r.ttft_median_s * 1e3),
        "ttft_p99_ms": _finite(r.ttft_p99_s * 1e3),
        "cost_usd_per_mtok": _finite(economy.cost(r)),
        "node_cost_usd_per_mtok": _finite(economy.node_cost(r)),
        "tput_per_mw_tok_s": _finite(economy.per_mw(r)),
        "n_requests": r.n_requests,
        "validity": r.validity,
        "reasons": ",".join(r.reasons),
        "key": r.key,
        "digest": r.digest[:16],
    }


def iso_row(r: IsoRow) -> dict[str, Any]:
    """One series at one interactivity, flat; `*_step` columns multiply to the whole ratio."""
    steps = dict(r.steps)
    return {
        **_series(r.series),
        "interactivity_tok_s_user": r.interactivity_tok_s_user,
        "status": r.status,
        "cost_usd_per_mtok": _finite(r.cost_usd_per_mtok),
        "total_tput_per_gpu_tok_s": _finite(r.total_tput_per_gpu_tok_s),
        "tput_per_mw_tok_s": _finite(r.tput_per_mw_tok_s),
        "concurrency": _finite(r.concurrency),
        "perf_per_dollar_vs_baseline": _finite(r.perf_per_dollar_vs_baseline),
        "baseline": r.baseline,
        "is_baseline": r.is_baseline,
        **{f"{name}_step": _finite(steps.get(name, math.nan)) for name in ("hardware", "precision", "speculative")},
    }


def _known(x: float) -> float | None:
    """None for what an import does not say."""
    return x if x >= 0 else None


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def as_json(t: Tables) -> str:
    """One object: points, frontier, iso; a row a line."""
    parts = (f'"{name}": [{_json_lines(rows)}]' for name, rows in (("points", t.points), ("frontier", t.frontier), ("iso", t.iso)))
    return "{" + ",\n".join(parts) + "}"


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n" if rows else ""


def as_csv(t: Tables) -> str:
    """The three tables one after another, each under a line with its name; one alone has no such line."""
    out = io.StringIO()
    sections = [(name, rows) for name, rows in (("points", t.points), ("frontier", t.frontier), ("iso", t.iso)) if rows]
    for i, (name, rows) in enumerate(sections):
        if len(sections) > 1:
            out.write(("\n" if i else "") + f"# {name}\n")
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def as_markdown(t: Tables) -> str:
    """Tables to read: figures rounded, one section a kind, definitions below."""
    parts = []
    if len(t.points) > READABLE and t.frontier:
        parts += ["## Points", f"{len(t.points):,} points, too many to read: `--table points` prints them all, `--format csv` is quicker"]
    elif t.points:
        parts += ["## Points", _markdown(_point_columns(t.points))]
    if t.frontier:
        parts += ["## Frontier", _markdown(_point_columns(t.frontier))]
    for workload in dict.fromkeys(_workload(r) for r in t.iso):
        rows = [r for r in t.iso if _workload(r) == workload]
        parts += [f"## Iso-interactivity: {workload}, interpolation {t.method}", _iso_markdown(rows)]
    parts += [
        "",
        *(f"- {text}" for text in (*DEFINITIONS, *([ISO_DEFINITION] if t.iso else []))),
        f"- prices: {t.price_id}, $ per GPU and hour",
    ]
    scales = sorted({r["time_scale"] for r in t.points if r["time_scale"]})
    if scales or any(r["source"] == "simulated" for r in t.points):
        scale = ", ".join(f"{s:g}" for s in scales)
        parts.append(f"- simulated: a model's figures at time scale {scale}, in simulated time; nothing of them was measured on a GPU")
    return "\n".join(_spaced(parts)) + "\n"


def _spaced(parts: Sequence[str]) -> list[str]:
    spaced: list[str] = []
    for part in parts:
        spaced += ["", part, ""] if part.startswith("## ") else [part]
    return spaced[1:] if spaced[0] == "" else spaced


def _workload(r: Mapping[str, Any]) -> str:
    ratio = r["range_ratio"]
    lengths = "spread unstated" if ratio is None else "fixed lengths" if ratio == 1 else f"lengths in [{ratio:g} L, L]"
    return f"{_source(r)}, {r['model']}, {_lengths(r)} over {r['endpoint']}, {lengths}"


def _lengths(r: Mapping[str, Any]) -> str:
    return "/".join(_text(r[name], 0) or "?" for name in ("isl_tokens", "osl_tokens"))


def _source(r: Mapping[str, Any]) -> str:
    return str(r["source"]) if r["time_scale"] is None else f"simulated x{r['time_scale']:g}"


def _point_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The columns of the points, without those of which no source says anything."""
    cells = _point_cells(rows)
    empty = {name for name in ("mean", "steady", "good req/s") if not any(row[name] for row in cells)}
    return [{name: text for name, text in row.items() if name not in empty} for row in cells]


def _is_told(word: str) -> bool:
    """Whether a word of a variant says something to a reader: packing, the load by itself, a departure from the public protocol."""
    return word.startswith("packed") or word == "load" or "=" in word


def _point_cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "source": _source(r),
            "hardware": r["hardware"],
            "engine": r["engine"],
            "precision": r["precision"],
            "MTP": " ".join([r["speculative"], *filter(_is_told, r["variant"].split())]),
            "ISL/OSL": _lengths(r),
            "mean": f"{r['mean_isl_tokens']:.0f}/{r['mean_osl_tokens']:.0f}" if r["mean_isl_tokens"] else "",
            "TP": _text(r["tp"], 0),
            "conc.": _text(r["concurrency"], 0),
            "total tok/s/GPU": _text(r["total_tput_per_gpu_tok_s"], 1),
            "steady": _text(r["steady_tput_per_gpu_tok_s"], 1),
            "good req/s": _text(r["goodput_rps"], 2),
            "tok/s/user": _text(r["interactivity_tok_s_user"], 2),
            "TPOT ms": _text(r["tpot_ms"], 2),
            "TTFT ms": _text(r["ttft_median_ms"], 0),
            "$/Mtok": _text(r["cost_usd_per_mtok"], 2),
            "$/Mtok node": _text(r["node_cost_usd_per_mtok"], 2),
            "validity": r["validity"] + (f" ({r['reasons']})" if r["reasons"] and r["reasons"] != "not_recomputable" else ""),
        }
        for r in rows
    ]


def _iso_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row an interactivity, a series a column: what it costs, and below that its ratio to the baseline and how it splits."""
    name = _short_labels(rows)
    labels = list(dict.fromkeys(name[_label(r)] for r in rows))
    cells = {(r["interactivity_tok_s_user"], name[_label(r)]): r for r in rows}
    grid = list(dict.fromkeys(r["interactivity_tok_s_user"] for r in rows))
    costs = [{"tok/s/user": f"{x:g}", **{label: _cost_text(cells[x, label]) for label in labels}} for x in grid]
    parts = ["$/Mtok; (i): interpolated between measured points", "", _markdown(costs)]
    baseline = next((name[_label(r)] for r in rows if r["is_baseline"]), "")
    others = [label for label in labels if label != baseline] if baseline else []
    ratios = [{"tok/s/user": f"{x:g}", **{label: _ratio_text(cells[x, label]) for label in others}} for x in grid]
    ratios = [line for line in ratios if any(line[label] for label in others)]
    if ratios:
        parts += ["", f"perf/$ against {baseline}, and its split into steps", "", _markdown(ratios)]
    return "\n".join(parts)


def _label(r: Mapping[str, Any]) -> str:
    return f"{r['hardware']} {r['engine']} {r['precision']} {r['speculative']} {r['checkpoint']} {r['variant']}".rstrip()


def _short_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each series' label without its checkpoint where that is not what tells two apart."""
    whole = list(dict.fromkeys(_label(r) for r in rows))
    short = [" ".join(label.split(" ")[:4]) for label in whole]
    return {label: s if short.count(s) == 1 else label for label, s in zip(whole, short, strict=True)}


def _cost_text(r: Mapping[str, Any]) -> str:
    if r["status"] == "unreachable" or r["cost_usd_per_mtok"] is None:
        return "unreachable" if r["status"] == "unreachable" else "no price"
    return _text(r["cost_usd_per_mtok"], 2) + (" (i)" if r["status"] == "interpolated" else "")


def _ratio_text(r: Mapping[str, Any]) -> str:
    ratio = r["perf_per_dollar_vs_baseline"]
    if ratio is None:
        return ""
    steps = [f"{name} {r[f'{name}_step']:.2f}x" for name in ("hardware", "precision", "speculative") if r[f"{name}_step"] is not None]
    return f"{ratio:.2f}x" + (f" = {' x '.join(steps)}" if len(steps) > 1 else "")


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    numeric = [all(_is_number(r[c]) for r in rows) for c in rows[0]]
    align = ["right" if n else "left" for n in numeric]
    cells = [[printable(text).replace("|", "\\|") for text in r.values()] for r in rows]
    return tabulate(cells, headers=[printable(h) for h in rows[0]], tablefmt="github", disable_numparse=True, colalign=align)


def _is_number(text: str) -> bool:
    return not text or text.replace(".", "").replace("-", "").replace("unreachable", "0").replace(" (i)", "").isdigit()


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def only(t: Tables, name: str) -> Tables:
    """One of the three tables alone."""
    kept = {n: getattr(t, n) if n == name else [] for n in ("points", "frontier", "iso")}
    return Tables(**kept, price_id=t.price_id, method=t.method)
