"""Tables to read: Markdown for a page or a terminal, LaTeX for a paper. Figures rounded, a section a kind, definitions below."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ..analysis.rows import is_told
from ..errors import printable
from .tables import FAILED, Tables

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
NUMBER = re.compile(
    r"(not .*|no gain .*|no price|-?[\d.]+x?)?( \+/-[\d.]+)?( \[[-\d., inf]+\])?( starts| runs| requests)?( \(i\))?(, whole node [\d.]+x?)?"
)
STEPS = ("hardware", "precision", "speculative")
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
        parts += [heading("Points"), table(_point_columns(t.points))]
    if t.frontier:
        parts += [heading("Frontier"), table(_point_columns(t.frontier))]
    if t.arms:
        parts += [heading("Frontier of each arm, where a series has several TPs"), table(_point_columns(t.arms))]
    for workload in dict.fromkeys(_workload(r) for r in t.iso):
        rows = [r for r in t.iso if _workload(r) == workload]
        parts += [heading(f"Iso-interactivity: {workload}, interpolation {t.method}"), *_iso(rows, style)]
    for name, (title, cells) in SECTIONS.items():
        if getattr(t, name):
            parts += [heading(title), table(_told([cells(r) for r in getattr(t, name)]))]
    definitions = [
        *DEFINITIONS,
        *([ENERGY_DEFINITION] if t.energy else []),
        *([ISO_DEFINITION] if t.iso else []),
        *([INTERVAL_DEFINITION] if _has_interval(t) else []),
    ]
    parts += ["", *map(style.remark, [*definitions, _prices(t), *t.notes])]
    return "\n".join(_spaced(parts, heading(""))) + "\n"


def _prices(t: Tables) -> str:
    """Every price that the costs are made with."""
    told = ", ".join(f"{h} {'unknown' if usd is None else f'{usd:g}'}" for h, usd in t.prices.items())
    return f"prices: {t.price_id}, $ per GPU and hour{': ' if told else ''}{told}"


def _has_interval(t: Tables) -> bool:
    return any(r["interval"] for r in (*t.frontier, *t.iso))


def _spaced(parts: Sequence[str], heading: str) -> list[str]:
    spaced: list[str] = []
    for part in parts:
        spaced += ["", part, ""] if part.startswith(heading) and "\n" not in part else [part]
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
    empty = {name for name in MAY_LACK if not any(row[name] for row in cells)}
    return [{name: text for name, text in row.items() if name not in empty} for row in cells]


def _told(cells: list[dict[str, str]]) -> list[dict[str, str]]:
    """The cells without the columns in which nothing stands."""
    told = [name for name in cells[0] if any(row[name] for row in cells)]
    return [{name: row[name] for name in told} for row in cells]


MAY_LACK = ("mean", "steady", "good req/s", "in flight", "ran", "accept", "runs", "interval", "$/Mtok node", "served by")


def _point_cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "source": _source(r),
            "hardware": r["hardware"],
            "engine": r["engine"],
            "precision": r["precision"],
            "MTP": " ".join([r["speculative"], *filter(is_told, r["variant"].split())]),
            "served by": _beyond_label(r),
            "ISL/OSL": _lengths(r),
            "mean": f"{r['mean_isl_tokens']:.0f}/{r['mean_osl_tokens']:.0f}" if r["mean_isl_tokens"] else "",
            "TP": _text(r["tp"], 0),
            "conc.": _text(r["concurrency"], 0),
            "in flight": _text(r["mean_concurrency"], 1),
            "ran": _text(r["running_mean"], 1),
            "runs": str(r["n_repeats"]) if r.get("n_repeats", 1) > 1 else "",
            "interval": _level(r),
            "total tok/s/GPU": _text(r["total_tput_per_gpu_tok_s"], 1) + _plus_minus(r, "total_tput_per_gpu_tok_s", 1),
            "steady": _text(r["steady_tput_per_gpu_tok_s"], 1),
            "good req/s": _text(r["goodput_rps"], 2),
            "tok/s/user": _text(r["interactivity_tok_s_user"], 2) + _plus_minus(r, "interactivity_tok_s_user", 2),
            "accept": _text(r["acceptance_length"], 2),
            "TPOT ms": _text(r["tpot_ms"], 2),
            "TTFT ms": _text(r["ttft_median_ms"], 0),
            "$/Mtok": _text(r["cost_usd_per_mtok"], 2),
            "$/Mtok node": _node_cost(r),
            "validity": r["validity"] + (f" ({r['reasons']})" if r["reasons"] and r["reasons"] != "not_recomputable" else ""),
        }
        for r in rows
    ]


def _iso(rows: Sequence[Mapping[str, Any]], style: Style) -> list[str]:
    """A row an interactivity, a series a column: what it costs, and below that its ratio to the baseline and how it splits."""
    labels = list(dict.fromkeys(_label(r) for r in rows))
    cells = {(r["interactivity_tok_s_user"], _label(r)): r for r in rows}
    grid = sorted({r["interactivity_tok_s_user"] for r in rows if r["total_tput_per_gpu_tok_s"] is not None})
    if not grid:
        return [style.remark("no series was measured at these interactivities")]
    costs = [{"tok/s/user": f"{x:g}", **{label: _cost_text(cells[x, label]) for label in labels}} for x in grid]
    table = style.table
    parts = [
        style.remark("$/Mtok; (i): interpolated between measured points; in brackets the 95 % interval and its level"),
        "",
        table(costs),
    ]
    baselines = {_label(r) for r in rows if r["is_baseline"]}  # several: nobody says whether these workloads are the same
    baseline = next(iter(baselines)) if len(baselines) == 1 else ""
    others = [label for label in labels if label != baseline] if baseline else []
    ratios = [{"tok/s/user": f"{x:g}", **{label: _ratio_text(cells[x, label]) for label in others}} for x in grid]
    ratios = [line for line in ratios if any(line[label] for label in others)]
    if ratios:
        parts += ["", style.remark(f"perf/$ against {baseline}, and its split into steps"), "", table(ratios), *_also(rows, style)]
    break_even = [
        {"tok/s/user": f"{x:g}", **{label: _text(cells[x, label]["break_even_usd_per_gpu_h"], 2) for label in others}} for x in grid
    ]
    break_even = [line for line in break_even if any(line[label] for label in others)]
    if break_even:
        parts += ["", style.remark(f"$/GPU/h at which a token costs what it costs on {baseline}"), "", table(break_even)]
    nearest = [{"tok/s/user": f"{x:g}", **{label: _nearest(cells[x, label]) for label in labels}} for x in grid]
    nearest = [line for line in nearest if any(line[label] for label in labels)]
    if not nearest:
        return parts
    return [*parts, "", style.remark("nearest measured point: tok/s/user, TP and concurrency"), "", table(nearest)]


def _label(r: Mapping[str, Any]) -> str:
    return str(r["series"]) + (FAILED if r["accuracy"] else "")


def _beyond_label(r: Mapping[str, Any]) -> str:
    """What the name of a series has beyond the columns beside it: images, versions or protocols that tell like-named series apart."""
    short = " ".join([r["hardware"], r["engine"], r["precision"], r["speculative"], *filter(is_told, r["variant"].split())])
    return str(r["series"]).removeprefix(short).strip()


def _level(r: Mapping[str, Any]) -> str:
    """Over what the intervals of a row are."""
    count = {"starts": f"{r.get('n_starts')} starts", "runs": f"{r.get('n_repeats')} runs of one start", "requests": "requests of one run"}
    return count.get(r.get("interval") or "", "")


def _node_cost(r: Mapping[str, Any]) -> str:
    """Only if GPUs of the node are idle: otherwise it is the same cost."""
    cost, node = r["cost_usd_per_mtok"], r["node_cost_usd_per_mtok"]
    return "" if node is None or cost is None or abs(node - cost) < 1e-9 * node else _text(node, 2)


def _cost_text(r: Mapping[str, Any]) -> str:
    if r["total_tput_per_gpu_tok_s"] is None:
        return str(r["status"]) + (f" ({r['beyond']})" if r["beyond"] else "")
    if r["cost_usd_per_mtok"] is None:
        return "no price"
    node = f", whole node {_text(r['node_cost_usd_per_mtok'], 2)}" if r["node_cost_usd_per_mtok"] is not None else ""
    is_between = " (i)" if r["status"] == "interpolated" else ""
    return _text(r["cost_usd_per_mtok"], 2) + _bracket(r, "cost_usd_per_mtok") + is_between + node


def _bracket(r: Mapping[str, Any], name: str) -> str:
    """An interval and its level. A bound that is absent is infinite."""
    low, high = r[f"{name}_low"], r[f"{name}_high"]
    if low is None and high is None:
        return ""
    level = r["ratio_interval"] if name.startswith("perf_per_dollar") else r["interval"]
    return f" [{'0' if low is None else f'{low:.2f}'}, {'inf' if high is None else f'{high:.2f}'}] {level}"


def _nearest(r: Mapping[str, Any]) -> str:
    if r["nearest_measured_tok_s_user"] is None:
        return ""
    tp, users = _text(r["nearest_measured_tp"], 0) or "?", _text(r["nearest_measured_concurrency"], 0) or "?"
    return f"{r['nearest_measured_tok_s_user']:.1f} tp{tp} c{users}"


def _also(rows: Sequence[Mapping[str, Any]], style: Style) -> list[str]:
    """Steps that change more than one setting, each once."""
    said = dict.fromkeys((name, r[f"{name}_step_also"]) for r in rows for name in STEPS if r[f"{name}_step_also"])
    return ["", *(style.remark(f"the step of {name} also changes {also.replace(',', ', ')}") for name, also in said)] if said else []


def _ratio_text(r: Mapping[str, Any]) -> str:
    ratio = r["perf_per_dollar_vs_baseline"]
    if ratio is None:
        return ""
    steps = [f"{name} {r[f'{name}_step']:.2f}x" for name in STEPS if r[f"{name}_step"] is not None]
    node = r["node_perf_per_dollar_vs_baseline"]
    return (
        f"{ratio:.2f}x"
        + _bracket(r, "perf_per_dollar_vs_baseline")
        + (f", whole node {node:.2f}x" if node is not None else "")
        + (f" = {' x '.join(steps)}" if len(steps) > 1 else "")
    )


def _plus_minus(r: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = r.get(f"{name}_low"), r.get(f"{name}_high")
    return "" if low is None or high is None else f" +/-{(high - low) / 2:.{digits}f}"


def _band_cells(r: Mapping[str, Any]) -> dict[str, str]:
    return {
        **_arm(r),
        "against": r["baseline"],
        "peak": f"{r['peak']:.2f}x at {r['peak_at_tok_s_user']:g} tok/s/user",
        "band": f"{r['low']:.2f}x to {r['high']:.2f}x",
        "defined": f"{r['from_tok_s_user']:.1f} to {r['to_tok_s_user']:.1f} tok/s/user",
    }


def _saturation_cells(r: Mapping[str, Any]) -> dict[str, str]:
    grows = f"{r['gives']} {r['gives_from_ms']:.1f} -> {r['gives_to_ms']:.1f} ms at {r['gives_at_concurrency']}" if r["gives"] else ""
    return {
        **_arm(r),
        "TP": _text(r["tp"], 0),
        "saturated at": f"{r['concurrency']}" if r["is_saturated"] else f"not up to {r['concurrency']}",
        "total tok/s/GPU": _text(r["total_tput_per_gpu_tok_s"], 1),
        "output tok/s/GPU": _text(r["output_tput_per_gpu_tok_s"], 1),
        "grows most": grows,
        "limit": _limit(r),
    }


def _limit(r: Mapping[str, Any]) -> str:
    """What holds an arm back: as a point observed it, else as its plan computes it."""
    if r["why"] or not r["is_saturated"]:
        return str(r["why"] or "")
    return f"{r['planned_limit']} (planned)" if r["planned_limit"] else "unknown"


def _gain_cells(r: Mapping[str, Any]) -> dict[str, str]:
    low, high = r["acceptance_length_low"], r["acceptance_length_high"]
    return {
        **_arm(r),
        "tok/s/user": f"{r['interactivity_tok_s_user']:g}",
        "tok/s/GPU off": _text(r["off_tput_per_gpu_tok_s"], 1),
        "with": _text(r["total_tput_per_gpu_tok_s"], 1),
        "ratio": f"{r['throughput_ratio']:.2f}x",
        "$/Mtok off": _text(r["off_cost_usd_per_mtok"], 2),
        "$/Mtok with": _text(r["cost_usd_per_mtok"], 2),
        "acceptance length": "" if low is None else f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}",
    }


def _energy_cells(r: Mapping[str, Any]) -> dict[str, str]:
    return {
        **_arm(r),
        "TP": _text(r["tp"], 0),
        "conc.": _text(r["concurrency"], 0),
        "W/GPU": _text(r["gpu_power_w"], 0),
        "J/output token": _text(r["energy_per_output_token_j"], 2),
        "J/input token": _text(r["energy_per_input_token_j"], 3),
        "J/token": _text(r["energy_per_total_token_j"], 3),
        "J/request": _text(r["energy_per_request_j"], 0),
        "tok/s/MW boards": _text(r["total_tput_per_gpu_mw_tok_s"], 0),
        "tok/s/MW assumed": _text(r["assumed_tput_per_mw_tok_s"], 0),
        "SM MHz": _text(r["sm_clock_mean_mhz"], 0),
        "hottest C": _text(r["temperature_max_c"], 0),
        "used": "" if r["utilisation_mean"] is None else f"{r['utilisation_mean']:.0%}",
        "GiB/GPU": _text(r["gpu_memory_max_gib"], 1),
        "capped": "" if r["power_capped_share"] is None else f"{r['power_capped_share']:.0%}",
        "ECC errors": _text(r["ecc_uncorrected_errors"], 0),
    }


def _startup_cells(r: Mapping[str, Any]) -> dict[str, str]:
    predicted, has = r["kv_tokens_predicted"], r["kv_tokens"]
    return {
        **_arm(r),
        "TP": _text(r["tp"], 0),
        "starts": str(r["n_starts"]),
        "start s": _text(r["start_s"], 0),
        "image": _text(r["image_s"], 0),
        "load": _text(r["load_s"], 0),
        "compile": _text(r["compile_s"], 0),
        "graphs": _text(r["graphs_s"], 0),
        "$ a start": _text(r["start_cost_usd"], 2),
        "weights GiB": _text(r["weights_gib"], 1),
        "KV GiB": _text(r["kv_gib"], 1),
        "graphs GiB": _text(r["graphs_gib"], 1),
        "KV tokens": "" if has is None else f"{has:,.0f}",
        "planned": "" if predicted is None else f"{predicted:,.0f}" + (f" ({has / predicted - 1:+.0%})" if has and predicted else ""),
    }


def _arm(r: Mapping[str, Any]) -> dict[str, str]:
    return {
        "source": _source(r),
        "hardware": r["hardware"],
        "engine": r["engine"],
        "precision": r["precision"],
        "MTP": r["speculative"] + (FAILED if r["accuracy"] else ""),
        "ISL/OSL": _lengths(r),
    }


SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, str]]]] = {
    "bands": ("Ratios as a whole", _band_cells),
    "saturation": ("Saturation", _saturation_cells),
    "speculation": ("Speculative decoding against none, at the same interactivity", _gain_cells),
    "energy": ("Energy of the frontiers' points, by the GPUs' own account", _energy_cells),
    "startup": ("Server starts, means of an arm: seconds, and memory of one GPU", _startup_cells),
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


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
