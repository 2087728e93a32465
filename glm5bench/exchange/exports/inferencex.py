"""A point as a row of InferenceX's aggregate files: seconds without a suffix, throughput per GPU, interactivity per statistic of TPOT.

If prefill and decode have their own servers, there are fields for each instead of `tp`, `ep` and `dp_attention`. Input tokens are then
divided by the prefill GPUs and output tokens by the decode GPUs, as InferenceX does.
"""

from __future__ import annotations

from typing import Any

from ...analysis.rows import parts_of
from ...archive.columns import STATISTICS
from .summary_row import SummaryRow

METRICS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl_chunk", "e2el": "e2el"}


def inferencex_row(row: SummaryRow) -> dict[str, Any]:
    """The row as an object. Readers of these files use tp as the number of GPUs; `glm5bench` contains the actual number."""
    is_apart = bool(row["decode_gpus"])
    made: dict[str, Any] = {
        "hw": row["hardware"],
        "image": row["image"],
        "model": row["model"],
        "infmax_model_prefix": None,
        "framework": row["engine"],
        "precision": row["precision"],
        "spec_decoding": "none" if row["speculative"] == "off" else row["speculative"],
        "disagg": is_apart,
        "is_multinode": (row["nodes"] or 1) > 1,
        "isl": row["isl_tokens"],
        "osl": row["osl_tokens"],
        "conc": row["concurrency"],
        **(_apart(row) if is_apart else {"tp": row["tp"], "ep": row["ep"], "dp_attention": None if row["dp"] is None else True}),
        "tput_per_gpu": row["total_tput_per_gpu_tok_s"],
        "output_tput_per_gpu": row["output_tput_per_decode_gpu_tok_s" if is_apart else "output_tput_per_gpu_tok_s"],
        "input_tput_per_gpu": row["input_tput_per_prefill_gpu_tok_s" if is_apart else "input_tput_per_gpu_tok_s"],
    }
    for theirs, ours in METRICS.items():
        made |= row.statistics(ours, theirs, unit=1.0, suffix="")
    if row["itl_token_mean_s"] is not None:
        made |= row.statistics("itl_token", "itl_token", unit=1.0, suffix="")
    made |= {f"{kind}_intvty": _inverse(row[f"tpot_{kind}_s"]) for kind in STATISTICS if kind != "std"}
    if row["interactivity_tok_s_user"] is not None:
        made["median_intvty"] = row["interactivity_tok_s_user"]
    return made | {"accept_length": row["acceptance_length"], "source": row["source"], "glm5bench": row.facts()}


def _apart(row: SummaryRow) -> dict[str, Any]:
    """The sizes of prefill and decode workers. InferenceX's files have these truth values as text."""
    made: dict[str, Any] = {}
    for role, part in parts_of(row["variant"]).items():
        is_parallel = str(part.dp > 1).lower()
        made |= {f"{role}_tp": part.tp, f"{role}_ep": part.ep, f"{role}_dp_attention": is_parallel, f"{role}_num_workers": part.workers}
    return made | {"num_prefill_gpu": row["prefill_gpus"], "num_decode_gpu": row["decode_gpus"]}


def _inverse(value: float | None) -> float | None:
    return 1.0 / value if value else None
