"""A point as a row of InferenceX's aggregate files: seconds without a suffix, throughput per GPU, interactivity per statistic of TPOT."""

from __future__ import annotations

from typing import Any

from ...archive.columns import STATISTICS
from .summary_row import SummaryRow

METRICS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl_chunk", "e2el": "e2el"}


def inferencex_row(row: SummaryRow) -> dict[str, Any]:
    """The row as an object. Readers of these files use tp as the number of GPUs; `glm5bench` contains the actual number."""
    made: dict[str, Any] = {
        "hw": row["hardware"],
        "image": row["image"],
        "model": row["model"],
        "infmax_model_prefix": None,
        "framework": row["engine"],
        "precision": row["precision"],
        "spec_decoding": "none" if row["speculative"] == "off" else row["speculative"],
        "disagg": False,
        "is_multinode": False,
        "isl": row["isl_tokens"],
        "osl": row["osl_tokens"],
        "conc": row["concurrency"],
        "tp": row["tp"],
        "ep": None,
        "dp_attention": None,
        "tput_per_gpu": row["total_tput_per_gpu_tok_s"],
        "output_tput_per_gpu": row["output_tput_per_gpu_tok_s"],
        "input_tput_per_gpu": row["input_tput_per_gpu_tok_s"],
    }
    for theirs, ours in METRICS.items():
        made |= row.statistics(ours, theirs, unit=1.0, suffix="")
    if row["itl_token_mean_s"] is not None:
        made |= row.statistics("itl_token", "itl_token", unit=1.0, suffix="")
    made |= {f"{kind}_intvty": _inverse(row[f"tpot_{kind}_s"]) for kind in STATISTICS if kind != "std"}
    if row["interactivity_tok_s_user"] is not None:
        made["median_intvty"] = row["interactivity_tok_s_user"]
    return made | {"accept_length": row["acceptance_length"], "source": row["source"], "glm5bench": row.facts()}


def _inverse(value: float | None) -> float | None:
    return 1.0 / value if value else None
