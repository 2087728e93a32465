"""The report: one self-contained page, with everything in it that it shows and the library that draws it.

Enters: a comparison, details of points, what was bad. Leaves: HTML. Costs are kept for a GPU at one dollar an hour, so that the page
can show them at any price; everything a stranger wrote goes into it as data and is shown as text.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from ..analysis.comparison import Comparison, IsoRow, compared
from ..analysis.cost import Economy
from ..analysis.limits import Limit
from ..analysis.metrics import Plays, Requests, chunk_latencies_s, started_ns
from ..analysis.reasons import ADVICE, is_code, meaning
from ..analysis.rows import Row, Series, names
from ..analysis.sessions import fresh_and_ttft
from ..analysis.steps import STEP_ORDER
from ..analysis.telemetry import Curve, Telemetry
from ..errors import printable
from . import records
from . import tables as flat
from .campaign import search_lines
from .titles import title_of, titles

STEPS_OF_SLIDER = 120
QUANTILES = (0.0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100.0)
MOST = 500  # rows of a table in the page
BINS = 120  # of a time line
PLACEHOLDER = re.compile(r"/\*(STYLE|PLOTLY|DATA|SCRIPT|TITLE)\*/")


MOST_MARKS = 300  # requests of a point in a plot


@dataclass(frozen=True)
class Detail:
    """What is shown of a chosen point beside its row."""

    command: str = ""
    ttft_quantiles_ms: tuple[float, ...] = ()
    itl_quantiles_ms: tuple[float, ...] = ()
    running: tuple[tuple[float, float], ...] = ()  # (s, requests)
    power: tuple[tuple[float, float], ...] = ()  # (s, W of all GPUs)
    kv_usage: tuple[tuple[float, float], ...] = ()  # (s, share of the cache)
    ttft_of_fresh: tuple[tuple[float, float], ...] = ()  # of agent sessions: (computed prompt tokens, TTFT in ms)


@dataclass(frozen=True)
class Beside:
    """What the page shows that the rows do not hold."""

    title: str
    prices: Mapping[str, Mapping[str, float | None]]
    price_id: str
    method: str
    made_utc: str
    version: str
    details: Mapping[str, Detail] = field(default_factory=dict)  # by digest
    limits: Mapping[Series, Sequence[tuple[int, Sequence[Limit]]]] = field(default_factory=dict)  # by TP
    bounds: Sequence[Mapping[str, Any]] = ()
    specifications: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source_tables: Sequence[tuple[str, Sequence[Mapping[str, str]]]] = ()
    bad: Sequence[tuple[str, str]] = ()  # path, reason
    planned_limit: Callable[[Row], str] | None = None  # what would hold a point back by its plan
    searches: Sequence[Mapping[str, Any]] = ()  # answers of searches, as `answer --json` gives them


def detail(
    r: Requests, t: Telemetry | None, command: str, time_scale: float, *, from_due: bool = False, plays: Plays | None = None
) -> Detail:
    """Of a measurement: quantiles of TTFT and ITL (of chunks); over the time how many requests ran, power and the cache in use.

    `plays`: of agent sessions with known cached tokens, for TTFT against computed tokens.
    """
    scale, whole = time_scale / 1e9, r.is_whole
    ttft = ((r.first_token_ns - started_ns(r, from_due=from_due))[whole] * scale * 1e3).astype(np.float64)
    itl = chunk_latencies_s(r, time_scale=time_scale) * 1e3
    power = _line(r, list(t.curves("power").values()), scale) if t is not None else ()
    cache = _line(r, list(t.curves("kv_usage").values()), scale) if t is not None else ()
    fresh = _ttft_of_fresh(r, plays, time_scale) if plays is not None else ()
    return Detail(printable(command), _quantiles(ttft), _quantiles(itl), _running(r, scale), power, cache, fresh)


def _ttft_of_fresh(r: Requests, plays: Plays, time_scale: float) -> tuple[tuple[float, float], ...]:
    fresh, ttft = fresh_and_ttft(r, plays, time_scale=time_scale)
    kept = np.unique(np.linspace(0, len(fresh) - 1, MOST_MARKS).astype(int)) if len(fresh) else np.empty(0, dtype=int)
    return tuple((float(fresh[i]), float(f"{ttft[i] * 1e3:.5g}")) for i in kept.tolist())


def _line(r: Requests, curves: Sequence[Curve], scale: float) -> tuple[tuple[float, float], ...]:
    """The sum of the curves over the window of the requests, straight lines between their readings; empty where one does not cover it."""
    sent, end = r.sent_ns[r.sent_ns >= 0], r.end_ns[r.end_ns >= 0]
    if not curves or not len(sent) or not len(end) or not all(c.covers(int(sent.min()), int(end.max())) for c in curves):
        return ()
    at = np.linspace(sent.min(), end.max(), BINS)
    with np.errstate(over="ignore"):
        total = np.sum([np.interp(at, c.at_ns, c.value) for c in curves], axis=0)
    if not np.isfinite(total).all():
        return ()
    return tuple((round(float((x - at[0]) * scale), 3), float(f"{y:.5g}")) for x, y in zip(at, total, strict=True))


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{v:.5g}") for v in np.percentile(values, QUANTILES)) if len(values) else ()


def _running(r: Requests, scale: float) -> tuple[tuple[float, float], ...]:
    sent, end = np.sort(r.sent_ns[r.sent_ns >= 0]), np.sort(r.end_ns[r.end_ns >= 0])
    if not len(sent) or not len(end):
        return ()
    at = np.linspace(sent[0], end[-1], BINS)
    running = np.searchsorted(sent, at, side="right") - np.searchsorted(end, at, side="right")
    return tuple((round(float((t - sent[0]) * scale), 3), float(n)) for t, n in zip(at, running, strict=True))


def grid_of(c: Comparison, asked: Sequence[float]) -> list[float]:
    """The interactivities that the slider stops at: round ones over all frontiers, and those that were asked for."""
    highest = max((rows[-1].interactivity_tok_s_user for rows in c.fronts.values()), default=0.0)
    step = max(1.0, math.ceil(highest / STEPS_OF_SLIDER))
    stops = np.arange(step, highest + step, step).tolist() if highest else []
    return sorted({*stops, *(x for x in asked if x <= highest + step)})


def page(c: Comparison, beside: Beside, *, asked: Sequence[float]) -> str:
    """The whole page."""
    data = _data(c, beside, asked)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    inside = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {
        "TITLE": _escaped(beside.title),
        "STYLE": _asset("page.css"),
        "DATA": inside,
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": _asset("page.js"),
    }
    return PLACEHOLDER.sub(lambda found: parts[found[1]], _asset("page.html"))  # in one pass: nothing put in is looked at again


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _data(c: Comparison, beside: Beside, asked: Sequence[float]) -> dict[str, Any]:
    made = flat.tables(c, price_id=beside.price_id, method=beside.method, planned_limit=beside.planned_limit)
    number = {s: i for i, s in enumerate(dict.fromkeys([*c.grouped, *(r.series for r in c.rows)]))}
    hardware = {s.hardware for s in number}
    # the baseline stays that of the prices that were asked for; what a GPU costs is multiplied in by the page
    base = {r.series for r in c.iso if r.is_baseline}
    unit = compared(
        c.rows, Economy(dict.fromkeys(hardware, 1.0), {}), at=grid_of(c, asked), method=beside.method, is_baseline=lambda s: s in base
    )
    workloads, named = _workloads(list(number)), names(number)
    failed = flat.accuracy_failed(c)
    series_failed = {s for s, _ in failed}
    rows = {s: records.series_row(s, named) for s in number}
    titled = titles(rows.values(), with_source=True)
    labels = [title_of(titled, row) + records.FAILED * (s in series_failed) for s, row in rows.items()]

    def with_title(row: Mapping[str, Any]) -> dict[str, Any]:
        against = {"baseline": printable(title_of(titled, {**row, "series": row["baseline"]}))} if "baseline" in row else {}
        return {**_plain(row), "title": printable(title_of(titled, row)), **against}

    on_front = {id(r) for rows in c.fronts.values() for r in rows}
    return {
        "title": printable(beside.title),
        "madeUtc": beside.made_utc,
        "version": beside.version,
        "method": beside.method,
        "notes": [printable(note) for note in made.notes],
        "meanings": {code: f"{meaning(code)}. Advice: {ADVICE[code]}." if code in ADVICE else f"{meaning(code)}."
                     for code in sorted({code for r in c.rows for code in r.reasons if is_code(code)})},
        "prices": {name: {h: table.get(h) for h in sorted(hardware)} for name, table in beside.prices.items()},
        "price": beside.price_id,
        "series": [_series(s, i, label, workloads[s.workload]) for (s, i), label in zip(number.items(), labels, strict=True)],
        "points": _columns([_point(r, number[r.series], is_front=id(r) in on_front) for rows in c.grouped.values() for r in rows]),
        "runs": _columns([_run(r, number[r.series]) for r in c.rows]),
        "grid": grid_of(c, asked),
        "asked": list(asked),
        "iso": _iso(unit.iso, number),
        "bands": [with_title(row) for row in made.bands],
        "saturation": [with_title(row) for row in made.saturation],
        "speculation": [with_title(row) for row in made.speculation],
        "sessions": [with_title(row) for row in made.sessions[:MOST]],
        "energy": [with_title(row) for row in made.energy[:MOST]],
        "startup": [with_title(row) for row in made.startup[:MOST]],
        "details": {digest[:16]: _detail(d) for digest, d in beside.details.items()},
        "quantiles": list(QUANTILES),
        "limits": [
            {"series": number[s], "tp": tp, "at": [[p.concurrency, p.interactivity_tok_s_user, p.total_tput_per_gpu_tok_s] for p in curve]}
            for s, curves in beside.limits.items() if s in number for tp, curve in curves
        ],
        "bounds": [_plain(row) for row in beside.bounds],
        "specifications": {name: dict(values) for name, values in beside.specifications.items()},
        "sourceTables": [{"name": printable(n), "rows": [_plain(row) for row in rows]} for n, rows in beside.source_tables],
        "searches": [_search(told) for told in beside.searches],
        "bad": [{"path": printable(path), "reason": printable(reason)} for path, reason in beside.bad],
    }  # fmt: skip


def _search(told: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a search as lines of text, and the calibrated cost of each series with its claim where it is known."""
    curves = []
    for series in dict.fromkeys(row["series"] for row in told.get("rows", ())):
        rows = [r for r in told["rows"] if r["series"] == series and r["calibrated_cost_usd_per_mtok"] is not None]
        known = [r["claim"] if r["is_inside_claim"] and r["claim"] is not None else 0.0 for r in rows]
        cost = [r["calibrated_cost_usd_per_mtok"] for r in rows]
        curves.append(
            {
                "name": printable(series),
                "x": [r["interactivity_tok_s_user"] for r in rows],
                "cost": cost,
                "low": [c / (1 + claim) for c, claim in zip(cost, known, strict=True)],
                "high": [c * (1 + claim) for c, claim in zip(cost, known, strict=True)],
                "through": [r["through_points_cost_usd_per_mtok"] for r in rows],
            }
        )
    return {"text": "\n".join(printable(line.strip()) for line in search_lines(told)), "price": told.get("price", ""), "curves": curves}


def _workloads(series: Sequence[Series]) -> dict[tuple[object, ...], str]:
    """The words for each workload: those that would be the same for two that are held apart say what tells them apart."""
    words = {s.workload: _workload(s) for s in series}
    alike = Counter(words.values())
    first = {s.workload: s for s in reversed(series)}
    return {w: text if alike[text] == 1 else f"{text} ({first[w].label} {first[w].variant})" for w, text in words.items()}


def _workload(s: Series) -> str:
    told = records.series_row(s)
    lengths = "/".join(str(told[name] if told[name] is not None else "?") for name in ("isl_tokens", "osl_tokens"))
    ratio = {1.0: "", -1.0: ", spread unstated"}.get(s.range_ratio, f", lengths from {s.range_ratio:g} L")
    scale = f" ×{s.time_scale:g}" if s.time_scale else ""
    return f"{s.source}{scale}: {s.model} {lengths} over {s.endpoint}{ratio}"


def _series(s: Series, i: int, label: str, workload: str) -> dict[str, Any]:
    return {"id": i, **_plain(records.series_row(s)), "label": printable(label), "workload": printable(workload)}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {printable(str(k)): printable(v) if isinstance(v, str) else v for k, v in row.items()}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column by column: half the bytes, and quick to draw."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _point(r: Row, series: int, *, is_front: bool) -> dict[str, Any]:
    row = records.frontier_row(r, Economy({}, {}))
    names = (
        "tp", "gpus", "concurrency", "n_repeats", "n_starts", "interactivity_tok_s_user", "interactivity_tok_s_user_low",
        "interactivity_tok_s_user_high", "total_tput_per_gpu_tok_s", "total_tput_per_gpu_tok_s_low", "total_tput_per_gpu_tok_s_high",
        "interval", "output_tput_per_gpu_tok_s", "ttft_median_ms", "tpot_ms", "itl_chunk_p99_ms", "mean_concurrency", "running_mean",
        "acceptance_length", "acceptance_p10", "acceptance_p90", "gpu_power_w", "energy_per_output_token_j", "kv_usage_max", "queued_max",
        "cache_hit_share", "validity", "reasons", "key", "digest",
    )  # fmt: skip
    served = {"engine_version": r.engine_version, "image": r.image, "node": r.node, "job": r.job_id, "origin": r.origin}
    return {"series": series, "front": is_front, **{n: _short(row[n]) for n in names}, **_plain(served), "gpus_per_node": r.gpus_per_node}


def _run(r: Row, series: int) -> dict[str, Any]:
    """One run for the table of provenance, invalid ones too."""
    told = {
        "key": r.key, "digest": r.digest[:16], "engine_version": r.engine_version, "image": r.image, "node": r.node, "job": r.job_id,
        "started": r.started_utc, "origin": r.origin, "validity": r.validity, "reasons": ", ".join(r.reasons),
    }  # fmt: skip
    return {"series": series, "tp": records.known(r.tp), "concurrency": records.known(r.concurrency), "repeat": r.repeat, **_plain(told)}


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else printable(value) if isinstance(value, str) else value


def _iso(iso: Sequence[IsoRow], number: Mapping[Series, int]) -> list[dict[str, Any]]:
    """A row a series: columns over the grid, for GPUs at one dollar an hour."""
    of: dict[Series, list[IsoRow]] = {}
    for row in iso:
        of.setdefault(row.series, []).append(row)
    found = []
    bases = {r.series.workload: number[r.series] for r in iso if r.is_baseline}
    for series, rows in of.items():
        flat_rows = [records.iso_row(r) for r in rows]
        names = (
            "status", "beyond", "cost_usd_per_mtok", "cost_usd_per_mtok_low", "cost_usd_per_mtok_high", "total_tput_per_gpu_tok_s",
            "concurrency", "interval",
            "perf_per_dollar_vs_baseline", "perf_per_dollar_vs_baseline_low", "perf_per_dollar_vs_baseline_high", "node_cost_usd_per_mtok",
            "node_perf_per_dollar_vs_baseline", "ratio_interval",
            "nearest_measured_tok_s_user", "nearest_measured_tp", "nearest_measured_concurrency",
            *(f"{step}_step" for step in STEP_ORDER), *(f"{step}_step_also" for step in STEP_ORDER),
        )  # fmt: skip
        base = bases.get(series.workload)
        columns = {name: [row[name] for row in flat_rows] for name in names}
        found.append({"series": number[series], "baseline": base, "is_baseline": rows[0].is_baseline, **columns})
    return found


def _detail(d: Detail) -> dict[str, Any]:
    return {
        "command": d.command,
        "ttft": list(d.ttft_quantiles_ms),
        "itl": list(d.itl_quantiles_ms),
        **{name: [list(p) for p in getattr(d, name)] for name in ("running", "power", "kv_usage", "ttft_of_fresh")},
    }
