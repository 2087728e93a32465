"""AIPerf's `profile_export_aiperf.json`, a summary of one run, and its `profile_export.jsonl`, one line per request.

Source: aiperf/metrics/types of 0.13. Its terms differ from those of glm5bench:

- Its inter-token latency is the mean of one request, which is TPOT here. Its gap between chunks is inter_chunk_latency.
- Its `output_token_throughput_per_user` is a mean over requests of 1 / TPOT, which glm5bench does not have.

Figures are computed again from the request lines. Only the summary states the concurrency that was asked for. If both files of a run are
read together, they become one point: its times come from the lines, everything else from the summary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import FileError
from .imported import Pair, Results, Told, defined, each, facts_in, latency
from .reading import Entry, ForeignFile, documents, entries
from .timed import Timed, contradiction, requests_of

CLIENT = "AIPerf"
SECONDS = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}
LATENCIES = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "inter_chunk_latency": "itl_chunk", "request_latency": "e2el"}
FIGURES = {
    "request_throughput": "request_rate_rps", "goodput": "goodput_rps", "output_token_throughput": "output_tput_tok_s",
    "total_token_throughput": "total_tput_tok_s", "input_token_throughput": "input_tput_tok_s",
    "output_token_throughput_per_user": "mean_of_request_tok_s_user", "input_sequence_length": "mean_isl_tokens",
    "output_sequence_length": "mean_osl_tokens",
}  # fmt: skip
COUNTS = {"total_output_tokens": "output_tokens", "total_osl": "output_tokens", "total_isl": "prompt_tokens"}  # osl: with reasoning
TAKEN = (*LATENCIES, *FIGURES, *COUNTS, "benchmark_duration", "request_count", "error_request_count")
DEFINITIONS = {
    "mean_of_request_tok_s_user": "mean over requests of 1 / TPOT",
    "tpot_": "(E2EL - TTFT)/(output tokens - 1); with --per-chunk-usage, less the first chunk's tokens in place of 1",
    "output_tokens": "with --use-server-token-count the server's counts, else those of the client's tokenizer",
}


def told(file: ForeignFile) -> Results:
    """One entry: a summary, or all request lines of a file. Raises FileError for a file of another kind."""
    if any(isinstance(value, dict) and {"metadata", "metrics"} <= set(value) for value in documents(file)):
        read = entries(file, "aiperf_requests")
        return Results([_of_requests(read.entries, read.bad)], [])
    return each(entries(file, "aiperf"), _of_summary)


def joined(pairs: Sequence[Pair]) -> list[Pair]:
    """The same pairs, with the summary and the lines of one run joined."""
    summaries = [pair for pair in pairs if pair[0].requests is None]
    found, used = [], []
    for told, file in (pair for pair in pairs if pair[0].requests is not None):
        its = next((pair for pair in summaries if pair not in used and _are_of_one_run(pair[0], told)), None)
        used += [its] if its else []
        found.append((replace(its[0], entry=told.entry, requests=told.requests, summary=its[1]) if its else told, file))
    return [*(pair for pair in summaries if pair not in used), *found]


def _are_of_one_run(summary: Told, lines: Told) -> bool:
    """Whether both have the same number of answers, and the same mean latency to the microsecond."""
    if lines.requests is None:
        return False
    latencies_s = (lines.requests.end_ns - lines.requests.sent_ns)[lines.requests.is_whole] / 1e9
    n = summary.stated.get("n_requests", 0) - summary.stated.get("n_failed", 0)
    stated_s = summary.stated.get("e2el_mean_s", math.nan)
    return len(latencies_s) == n > 0 and abs(float(latencies_s.mean()) - stated_s) < 1e-6


def _of_summary(entry: Entry) -> Told:
    stated, notes = _figures(entry), {}
    for key, value in entry.values.items():
        if key not in TAKEN and isinstance(value, dict) and isinstance(value.get("avg"), int | float):
            stated[f"aiperf_{key}_avg"] = entry.child(key).needed("avg")
            notes[f"aiperf_{key}_avg"] = f"avg of {key}, in {entry.child(key).text('unit')}"
    config = entry.child("input_config")
    model = _model(config)
    return Told(
        client=CLIENT,
        entry=entry.index,
        point=_point(config),
        guessed={"model": model, "checkpoint": model} if model else {},
        stated=stated,
        definitions=defined(stated, DEFINITIONS | notes, CLIENT),
        workload=_workload(config),
        provenance={
            "date": entry.text("start_time") or "",  # the time zone is not stated
            "client_version": entry.text("aiperf_version") or "",
            "is_complete": not entry.truth("was_cancelled"),
        },
    )


def _model(config: Entry) -> str | None:
    """The first model, from the current field or from the field of earlier versions."""
    named = next((item.text("name") for item in config.child("models").children("items")), None)
    older = config.child("endpoint").listed("model_names")
    return named or next((name for name in older if isinstance(name, str) and name), None)


def _figures(entry: Entry) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, metric in LATENCIES.items():
        found |= _statistics(entry.child(key), metric)
    for key, name in FIGURES.items():
        value = entry.child(key).number("avg")
        found |= {} if value is None else {name: value}
    for key, name in COUNTS.items():
        n = entry.child(key).count("avg")
        found |= {} if n is None else {name: n}
    duration = entry.child("benchmark_duration")
    if duration.number("avg") is not None:
        found["duration_s"] = duration.needed("avg") * _unit(duration)
    return found | _requests(entry)


def _unit(metric: Entry) -> float:
    """The metric's unit in seconds. Raises FileError if it is not a unit of time."""
    unit = metric.text("unit")
    if unit not in SECONDS:
        raise metric.wrong("unit", f"one of {', '.join(SECONDS)}")
    return SECONDS[unit]


def _statistics(metric: Entry, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key in metric.values:
        number = metric.number(key) if key in ("avg", "std", "min", "max") or _is_percentile(key) else None
        if number is not None:
            found[latency(name, "mean" if key == "avg" else key)] = number * _unit(metric)
    n = metric.count("count")
    return found | ({f"{name}_n": n} if n is not None else {})


def _is_percentile(key: str) -> bool:
    return key[:1] == "p" and key[1:].isdigit() and len(key) < 4


def _requests(entry: Entry) -> dict[str, float]:
    """Counts of complete answers and of errors. `request_count` counts only complete answers."""
    whole = entry.child("request_count").count("avg")
    failed = entry.child("error_request_count").count("avg") or sum(e.count("count") or 0 for e in entry.children("error_summary"))
    return {} if whole is None else {"n_requests": whole + failed, "n_failed": failed}


def _phase(config: Entry) -> Entry:
    """How requests were sent: the measured phase, or `loadgen` of earlier versions."""
    return next((p for p in config.children("phases") if p.text("kind") == "profiling"), config.child("loadgen"))


def _point(config: Entry) -> dict[str, Any]:
    data, older = next(config.children("datasets"), config.child("no_dataset")), config.child("input")
    found = facts_in(_phase(config), {"concurrency": "concurrency"}) | facts_in(data if data.values else older, {"random_seed": "seed"})
    for key, name, before in (("isl", "isl_tokens", "input_tokens"), ("osl", "osl_tokens", "output_tokens")):
        length = data.child("prompts").child(key) if data.values else older.child("prompt").child(before)
        found |= {} if length.number("stddev") else facts_in(length, {"mean": name})
    kind = config.child("endpoint").text("type")
    return found | ({"endpoint": kind} if kind else {})


def _workload(config: Entry) -> dict[str, Any]:
    phase = _phase(config)
    rate = phase.number("rate") or phase.number("request_rate")
    kind = phase.text("type") or phase.text("arrival_pattern") or phase.text("request_rate_mode")
    if config.child("input").truth("fixed_schedule") or kind == "fixed_schedule":
        return {"arrivals": "trace"}
    if kind == "user_centric_rate" or rate:
        return {"arrivals": kind or "poisson", **({"rate_rps": rate} if rate else {})}
    return {}


def _of_requests(lines: list[Entry], bad: Sequence[FileError]) -> Told:
    """The run of these requests. Only the measured phase is used. A line that cannot be read counts as a failed request."""
    started: list[int] = []
    timed: list[tuple[float, float, list[float] | None, int, int, str]] = []
    seen: set[str] = set()
    wrong = list(bad)
    for line in lines:
        try:
            metadata = line.child("metadata")
            id_ = metadata.text("x_request_id")
            if metadata.text("benchmark_phase") not in ("profiling", None) or id_ in seen:
                continue
            begin, told = metadata.clock_ns("request_start_ns"), _timed_or_failed(line)
        except FileError as error:
            wrong.append(error)
            continue
        seen |= {id_} if id_ else set()
        started.append(begin)
        timed.append(told)
    if not timed:
        older = "request_start_ns" not in lines[0].child("metadata").values
        why = "These lines are from AIPerf before its pull request 325, and do not state when a request began"
        raise lines[0].error(why if older else "No line belongs to the measured phase")
    if all(_is_not_streamed(line) for line in lines):
        raise lines[0].error(
            f"{len(lines)} answers were not streamed: they have no time_to_first_token",
            next_step="import profile_export_aiperf.json of this run, or run it again with --streaming",
        )
    first = min(started)
    timed += [(0.0, 0.0, None, 0, 0, f"unreadable: {error.message}") for error in wrong]
    started += [first] * len(wrong)
    ttft, e2el, gaps, prompt, output, errors = zip(*timed, strict=True)
    return Told(
        client=CLIENT,
        entry=0,
        requests=requests_of(lines[0], Timed([(ns - first) / 1e9 for ns in started], ttft, e2el, gaps, prompt, output, errors)),
    )


def _is_not_streamed(line: Entry) -> bool:
    """Whether a line has the latency of an answer but not of its first token. This happens without --streaming."""
    metrics = line.values.get("metrics")
    return isinstance(metrics, dict) and "request_latency" in metrics and "time_to_first_token" not in metrics


def _timed_or_failed(line: Entry) -> tuple[float, float, list[float] | None, int, int, str]:
    try:
        return _timed(line)
    except FileError as error:
        return 0.0, 0.0, None, 0, 0, f"unreadable: {error.message}"


def _timed(line: Entry) -> tuple[float, float, list[float] | None, int, int, str]:
    """TTFT, latency, gaps, prompt and output tokens, and error of a request. Raises FileError for a complete answer without times."""
    metrics = line.child("metrics")
    if line.values.get("error") or line.child("metadata").truth("was_cancelled"):
        return 0.0, 0.0, None, 0, 0, str(line.values.get("error") or "cancelled")
    ttft, e2el = (metrics.child(key).needed("value") * _unit(metrics.child(key)) for key in ("time_to_first_token", "request_latency"))
    chunks = metrics.child("inter_chunk_latency")
    gaps = [gap * _unit(chunks) for gap in chunks.seconds("value")] if chunks.values else None
    prompt, output = (metrics.child(key).count("value") or 0 for key in ("input_sequence_length", "output_sequence_length"))
    if not math.isfinite(e2el) or min(ttft, e2el) < 0:
        raise line.error("A request ends before it begins")
    return ttft, e2el, gaps, prompt, output, contradiction(ttft, e2el)
