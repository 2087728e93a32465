"""A point in the format of `vllm bench serve --save-result`, made from its summary. Also works for points without request times.

ITL is the gap between chunks. The gap between tokens is written as mean_itl_token_ms and so on. Facts are flat fields, as `--metadata`
writes them.
"""

from __future__ import annotations

import math
from typing import Any

from ...archive.measurement import Measurement
from ..serving import FIGURES
from ..vllm_json import details
from .summary_row import SummaryRow

METRICS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl_chunk", "e2el": "e2el"}
BACKENDS = {"completions": "openai", "chat": "openai-chat", "generate": "sglang"}


def vllm_json(row: SummaryRow, m: Measurement | None = None) -> dict[str, Any]:
    """The file's single object. With `m`, it also contains the times of each request, if they are known."""
    backend, rate = row.backend(BACKENDS), row.request_rate
    made = {
        "date": row["started_utc"].replace("-", "").replace(":", "").replace("T", "-")[:15],
        "endpoint_type": backend,
        "backend": backend,
        "label": row.tag,
        "model_id": row["model"],
        "tokenizer_id": None,
        "num_prompts": row["n_requests"],
        **row.facts(),
        "request_rate": "inf" if rate == math.inf else rate,
        "burstiness": 1.0 if row["burstiness"] is None else row["burstiness"],
        "max_concurrency": row["concurrency"],
        **{theirs: row[ours] for theirs, ours in FIGURES.items()},
        "completed": row.n_whole,
        "failed": row["n_failed"],
        "request_goodput": row["goodput_rps"],
        "total_token_throughput": row["total_tput_tok_s"],
    }
    for theirs, ours in METRICS.items():
        made |= row.statistics(ours, theirs)
    if row["itl_token_mean_s"] is not None:
        made |= row.statistics("itl_token", "itl_token")
    if row["acceptance_length"] is not None:
        made["spec_decode_acceptance_length"] = row["acceptance_length"]
    return made | (details(m) if m is not None and m.requests is not None else {})
