"""What an engine's log says of its memory, of its start and of its settings. Pure; of every rank, and of a draft model beside the target.

Source: the format strings of SGLang 0.5.9 to 0.5.23 and of vLLM 0.16 to 0.33. SGLang's GB are 2^30 bytes. A figure is of one GPU, the
highest over the ranks; a rank's lines of one kind add up: the target's and the draft's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

RANK = r"^(?:\[[\d:. -]*(?P<rank>(?: ?[A-Z_]+\d+)*)\] )?"  # [2026-07-14 07:51:06 DP0 TP0 EP0]; one GPU has no rank
WORKER = r"^(?:\((?P<rank>[\w.]+) pid=\d+\) )?.*?"  # (Worker_TP0 pid=34322) INFO 05-06 20:59:59 [gpu_worker.py:4879]
WEIGHTS = {
    "sglang": re.compile(RANK + r"Load weight end\. elapsed=(?P<s>[\d.]+) s, .*mem usage=(?P<gib>-?[\d.]+) GB"),
    "vllm": re.compile(WORKER + r"Model loading took (?P<gib>[\d.]+) GiB(?: memory)? and (?P<s>[\d.]+) seconds"),
}
CACHE = {
    "sglang": re.compile(
        RANK + r"(?:\S.* )?KV Cache is allocated\. (?:dtype: [\w.]+, )?#tokens: (?P<tokens>\d+), "
        r"(?:KV size: (?P<gib>[\d.]+) GB|K size: (?P<k>[\d.]+) GB, V size: (?P<v>[\d.]+) GB)"
    ),
    "vllm": re.compile(WORKER + r"Available KV cache memory: (?P<gib>-?[\d.]+) GiB"),
}
GRAPHS = {
    "sglang": re.compile(RANK + r"Capture .*graph end.*?(?:Time elapsed: |elapsed=)(?P<s>[\d.]+) s[.,] mem usage=(?P<gib>-?[\d.]+) GB"),
    "vllm": re.compile(WORKER + r"Graph capturing finished in (?P<s>\d+) secs, took (?P<gib>-?[\d.]+) GiB"),
}
COMPILED = re.compile(WORKER + r"torch\.compile (?:takes|took) (?P<s>[\d.]+) s in total")
TOKENS = re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens")
ARGUMENTS = re.compile(r"non-default args: (?P<args>\{.*\})")
CONFIG = re.compile(r"Initializing a V1 LLM engine \(v[^)]*\) with config: (?P<config>.*)")
STATED = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "kv_cache_dtype", "quantization", "max_seq_len")


def memory(log: str, flavor: str) -> dict[str, float]:
    """`weights_gib`, `kv_gib`, `graphs_gib`, and seconds `load_s`, `graphs_s`, `compile_s`; of vLLM also `kv_tokens`. Only what it says."""
    lines = log.splitlines()
    found: dict[str, float] = {}
    for name, expressions, seconds in (("weights_gib", WEIGHTS, "load_s"), ("kv_gib", CACHE, ""), ("graphs_gib", GRAPHS, "graphs_s")):
        if flavor in expressions:
            found |= _highest(name, [_gib(m) for m in _matches(lines, expressions[flavor])])
            found |= _highest(seconds, [(m["rank"] or "", float(m["s"])) for m in _matches(lines, expressions[flavor])] if seconds else [])
    found |= _highest("compile_s", [(m["rank"] or "", float(m["s"])) for m in _matches(lines, COMPILED)])
    tokens = [int(m["tokens"].replace(",", "")) for line in lines if (m := TOKENS.search(line))]
    return found | ({"kv_tokens": float(sum(tokens))} if tokens else {})


def _matches(lines: list[str], expression: re.Pattern[str]) -> Iterator[re.Match[str]]:
    yield from (m for line in lines if (m := expression.search(line)))


def _gib(m: re.Match[str]) -> tuple[str, float]:
    told = m.groupdict()
    return m["rank"] or "", float(told["gib"]) if told["gib"] is not None else float(told["k"]) + float(told["v"])


def _highest(name: str, told: list[tuple[str, float]]) -> dict[str, float]:
    """The highest over the ranks of the sum of a rank's lines."""
    sums: dict[str, float] = {}
    for rank, value in told:
        sums[rank] = sums.get(rank, 0.0) + value
    return {name: max(sums.values())} if sums else {}


def settings(log: str) -> dict[str, Any]:
    """What vLLM says of the settings that it runs with, by its own names: of its configuration, else of its arguments; else nothing."""
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
