"""A point as a line of SGLang's serving benchmark.

In that tool, the meaning of ITL depends on the backend and on the accept length (exchange.foreign.sglang). The gap with that meaning is
written as ITL. Another gap gets its own name, mean_itl_chunk_ms or mean_itl_token_ms. A closed loop has the request rate Infinity,
without quotes, as the tool writes it.
"""

from __future__ import annotations

from typing import Any

from ..serving import FIGURES
from .summary_row import SummaryRow

METRICS = {"e2el": "e2e_latency", "ttft": "ttft", "tpot": "tpot"}
BACKENDS = {"completions": "sglang-oai", "chat": "sglang-oai-chat", "generate": "sglang"}


def sglang_line(row: SummaryRow) -> dict[str, Any]:
    """The line as an object."""
    backend = row.backend(BACKENDS)
    made = {
        "tag": row.tag,
        "backend": backend,
        "dataset_name": "random" if row["isl_tokens"] is not None else None,
        "request_rate": row.request_rate,
        "max_concurrency": row["concurrency"],
        "sharegpt_output_len": None,
        "random_input_len": row["isl_tokens"],
        "random_output_len": row["osl_tokens"],
        "random_range_ratio": row["range_ratio"],
        "server_info": None,
        **{theirs: row[ours] for theirs, ours in FIGURES.items()},
        "completed": row.n_whole,
        "input_throughput": row["input_tput_tok_s"],
        "total_throughput": row["total_tput_tok_s"],
    }
    for ours, theirs in METRICS.items():
        made |= row.statistics(ours, theirs)
    gap = _gap(backend, row["acceptance_length"])
    made |= row.statistics(gap, "itl") if gap else {f"{kind}_itl_ms": None for kind in ("mean", "median", "std", "p90", "p95", "p99")}
    counted = {name: row[name] for name in ("n_requests", "n_failed") if row[name] is not None}
    for name in ("itl_chunk", "itl_token"):
        if name != gap and row[f"{name}_mean_s"] is not None:
            made |= row.statistics(name, name)
    return made | {
        "concurrency": row["mean_concurrency"],
        "accept_length": row["acceptance_length"],
        "glm5bench": {**row.facts(), **counted},
    }


def _gap(backend: str | None, acceptance_length: float | None) -> str | None:
    """The gap that this backend calls ITL; None if neither gap has that meaning."""
    if backend == "sglang":
        return "itl_token"
    return None if acceptance_length and backend in ("sglang-oai", "sglang-oai-chat") else "itl_chunk"
