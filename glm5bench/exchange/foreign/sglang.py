"""Lines of SGLang's serving benchmark, from its Python client or its Rust client, one result per line.

Source: sglang/benchmark/serving.py of 0.5.23. ITL has three meanings there:

- The native backend divides the gap of a chunk by the tokens that the server counts in it.
- The OpenAI backends use the gap of a chunk.
- If the server reports an accept length, the OpenAI backends divide the gap by the tokens that the client's own tokenizer finds in the
  chunk's text.

No line states when a request began, so the stated figures are used.
"""

from __future__ import annotations

import math
import re
from typing import Any

from .. import serving
from .imported import Results, Told, defined, each, facts_in, figures_in, latency, metadata, metadata_words
from .reading import Entry, ForeignFile, entries
from .vllm import workload

CLIENT = "sglang.bench_serving"
NATIVE = ("sglang", "sglang-native")
OPENAI = ("sglang-oai", "sglang-oai-chat")
ENDPOINTS = {**dict.fromkeys(NATIVE, "generate"), "sglang-oai": "completions", "vllm": "completions", "lmdeploy": "completions",
             "sglang-oai-chat": "chat", "vllm-chat": "chat", "lmdeploy-chat": "chat"}  # fmt: skip
STATED_MS = re.compile(r"(mean|median|std|min|max|p[\d.]+)_(\w+)_ms")
METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e_latency": "e2el", "itl_chunk": "itl_chunk", "itl_token": "itl_token"}
FIGURES = {
    **serving.FIGURES, "input_throughput": "input_tput_tok_s",
    "total_throughput": "total_tput_tok_s", "concurrency": "mean_concurrency", "accept_length": "acceptance_length",
    "total_output_tokens_retokenized": "output_tokens_retokenized", "max_output_tokens_per_s": "max_gaps_in_a_second",
    "max_concurrent_requests": "max_requests_in_a_second",
}  # fmt: skip
HEADER = (
    "tag", "backend", "protocol", "dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len", "random_input_len",
    "random_output_len", "random_range_ratio", "server_info", "completed", "total_input_text_tokens", "total_input_vision_tokens",
    "input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors", "glm5bench",
)  # fmt: skip
DEFINITIONS = {
    "duration_s": "the tool's: it also holds the profiler's stop and a request for /server_info",
    "output_tokens_retokenized": "output tokens as the client's own tokenizer counts the answers' text",
    "max_gaps_in_a_second": "gaps, as the tool has them, that ended in the best second; it calls them tokens",
    "max_requests_in_a_second": "requests that were in flight at some time of one second, not at one instant",
    "prompt_tokens": "as the client's tokenizer counts the prompts",
    "output_tokens": "the native backend counts an error sent over HTTP 200 as a whole answer of the length asked for",
    "e2el_": "to the last event of the stream, which may hold no token",
    "tpot_": "(E2EL - TTFT)/(output tokens - 1), E2EL to the last event of the stream",
}


def told(file: ForeignFile) -> Results:
    """One entry per line. Raises FileError for a file of another kind."""
    return each(entries(file, "sglang"), _told)


def _told(entry: Entry) -> Told:
    stated = figures_in(entry, FIGURES)
    if not stated.get("acceptance_length", 1.0):
        del stated["acceptance_length"]  # 0: there was no speculation
    gap, what = _gap(entry)
    for match in filter(None, map(STATED_MS.fullmatch, entry.values)):
        number = entry.number(match[0])
        if number is not None:
            stated[_name(entry, match[2], match[1], gap)] = number / 1e3
    server, ours = entry.child("server_info"), entry.child("glm5bench")
    stated |= _counted(entry, ours)
    facts, words, source = metadata(ours, ("n_requests", "n_failed"))
    words |= metadata_words(entry, [*HEADER, *FIGURES, *(key for key in entry.values if STATED_MS.fullmatch(key))])
    point = {**_sent(entry), **_served(server), **facts}
    is_simulated = server.truth("simulated") or entry.text("tag") == "simulated"
    return Told(
        client=CLIENT,
        entry=entry.index,
        point=point,
        guessed=_guessed(entry, server, point),
        stated=stated,
        definitions=defined(stated, {gap: what, **DEFINITIONS}, CLIENT),
        workload=workload(entry),
        provenance={
            "served_model": server.text("served_model_name") or "",
            "tag": entry.text("tag") or "",
            "backend": entry.text("backend") or "",
        }
        | ({"metadata": words} if words else {}),
        source="simulated" if is_simulated else source,
    )


def _counted(entry: Entry, ours: Entry) -> dict[str, float]:
    """The number of answers behind the latencies. Only a line with details shows how many requests failed, by its errors."""
    completed, errors = entry.count("completed"), entry.listed("errors")
    found: dict[str, float] = {} if completed is None else {"ttft_n": completed, "e2el_n": completed}
    if errors:
        failed = sum(bool(error) for error in errors)  # a refusal without a reason has an empty text
        found |= {"n_requests": len(errors), "n_failed": max(failed, len(errors) - completed) if completed is not None else failed}
    return found | figures_in(ours, {"n_requests": "n_requests", "n_failed": "n_failed"})


def _is_of_2024(entry: Entry) -> bool:
    """Whether a line has one of the first formats, with few figures. The backend `sglang` then used /v1/completions or /generate."""
    return "mean_ttft_ms" not in entry.values


def _gap(entry: Entry) -> tuple[str, str]:
    """The name and the definition of the figure that the line calls ITL."""
    backend, accepted = entry.text("backend"), entry.number("accept_length") or 0.0
    if backend in NATIVE and not _is_of_2024(entry):
        return "itl_token", "gaps of chunks divided by the tokens that the server counts in them"
    if backend in OPENAI and accepted > 0:
        return "itl_retokenized", "gaps of chunks divided by the tokens that the client's own tokenizer makes of the chunk's text"
    return "itl_chunk", "gaps between chunks"


def _name(entry: Entry, metric: str, statistic: str, gap: str) -> str:
    try:
        return latency(gap if metric == "itl" else METRICS.get(metric, metric), statistic)
    except ValueError as error:
        raise entry.error(f"{statistic}_{metric}_ms: {error}") from error


def _sent(entry: Entry) -> dict[str, Any]:
    """What was sent. Lengths are stated for random prompts only."""
    facts = facts_in(entry, {"max_concurrency": "concurrency"})
    if not (entry.text("dataset_name") or "").startswith("random"):
        return facts
    ratio = {"random_range_ratio": "range_ratio"} if entry.number("random_range_ratio") else {}  # 0, the default: lengths from one token
    return facts | facts_in(entry, {"random_input_len": "isl_tokens", "random_output_len": "osl_tokens", **ratio})


def _served(server: Entry) -> dict[str, Any]:
    """Facts from /server_info. The complete arguments are never stored, because they contain the server's key."""
    facts = facts_in(server, {"tp_size": "tp", "version": "engine_version"})
    if "tp" in facts:
        facts["engine"] = "simulated" if server.truth("simulated") else "sglang"
        facts["gpus"] = _gpus(server)
    return facts | (facts_in(server, {"time_scale": "time_scale"}) if server.truth("simulated") else {})


def _gpus(server: Entry) -> int:
    """Number of GPUs. Replicas have separate GPUs, unless only attention is data-parallel."""
    names = ["tp_size", "pp_size", *(() if server.truth("enable_dp_attention") else ("dp_size",))]
    return math.prod(server.count(name) or 1 for name in names)


def _guessed(entry: Entry, server: Entry, point: dict[str, Any]) -> dict[str, Any]:
    backend, checkpoint = entry.text("backend") or "", server.text("model_path")
    endpoint = {} if _is_of_2024(entry) and backend in NATIVE else {"endpoint": ENDPOINTS.get(backend, backend)}
    found = endpoint | ({"model": checkpoint, "checkpoint": checkpoint} if checkpoint else {})
    return {name: value for name, value in found.items() if name not in point}
