"""AIPerf's `profile_export_aiperf.json`: a summary of one run.

Source: aiperf/metrics/types of 0.13. What it calls inter-token latency is a request's mean, so TPOT here; its gap between chunks is
inter_chunk_latency. Its `output_token_throughput_per_user` is a mean over requests of 1 / TPOT, which is none of ours.
"""

from __future__ import annotations

from typing import Any

from .imported import Told, facts_in, is_column, latency
from .reading import Entry, ForeignFile, entries

CLIENT = "AIPerf"
MILLI = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}
LATENCIES = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "inter_chunk_latency": "itl_chunk", "request_latency": "e2el"}
FIGURES = {
    "request_throughput": "request_rate_rps", "goodput": "goodput_rps", "output_token_throughput": "output_tput_tok_s",
    "total_token_throughput": "total_tput_tok_s", "input_token_throughput": "input_tput_tok_s",
    "effective_concurrency": "effective_concurrency", "output_token_throughput_per_user": "mean_of_request_tok_s_user",
    "input_sequence_length": "mean_isl_tokens", "output_sequence_length": "mean_osl_tokens",
    "time_to_second_token": "time_to_second_token_mean_s",
}  # fmt: skip
TOTALS = {"total_osl": "output_tokens", "total_output_tokens": "output_tokens", "total_isl": "prompt_tokens"}
ENDPOINTS = {"completions": "completions", "chat": "chat"}
DEFINITIONS = {
    "mean_of_request_tok_s_user": "mean over requests of 1 / TPOT",
    "effective_concurrency": "requests in flight, a mean over time",
    "tpot_mean_s": "(E2EL - TTFT)/(output tokens - 1); with --per-chunk-usage, less the first chunk's tokens in place of 1",
    "output_tokens": "with --use-server-token-count the server's counts, else those of the client's tokenizer",
    "time_to_second_token_mean_s": "from the first chunk to the second",
}


def told(file: ForeignFile) -> list[Told]:
    """The one entry. Raises FileError for what is none."""
    return [_told(entry) for entry in entries(file, "aiperf")]


def _told(entry: Entry) -> Told:
    stated: dict[str, float] = {}
    for key, metric in LATENCIES.items():
        stated |= _statistics(entry.child(key), metric)
    for key, name in (FIGURES | TOTALS).items():
        value = entry.child(key).number("avg")
        if value is not None:
            stated[name] = value * _unit(entry.child(key)) if name.endswith("_mean_s") else value
    duration = entry.child("benchmark_duration")
    if duration.number("avg") is not None:
        stated["duration_s"] = duration.needed("avg") * _unit(duration)
    stated |= _requests(entry)
    config = entry.child("input_config")
    point = _point(entry, config)
    model = next((item.text("name") for item in config.child("models").children("items")), None)
    return Told(
        client=CLIENT,
        entry=entry.index,
        point=point,
        guessed={"model": model, "checkpoint": model} if model else {},
        stated={name: int(value) if name in TOTALS.values() else value for name, value in stated.items()},
        definitions={**DEFINITIONS, **{n: f"as {CLIENT} defines it" for n in stated if not is_column(n) and n not in DEFINITIONS}},
        workload=_workload(config),
        provenance={
            "start_utc": entry.text("start_time") or "",
            "client_version": entry.text("aiperf_version") or "",
            "is_complete": not entry.truth("was_cancelled"),
        },
    )


def _unit(metric: Entry) -> float:
    """Seconds of its unit. Raises FileError for one that is no time."""
    unit = metric.text("unit")
    if unit not in MILLI:
        raise metric.wrong("unit", f"one of {', '.join(MILLI)}")
    return MILLI[unit]


def _statistics(metric: Entry, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key in metric.values:
        statistic = {"avg": "mean", "p50": "median"}.get(key, key)
        number = metric.number(key) if key in ("avg", "std", "min", "max") or _is_percentile(key) else None
        if number is not None:
            found[latency(name, statistic)] = number * _unit(metric)
    n = metric.count("count")
    return found | ({f"{name}_n": n} if n is not None else {})


def _is_percentile(key: str) -> bool:
    return key[:1] == "p" and key[1:].replace(".", "", 1).isdigit()


def _requests(entry: Entry) -> dict[str, float]:
    """Whole answers and errors: `request_count` is of the whole ones."""
    whole = entry.child("request_count").count("avg")
    failed = entry.child("error_request_count").count("avg") or sum(e.count("count") or 0 for e in entry.children("error_summary"))
    return {} if whole is None else {"n_requests": whole + failed, "n_failed": failed}


def _point(entry: Entry, config: Entry) -> dict[str, Any]:
    phase = next((p for p in config.children("phases") if p.text("kind") == "profiling"), config.child("none"))
    found = facts_in(phase, {"concurrency": "concurrency"})
    prompts = next(config.children("datasets"), config.child("none")).child("prompts")
    for key, name in (("isl", "isl_tokens"), ("osl", "osl_tokens")):
        found |= facts_in(prompts.child(key), {"mean": name})
        if prompts.child(key).number("stddev"):
            found.pop(name, None)
    kind = config.child("endpoint").text("type")
    seed = facts_in(next(config.children("datasets"), config.child("none")), {"random_seed": "seed"})
    return found | seed | ({"endpoint": ENDPOINTS.get(kind, kind)} if kind else {})


def _workload(config: Entry) -> dict[str, Any]:
    phase = next((p for p in config.children("phases") if p.text("kind") == "profiling"), config.child("none"))
    rate = phase.number("rate") or phase.number("request_rate")
    return {"arrivals": phase.text("type") or "poisson", "rate_rps": rate} if rate else {}
