"""What a server's /metrics say, in words that are the same for every engine. Source: SGLang's and vLLM's Prometheus metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Metric:
    """One quantity of a server: its unit, how the values of several ranks become one, and the engines' names of it."""

    name: str
    unit: str
    over_ranks: Literal["sum", "mean"]
    names: tuple[str, ...]


METRICS = (
    Metric("running", "requests", "sum", ("sglang:num_running_reqs", "vllm:num_requests_running")),
    Metric("queued", "requests", "sum", ("sglang:num_queue_reqs", "vllm:num_requests_waiting")),
    Metric("kv_usage", "share of the KV cache", "mean", ("sglang:token_usage", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
    Metric("generation_tput", "token/s, by the server's own account", "sum", ("sglang:gen_throughput",)),
    Metric("cache_hit_rate", "share of the prompt tokens, of the last prefill", "mean", ("sglang:cache_hit_rate",)),
    Metric("prompt_tokens", "tokens since its start", "sum", ("sglang:prompt_tokens_total", "vllm:prompt_tokens_total")),
    Metric("generation_tokens", "tokens since its start", "sum", ("sglang:generation_tokens_total", "vllm:generation_tokens_total")),
    Metric("cache_queries", "prompt tokens since its start", "sum", ("vllm:prefix_cache_queries_total",)),
    Metric("cache_hits", "prompt tokens since its start", "sum", ("vllm:prefix_cache_hits_total", "sglang:cached_tokens_total")),
    Metric("preemptions", "requests since its start", "sum", ("vllm:num_preemptions_total",)),
    Metric("drafts", "drafts since its start", "sum", ("vllm:spec_decode_num_drafts_total",)),
    Metric("accepted_tokens", "draft tokens since its start", "sum", ("vllm:spec_decode_num_accepted_tokens_total",)),
    Metric("verify_steps", "verify steps since its start", "sum", ("sglang:spec_verify_calls_total",)),
)
UNITS = {m.name: m.unit for m in METRICS}
_OF = {name: m for m in METRICS for name in m.names}


def values(text: str) -> dict[str, float]:
    """By METRICS' names, of those that the text has; one of which a rank gives no finite number is none.

    Raises ValueError for what is no such text.
    """
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in _OF]  # most are buckets of histograms
    told: dict[tuple[str, str], list[tuple[int, float]]] = {}  # by metric and replica: (tensor-parallel rank, value)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            replica = f"{sample.labels.get('engine', '')} {sample.labels.get('dp_rank', '')}"
            if sample.name not in _OF:  # a line that the parser reads as another name
                continue
            told.setdefault((_OF[sample.name].name, replica), []).append((_rank(sample.labels.get("tp_rank", "0")), sample.value))
    found: dict[str, list[float]] = {}
    for (name, _), ranked in told.items():  # the ranks of one replica say the same; labels besides tell parts that add up
        lowest = min(rank for rank, _ in ranked)
        found.setdefault(name, []).append(sum(value for rank, value in ranked if rank == lowest))
    finite = [m for m in METRICS if m.name in found and all(map(math.isfinite, found[m.name]))]
    return {m.name: sum(found[m.name]) / (len(found[m.name]) if m.over_ranks == "mean" else 1) for m in finite}


def _rank(text: str) -> int:
    return int(text) if text.isdigit() else 0
