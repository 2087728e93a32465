"""Results of `vllm bench serve --save-result`, with and without `--save-detailed`, and of older forks.

Source: vllm/benchmarks/serve.py of 0.33 and the forks' formats in docs/exchange.md. A detailed file contains the start, TTFT, gaps and
latency of each request; its figures are computed again. ITL is the gap between chunks. A value from `--metadata NAME=VALUE` becomes a
fact of the point if NAME is a known fact, and is kept as metadata otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...analysis.metrics import STRAY_SHARE, statistics
from ...archive.columns import STATISTICS
from .. import serving
from .imported import Results, Told, defined, each, facts_in, figures_in, latency, metadata
from .reading import Entry, ForeignFile, entries
from .timed import Timed, refuse_contradictions, requests_of

CLIENT = "vllm bench serve"
ENDPOINTS = {"openai": "completions", "vllm": "completions", "openai-chat": "chat", "sglang": "generate"}
METRICS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl_chunk", "e2el": "e2el"}
STATED_MS = re.compile(r"(mean|median|std|p[\d.]+)_(\w+)_ms")
FIGURES = {
    **serving.FIGURES, "total_input": "prompt_tokens", "total_output": "output_tokens", "request_goodput": "goodput_rps",
    "request_goodput:": "goodput_rps",  # until vllm#9338, and still in InferenceX's fork
    "total_token_throughput": "total_tput_tok_s",
    "spec_decode_acceptance_length": "acceptance_length", "spec_decode_acceptance_rate": "acceptance_rate_percent",
    "spec_decode_num_drafts": "n_drafts", "spec_decode_draft_tokens": "draft_tokens", "spec_decode_accepted_tokens": "accepted_tokens",
    "max_output_tokens_per_s": "max_chunks_in_a_second",
    "max_concurrent_requests": "max_requests_in_a_second",
}  # fmt: skip
HEADER = (
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness", "max_concurrency",
    "completed", "failed", "rtfx", "input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times",
    "generated_texts", "errors", "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps", "best_of", "goodput",
    "spec_decode_per_position_acceptance_rates",
    "glm5bench",
)  # fmt: skip
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times")
DEFINITIONS = {
    "max_chunks_in_a_second": "chunks that arrived in the best second of the run's clock; the tool calls them tokens",
    "max_requests_in_a_second": "requests that were in flight at some time of one second, not at one instant",
    "duration_s": "the tool's: from its first task to its last, some milliseconds longer than from the first send to the last end",
    "acceptance_rate_percent": "accepted over drafted tokens, by the server's counters",
}


def told(file: ForeignFile) -> Results:
    """One entry per result: one per file, or one per line with `--append-result`. Raises FileError for a file of another kind."""
    return each(entries(file, "vllm"), _told)


def _told(entry: Entry) -> Told:
    requests = _requests(entry)
    stated = _stated(entry)
    numbers = [key for key in entry.values if key in HEADER or key in FIGURES or STATED_MS.fullmatch(key) or key.startswith("percentiles_")]
    facts, words, source = metadata(entry, numbers)
    point = {**facts_in(entry, {"max_concurrency": "concurrency"}), **facts}
    served = entry.text("model_id")
    return Told(
        client=CLIENT,
        entry=entry.index,
        point=point,
        guessed={name: value for name, value in _guessed(entry, served).items() if name not in point},
        stated=stated,
        definitions=defined(stated, DEFINITIONS, CLIENT),
        workload=workload(entry),
        provenance={"date": entry.text("date") or "", "served_model": served or "", **({"metadata": words} if words else {})},
        requests=requests,
        source=source or ("simulated" if entry.text("label") == "simulated" else None),
    )


def _guessed(entry: Entry, served: str | None) -> dict[str, Any]:
    backend = entry.text("backend") or entry.text("endpoint_type")
    found = {"endpoint": ENDPOINTS.get(backend, backend)} if backend else {}
    return found | ({"model": served, "checkpoint": served} if served else {})


def workload(entry: Entry) -> dict[str, Any]:
    """How requests were scheduled, if they had due times of their own. Latencies are measured from the send."""
    if ramp := entry.text("ramp_up_strategy"):  # the tool then writes the rate as inf
        rates = {name: entry.number(name) for name in ("ramp_up_start_rps", "ramp_up_end_rps")}
        return {"arrivals": f"ramp_{ramp}", **{name: rate for name, rate in rates.items() if rate is not None}}
    rate = entry.values.get("request_rate")
    if rate is None or rate in ("inf", math.inf, "trace"):
        return {"arrivals": "trace"} if rate == "trace" else {}
    burstiness = entry.number("burstiness")
    arrivals = {"arrivals": "poisson"} if burstiness in (None, 1.0) else {"arrivals": "gamma", "burstiness": burstiness}
    return {**arrivals, "rate_rps": entry.needed("request_rate")}


def _stated(entry: Entry) -> dict[str, float]:
    found = figures_in(entry, FIGURES)
    completed, failed, asked = (entry.count(key) for key in ("completed", "failed", "num_prompts"))
    if completed is not None and asked is not None and completed > asked:
        raise entry.error(f"The file states that {completed} of {asked} requests were completed")
    if completed is not None and (failed is not None or asked is not None):
        n_failed = failed if failed is not None else max(0, (asked or 0) - completed)
        found |= {"n_requests": completed + n_failed, "n_failed": n_failed}
    found |= _latencies(entry)
    if completed is not None and "ttft_mean_s" in found:
        found["ttft_n"] = completed
    return found | {k: v for k, v in _end_to_end(entry, completed).items() if k not in found}


def _latencies(entry: Entry) -> dict[str, float]:
    """Latencies from fields such as mean_ttft_ms, and from the forks' percentiles_ttft_ms: [[99, 12.5]]."""
    found = {}
    for key in entry.values:
        if match := STATED_MS.fullmatch(key):
            number = entry.number(key)
            if number is not None:
                found[_name(entry, match[2], match[1])] = number / 1e3
        elif match := re.fullmatch(r"percentiles_(\w+)_ms", key):
            for pair in entry.gaps(key):
                if len(pair) != 2:
                    raise entry.wrong(key, "a list of pairs [percentile, milliseconds]")
                if math.isnan(pair[1]):
                    continue
                found[_name(entry, match[1], f"p{pair[0]:g}")] = pair[1] / 1e3
    return found


def _name(entry: Entry, metric: str, statistic: str) -> str:
    try:
        return latency(METRICS.get(metric, metric), statistic)
    except ValueError as error:
        raise entry.error(f"{statistic}_{metric}_ms: {error}") from error


def _end_to_end(entry: Entry, completed: int | None) -> dict[str, float]:
    """E2EL from the requests' latencies, which are also in a file without details. Only if all requests were answered."""
    latencies = [s for s in entry.seconds("latencies") if not math.isnan(s)]
    if not latencies or len(latencies) != completed:
        return {}
    of = statistics(np.array(latencies))
    return {f"e2el_{name}_s": getattr(of, name) for name in STATISTICS} | {"e2el_n": of.n}


def _requests(entry: Entry) -> Any:
    """The raw times of a detailed file; None if some are missing."""
    if not all(entry.values.get(key) for key in DETAILS):
        return None
    times = {key: entry.seconds(key) for key in ("ttfts", "latencies", "start_times")}
    gaps, prompt, output = entry.gaps("itls"), entry.counts("input_lens"), entry.counts("output_lens")
    errors = [str(error or "") for error in entry.listed("errors")] or [""] * len(gaps)
    lists: list[Sequence[Any]] = [*times.values(), gaps, prompt, output, errors]
    if len({len(values) for values in lists}) != 1:
        raise entry.error("The lists of requests do not have the same length")
    errors = [error or ("unstated" if latency_s <= 0 else "") for error, latency_s in zip(errors, times["latencies"], strict=True)]
    refuse_contradictions(entry, errors, entry.count("completed"))
    if sum(not error and ttft == 0 for error, ttft in zip(errors, times["ttfts"], strict=True)) > STRAY_SHARE * len(errors):
        return None  # first tokens were not measured: the stated figures are used
    return requests_of(entry, Timed(times["start_times"], times["ttfts"], times["latencies"], gaps, prompt, output, errors))
