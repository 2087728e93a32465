"""vLLM. Source: its code and documentation from 0.16 to 0.33."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapter import Adapter, Synonyms
from .log_lines import LogLines

WORKER = r"^(?:\((?P<rank>[\w.]+) pid=\d+\) )?.*?"  # (Worker_TP0 pid=34322) INFO 05-06 20:59:59 [gpu_worker.py:4879]
ARGUMENTS = re.compile(r"non-default args: (?P<args>\{.*\})")
CONFIG = re.compile(r"Initializing a V1 LLM engine \(v[^)]*\) with config: (?P<config>.*)")
STATED = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "kv_cache_dtype", "quantization", "max_seq_len")
LOG = LogLines(
    weights=re.compile(WORKER + r"Model loading took (?P<gib>[\d.]+) GiB(?: memory)? and (?P<s>[\d.]+) seconds"),
    cache=re.compile(WORKER + r"Available KV cache memory: (?P<gib>-?[\d.]+) GiB"),
    graphs=re.compile(WORKER + r"Graph capturing finished in (?P<s>\d+) secs, took (?P<gib>-?[\d.]+) GiB"),
    compiled=re.compile(WORKER + r"torch\.compile (?:takes|took) (?P<s>[\d.]+) s in total"),
    tokens=re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens"),
)


def parser() -> argparse.ArgumentParser:
    """The parser of `vllm serve`. Its module was moved twice.

    Without a GPU, vLLM has no platform and cannot build the parser. This function sets one, as vLLM's own main() does for `vllm bench`.
    """
    import importlib

    platforms: Any = importlib.import_module("vllm.platforms")
    if platforms.current_platform.is_unspecified():
        names = {"_enum": platforms.PlatformEnum.CUDA, "device_name": "cuda", "device_type": "cuda", "dispatch_key": "CUDA"}
        platforms.current_platform = type("NoGpu", (platforms.Platform,), names)()
    places = ("common", "launchers", "openai")  # 0.33, 0.30 to 0.32, before
    for place in places:
        try:
            cli_args: Any = importlib.import_module(f"vllm.entrypoints.{place}.cli_args")
            break
        except ModuleNotFoundError:
            continue
    else:
        raise ModuleNotFoundError(f"no cli_args in vllm.entrypoints.{{{','.join(places)}}}")
    empty = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(prog="vllm serve")
    made: argparse.ArgumentParser = cli_args.make_arg_parser(empty)
    return made


@dataclass(frozen=True)
class VLLM(Adapter):
    """A vLLM server."""

    def environment(self, key: str, key_file: Path) -> dict[str, str]:
        return {"VLLM_API_KEY": key}

    def settings(self, log: str) -> dict[str, Any]:
        """Settings from the configuration in its log, else from its arguments."""
        found: dict[str, Any] = {}
        for line in log.splitlines():
            if (m := ARGUMENTS.search(line)) is not None:
                try:
                    args = ast.literal_eval(m["args"])
                except (ValueError, SyntaxError):
                    continue
                found |= {name: value for name, value in args.items() if isinstance(value, str | int | float | bool)}
            if (m := CONFIG.search(line)) is not None:
                said = dict(re.findall(r"\b(\w+)=([^,\s]+)", m["config"]))
                found |= {name: said[name] for name in STATED if name in said}
        if "max_seq_len" in found:
            found["max_model_len"] = found.pop("max_seq_len")
        return found

    def admitted(self, info: Mapping[str, Any], settings: Mapping[str, Any], argv: Sequence[str]) -> int | None:
        stated = settings.get("max_num_seqs")
        if stated is None:
            words = [*argv, ""]
            stated = next((words[i + 1] for i, word in enumerate(words) if word == "--max-num-seqs"), None)
            stated = next((word.partition("=")[2] for word in words if word.startswith("--max-num-seqs=")), stated)
        return int(str(stated)) if str(stated).isdigit() else None


ENGINE = VLLM(
    "vllm",
    fraction_flags=("--gpu-memory-utilization",),
    running_flags=("--max-num-seqs",),
    pins_since="0.30",
    cache_report_flags=("--enable-prompt-tokens-details",),
    limits_each_rank=True,
    spreads_experts_over_all=True,
    chunk_flags=("--max-num-batched-tokens",),
    file_flags=("--config",),
    variables=("VLLM_", "FLASHINFER_", "DG_", "AITER_"),
    takes_key=True,
    info_paths=("/version",),
    metrics={
        "running": ("vllm:num_requests_running",),
        "queued": ("vllm:num_requests_waiting",),
        "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "prompt_tokens": ("vllm:prompt_tokens_total",),
        "generation_tokens": ("vllm:generation_tokens_total",),
        "cache_queries": ("vllm:prefix_cache_queries_total",),
        "cache_hits": ("vllm:prefix_cache_hits_total",),
        "preemptions": ("vllm:num_preemptions_total",),
        "drafts": ("vllm:spec_decode_num_drafts_total",),
        "accepted_tokens": ("vllm:spec_decode_num_accepted_tokens_total",),
    },
    log=LOG,
    synonyms=Synonyms(words={"none": None, "fp8": "fp8_e4m3", "fp8_ds_mla": "fp8_e4m3", "bf16": "bfloat16"}),
    parser=parser,
)
