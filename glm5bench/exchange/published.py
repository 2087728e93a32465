"""The published measurements as an archive: points if a source measured points that can be compared, else source tables.

Enters: the CSV files of glm5bench/published/. Leaves: published.h5, which `glm5bench tables published` reads. The command
`python -m glm5bench.exchange.published` makes it. A test makes it again and compares the digest.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..archive.contents import SourceTable
from ..archive.measurement import Measurement
from ..archive.union import write_measurements
from ..archive.writer import PUBLISHED
from ..values.plain import digest_of

GPUS_PER_NODE = 8
VLLM_SOURCE = {"source": "vllm-glm5-2048-512", "definitions": {"tpot_unnamed_ms": "TPOT, the source does not say of which statistic"}}
GLM52_SOURCE = {"source": "glm52-8k2k", "definitions": {"tpot_mean_ms": "mean TPOT"}}


def published() -> tuple[list[Measurement], list[SourceTable]]:
    """All published points and source tables that ship with the package."""
    folder = PUBLISHED.parent
    names = ("iso_interactivity_2026-05-25", "mtp_vs_off_b200_fp4_1k1k", "multinode_2026")
    tables = [SourceTable(name, tuple(_csv(folder / f"{name}.csv"))) for name in names]
    return [*_inferencex(folder), *_vllm(folder), *_glm52(folder)], tables


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _inferencex(folder: Path) -> list[Measurement]:
    return [
        _measurement(
            {
                "hardware": r["hardware"], "engine": r["engine"], "engine_version": r["engine_version"], "image": r["image"],
                "model": r["model"], "checkpoint": r["checkpoint"], "precision": r["precision"], "speculative": r["speculative"],
                "tp": int(r["tp"]), "gpus": int(r["gpus"]), "concurrency": int(r["concurrency"]),
                "isl_tokens": int(r["isl"]), "osl_tokens": int(r["osl"]), "range_ratio": 0.8,
            },
            {"source": r["source"], "measured_on": r["measured_on"]},
            {
                "total_tput_per_gpu_tok_s": float(r["total_tput_per_gpu_tok_s"]),
                "interactivity_tok_s_user": float(r["interactivity_tok_s_user"]),
                "tpot_median_s": float(r["tpot_ms"]) / 1e3,
                "cost_usd_per_mtok": float(r["cost_usd_per_mtok"]),
            },
        )
        for r in _csv(folder / "points.csv")
    ]  # fmt: skip


def _vllm(folder: Path) -> list[Measurement]:
    """Points with fixed lengths, so total tokens are output tokens x (2048 + 512)/512. Eight GPUs of one node."""
    point = {
        "hardware": "b200", "engine": "vllm", "engine_version": "0.16", "model": "GLM-5", "checkpoint": "zai-org/GLM-5-FP8",
        "precision": "fp8", "speculative": "off", "tp": 8, "gpus": 8, "isl_tokens": 2048, "osl_tokens": 512, "range_ratio": 1.0,
    }  # fmt: skip
    return [
        _measurement(
            {**point, "concurrency": int(r["concurrency"])},
            VLLM_SOURCE,
            {
                "output_tput_per_gpu_tok_s": float(r["output_tput_tok_s"]) / 8,
                "total_tput_per_gpu_tok_s": float(r["output_tput_tok_s"]) * (2048 + 512) / 512 / 8,
                "ttft_unnamed_ms": float(r["ttft_ms"]),
                "tpot_unnamed_ms": float(r["tpot_ms"]),
                "itl_chunk_p99_s": float(r["itl_p99_ms"]) / 1e3,
            },
        )
        for r in _csv(folder / "vllm_b200_2048_512.csv")
    ]


def _glm52(folder: Path) -> list[Measurement]:
    """Two runs whose engine the source does not name. They are distinguished by run, and are in no frontier."""
    rows = []
    for r in _csv(folder / "glm52_b200_8k2k.csv"):
        stated = {k: float(v) for k, v in r.items() if k.endswith("_ms")}
        stated["output_tput_per_gpu_tok_s"] = float(r["output_tput_tok_s"]) / 8
        stated["total_tput_per_gpu_tok_s"] = float(r["total_tput_tok_s"]) / 8
        point = {
            "hardware": "b200", "engine": f"unnamed-{r['run'].split()[0]}", "model": "GLM-5.2", "checkpoint": r["checkpoint"],
            "precision": "fp8", "speculative": "off", "tp": 8, "gpus": 8, "isl_tokens": int(r["isl"]), "osl_tokens": int(r["osl"]),
            "range_ratio": 1.0, "concurrency": int(r["concurrency"]), "n_prompts": int(r["num_prompts"]), "endpoint": "chat",
        }  # fmt: skip
        rows.append(_measurement(point, {**GLM52_SOURCE, "run": r["run"]}, stated))
    return rows


def _measurement(point: dict[str, Any], provenance: dict[str, Any], stated: dict[str, float]) -> Measurement:
    common = {
        "gpus_per_node": GPUS_PER_NODE,
        "repeat": 0,
        "seed": 0,
        "server_scope": "point",
        "binding": point["concurrency"],
        "endpoint": "completions",
    }
    whole = {**common, **point}
    return Measurement(digest_of([whole, provenance]), "published", whole, provenance, stated=stated)


if __name__ == "__main__":
    write_measurements(PUBLISHED, *published())
