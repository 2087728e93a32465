"""A server's /metrics, under names that are the same for every engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

from ..engines.known import engines


@dataclass(frozen=True)
class Metric:
    """One quantity of a server: its unit, and how the values of several ranks are combined."""

    name: str
    unit: str
    over_ranks: Literal["sum", "mean"]


METRICS = (
    Metric("running", "requests", "sum"),
    Metric("queued", "requests", "sum"),
    Metric("kv_usage", "share of the KV cache", "mean"),
    Metric("generation_tput", "token/s, by the server's own account", "sum"),
    Metric("cache_hit_rate", "share of the prompt tokens, of the last prefill", "mean"),
    Metric("prompt_tokens", "tokens since its start", "sum"),
    Metric("generation_tokens", "tokens since its start", "sum"),
    Metric("cache_queries", "prompt tokens since its start", "sum"),
    Metric("cache_hits", "prompt tokens since its start", "sum"),
    Metric("preemptions", "requests since its start", "sum"),
    Metric("drafts", "drafts since its start", "sum"),
    Metric("accepted_tokens", "draft tokens since its start", "sum"),
    Metric("verify_steps", "verify steps since its start", "sum"),
)
UNITS = {m.name: m.unit for m in METRICS}
_NAMED = [(name, m) for m in METRICS for engine in engines().values() for name in engine.metrics.get(m.name, ())]
_OF = {spelled: m for name, m in _NAMED for spelled in (name, name.replace(":", "_"))}  # routers and collectors replace the colon


def values(text: str) -> dict[str, float]:
    """The metrics in the text, under the names of METRICS. A metric is left out if a rank's value is not finite.

    Raises ValueError if the text is not in Prometheus' format.
    """
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in _OF]  # most are buckets of histograms
    told: dict[tuple[str, str], list[tuple[int, float]]] = {}  # by metric and replica: (tensor-parallel rank, value)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            replica = f"{sample.labels.get('engine', '')} {sample.labels.get('dp_rank', '')}"
            if sample.name not in _OF:  # the parser read another name in the line
                continue
            told.setdefault((_OF[sample.name].name, replica), []).append((_rank(sample.labels.get("tp_rank", "0")), sample.value))
    found: dict[str, list[float]] = {}
    for (name, _), ranked in told.items():  # the ranks of one replica report the same values; other labels mark parts, which are added
        lowest = min(rank for rank, _ in ranked)
        found.setdefault(name, []).append(sum(value for rank, value in ranked if rank == lowest))
    finite = [m for m in METRICS if m.name in found and all(map(math.isfinite, found[m.name]))]
    return {m.name: sum(found[m.name]) / (len(found[m.name]) if m.over_ranks == "mean" else 1) for m in finite}


def _rank(text: str) -> int:
    return int(text) if text.isdigit() else 0
