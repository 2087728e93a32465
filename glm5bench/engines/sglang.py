"""SGLang, on CUDA and on ROCm. Source: its code and documentation from 0.5.9 to 0.5.23."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..values.groups import Hardware
from ..values.point import Arm, NodeJob
from .adapter import Adapter, Synonyms, count, keyed_by_file, ranks
from .log_lines import LogLines

METRICS = "--enable-metrics"
RANK = r"^(?:\[[\d:. -]*(?P<rank>(?: ?[A-Z_]+\d+)*)\] )?"  # [2026-07-14 07:51:06 DP0 TP0 EP0]; one GPU has no rank
LOG = LogLines(
    weights=re.compile(RANK + r"Load weight end\. elapsed=(?P<s>[\d.]+) s, .*mem usage=(?P<gib>-?[\d.]+) GB"),
    cache=re.compile(
        RANK + r"(?:\S.* )?KV Cache is allocated\. (?:dtype: [\w.]+, )?#tokens: (?P<tokens>\d+), "
        r"(?:KV size: (?P<gib>[\d.]+) GB|K size: (?P<k>[\d.]+) GB, V size: (?P<v>[\d.]+) GB)"
    ),
    graphs=re.compile(RANK + r"Capture .*graph end.*?(?:Time elapsed: |elapsed=)(?P<s>[\d.]+) s[.,] mem usage=(?P<gib>-?[\d.]+) GB"),
)


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m sglang.launch_server`."""
    import argparse
    import importlib

    made = argparse.ArgumentParser(prog="sglang")
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(made)
    return made


@dataclass(frozen=True)
class SGLang(Adapter):
    """An SGLang server."""

    def is_server(self, info: Mapping[str, Any], owner: str) -> bool:
        return isinstance(info.get("tp_size"), int) or owner == self.name

    def kv_dtype(self, hardware: Hardware, asked: str, *, is_sparse: bool = True) -> str:
        """`auto` is FP8 for sparse attention on NVIDIA GPUs with compute capability 10 or higher, else BF16. Source: srt/server_args.py."""
        capability = re.fullmatch(r"sm(\d+)\d", hardware.compute)
        is_new = capability is not None and int(capability[1]) >= 10
        return "fp8" if asked.startswith("fp8") or (asked == "auto" and is_new and is_sparse) else "bf16"

    def chunk_tokens(self, hardware: Hardware) -> int:
        """SGLang's default grows with the memory of a GPU. Source: srt/server_args.py."""
        return 8192 if hardware.memory_gib < 160 else 16384

    def flags_of_the_node(self, argv: Sequence[str]) -> list[str]:
        return [] if METRICS in argv else [METRICS]

    def keyed(self, argv: list[str], key_file: Path) -> list[str]:
        return keyed_by_file(argv, key_file)

    def needs(self, job: NodeJob) -> frozenset[str]:
        """`deep_gemm` for FP8 on NVIDIA GPUs: DeepGEMM compiles kernels when the server starts, unless that is disabled."""
        arm = job.arm
        asked = [r.env.get("SGLANG_ENABLE_JIT_DEEPGEMM", "1") for start in job.starts for r in start.recipe.started]
        is_fp8 = "fp8" in (arm.checkpoint.precision, arm.checkpoint.dense_precision)
        return frozenset({"deep_gemm"} if arm.hardware.vendor == "nvidia" and is_fp8 and "1" in asked else ())

    def reports_verify_steps(self, arm: Arm) -> bool:
        return arm.speculative.steps > 0

    def admitted(self, info: Mapping[str, Any], settings: Mapping[str, Any], argv: Sequence[str]) -> int | None:
        known = [n for rank in ranks(info) if (n := count(rank.get("effective_max_running_requests_per_dp"))) is not None]
        return sum(known) or count(info.get("max_running_requests"))

    def kv_tokens(self, info: Mapping[str, Any]) -> int | None:
        """Tokens that its KV caches hold: each data-parallel rank has its own cache."""
        usages = [rank.get("memory_usage") for rank in ranks(info)]
        each = [usage.get("token_capacity") if isinstance(usage, dict) else None for usage in usages]
        known = [n for n in each if isinstance(n, int)]
        if len(each) > 1 and len(known) == len(each):
            return sum(known)
        capacity = info.get("max_total_num_tokens")
        return capacity if isinstance(capacity, int) else None

    def observed(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Sums over the data-parallel ranks, and the mean of their acceptance lengths. The peaks of ranks may lie at different times."""
        peaks = [rank.get("peak_running_requests") for rank in ranks(info)]
        lengths = [n for rank in ranks(info) if isinstance(n := rank.get("avg_spec_accept_length"), int | float)]
        return {
            "capacity_tokens": self.kv_tokens(info),
            "peak_running": sum(peaks) if peaks and all(isinstance(n, int) for n in peaks) else None,
            "acceptance_length": sum(lengths) / len(lengths) if lengths else None,
        }

    def gpus(self, info: Mapping[str, Any]) -> int | None:
        """How many GPUs it uses. Replicas have their own GPUs unless only attention is data-parallel."""
        if not isinstance(info.get("tp_size"), int):
            return None
        sizes = [info.get(name) for name in ("tp_size", "pp_size", *(() if info.get("enable_dp_attention") else ("dp_size",)))]
        return math.prod(size for size in sizes if isinstance(size, int) and size > 0)


ENGINE = SGLang(
    "sglang",
    endpoints=frozenset({"completions", "chat", "generate"}),
    fraction_flags=("--mem-fraction-static",),
    running_flags=("--max-running-requests",),
    chunk_flags=("--chunked-prefill-size",),
    mixing_flags=("--enable-mixed-chunk",),
    poll_flags=("--scheduler-recv-interval",),
    shares_index_since="0.5.18",  # skip_topk_layers in mem_cache/memory_pool.py
    pins_since="0.5.16",  # before, SGLANG_SIMULATE_ACC_TOKEN_MODE is ignored and the drafts in the cache are wrong
    cache_report_flags=("--enable-cache-report",),
    reports_cache_places=True,
    most_running=4096,
    spans_nodes=True,
    has_roles=True,
    file_flags=("--config",),
    variables=("SGLANG_", "SGL_", "FLASHINFER_", "DG_", "AITER_"),
    takes_key=True,
    info_paths=("/server_info", "/get_server_info"),
    flush_path="/flush_cache",
    metrics={
        "running": ("sglang:num_running_reqs",),
        "queued": ("sglang:num_queue_reqs",),
        "kv_usage": ("sglang:token_usage",),
        "generation_tput": ("sglang:gen_throughput",),
        "cache_hit_rate": ("sglang:cache_hit_rate",),
        "prompt_tokens": ("sglang:prompt_tokens_total",),
        "generation_tokens": ("sglang:generation_tokens_total",),
        "cache_hits": ("sglang:cached_tokens_total",),
        "verify_steps": ("sglang:spec_verify_calls_total",),
    },
    log=LOG,
    synonyms=Synonyms(
        names={
            "--tensor-parallel-size": "tp_size",
            "--tp": "tp_size",
            "--data-parallel-size": "dp_size",
            "--expert-parallel-size": "ep_size",
        },
        words={"nextn": "eagle", "dsa": "nsa"},
        renamed=(("nsa_", "dsa_"), ("cuda_graph_max_bs", "cuda_graph_max_bs_decode")),
        # since 0.5.14 it turns the first into the second, and then reports that the first is off
        divided=("chunked_prefill_size",),
        became={"--enable-flashinfer-allreduce-fusion": "flashinfer_allreduce_fusion_backend"},
    ),
    parser=parser,
)
