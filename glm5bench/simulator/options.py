"""The simulated server's command line: those flags of SGLang that change a step or a limit, and its own flags.

Enters: argv as a recipe composed it, and the facts (an Arm as JSON). Leaves: Options. Other flags of SGLang
(backends, parsers, loader settings) are accepted and ignored.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.known import adapter
from ..errors import UsageError
from ..memory import MemoryFit, memory_fit
from ..roofline import StepModel, step_model
from ..values.groups import FAULTS
from ..values.plain import from_json
from ..values.point import Arm
from .scheduler import Cache, Limits
from .transfer import bandwidth_bytes_s, bytes_per_token

START_S = 5.0  # simulated seconds from the process's start to ready
PAGE_TOKENS = 64
HOST_BYTES_S = 50e9  # from host memory to a GPU over PCIe 5.0
SPECULATION_RUNNING = 48  # SGLang's admission limit under speculation if none is given


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and its number N."""

    kind: str
    number: int


@dataclass(frozen=True)
class Options:
    """Everything the server needs to start."""

    arm: Arm
    host: str
    port: int
    model_path: str
    served_model_name: str
    limits: Limits
    model: StepModel
    memory: MemoryFit
    stream_interval: int
    context_length: int
    fault: Fault | None
    api_key: str | None
    argv: tuple[str, ...]
    meeting: str = ""  # host and port at which the ranks of several nodes meet
    n_ranks: int = 1
    rank: int = 0
    mode: str = ""  # prefill or decode
    bootstrap_port: int = 0
    transfer_s: float = 0.0  # of the cache of one token from a prefill to a decode worker

    @property
    def time_scale(self) -> float:
        """How many simulated seconds pass in one real second."""
        return self.arm.engine.time_scale


def parse_fault(text: str) -> Fault | None:
    """`die:20` -> Fault("die", 20); empty -> None. Raises UsageError for a fault that does not exist."""
    if not text:
        return None
    kind, _, number = text.partition(":")
    if kind not in FAULTS or not (number or "1").isdigit() or number == "0":
        raise UsageError(f"Unknown fault {text!r}.", next_step="use one of " + ", ".join(f"{k}:N ({v})" for k, v in FAULTS.items()))
    return Fault(kind, int(number or 1))


def options(argv: Sequence[str], *, api_key: str | None = None) -> Options:
    """The options of a command line. Raises UsageError for missing facts or a fault that does not exist."""
    parser = _parser()
    known, _ = parser.parse_known_args(list(argv))
    try:
        arm = from_json(Arm, Path(known.facts).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The facts of the simulated server cannot be read: {error}.", where=str(known.facts)) from error
    return from_arm(arm, known, tuple(argv), api_key=api_key)


def from_arm(arm: Arm, known: argparse.Namespace, argv: tuple[str, ...], *, api_key: str | None = None) -> Options:
    """Options of an arm whose flags are parsed."""
    kv_dtype = adapter(arm.engine).kv_dtype(arm.hardware, known.kv_cache_dtype, is_sparse=arm.checkpoint.architecture.index_topk > 0)
    shares = adapter(arm.engine).shares_index(arm.engine.version)
    memory = memory_fit(arm, fraction=known.mem_fraction_static, kv_dtype=kv_dtype, shares_index=shares)
    if known.max_total_tokens is not None:  # of each rank
        memory = dataclasses.replace(memory, capacity_tokens=min(memory.capacity_tokens, known.max_total_tokens * arm.dp))
    engine = adapter(arm.engine)
    limits = Limits(
        known.max_running_requests or (SPECULATION_RUNNING if arm.speculative.steps else engine.most_running),
        memory.capacity_tokens,
        known.chunked_prefill_size or engine.chunk_tokens(arm.hardware),
        arm.engine.passes.wait + (known.scheduler_recv_interval - 1) / 2,
        _cache(arm, known, kv_dtype, memory.capacity_tokens // arm.dp),
    )
    return Options(
        arm=arm,
        host=known.host,
        port=known.port,
        model_path=known.model_path,
        served_model_name=known.served_model_name or known.model_path,
        limits=limits,
        model=step_model(arm, kv_dtype),
        memory=memory,
        stream_interval=known.stream_interval,
        context_length=known.context_length or arm.checkpoint.architecture.positions,
        fault=parse_fault(arm.engine.fault),
        api_key=api_key,
        argv=argv,
        meeting=known.dist_init_addr,
        n_ranks=known.nnodes,
        rank=known.node_rank,
        mode=known.disaggregation_mode,
        bootstrap_port=known.disaggregation_bootstrap_port,
        transfer_s=bytes_per_token(arm, kv_dtype) / bandwidth_bytes_s(arm.hardware, dataclasses.replace(arm, role="").gpus),
    )


def _cache(arm: Arm, known: argparse.Namespace, kv_dtype: str, capacity_tokens: int) -> Cache | None:
    """The prefix cache, if answers are to report it. Other workloads never send a prompt twice."""
    if known.disable_radix_cache or not known.enable_cache_report:
        return None
    host = int(known.hicache_ratio * capacity_tokens) if known.enable_hierarchical_cache else 0
    host_token_s = bytes_per_token(arm, kv_dtype) / HOST_BYTES_S
    return Cache(PAGE_TOKENS, 2 if arm.speculative.steps else 1, host, host_token_s)


def flags_of(argv: Sequence[str]) -> argparse.Namespace:
    """The flags that the simulator uses, from any SGLang command line."""
    return _parser().parse_known_args(list(argv))[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glm5bench.simulator", allow_abbrev=False)
    parser.add_argument("--facts", default="")
    parser.add_argument("--model-path", default="simulated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=30000)
    parser.add_argument("--served-model-name")
    parser.add_argument("--mem-fraction-static", type=float, default=0.88)
    parser.add_argument("--max-running-requests", type=int)
    parser.add_argument("--chunked-prefill-size", type=int)
    parser.add_argument("--scheduler-recv-interval", type=int, default=1)
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--stream-interval", type=int, default=1)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--enable-cache-report", action="store_true")
    parser.add_argument("--disable-radix-cache", action="store_true")
    parser.add_argument("--enable-hierarchical-cache", action="store_true")
    parser.add_argument("--hicache-ratio", type=float, default=2.0)
    parser.add_argument("--max-total-tokens", type=int)
    parser.add_argument("--dist-init-addr", default="")
    parser.add_argument("--disaggregation-mode", choices=("", "prefill", "decode"), default="")
    parser.add_argument("--disaggregation-bootstrap-port", type=_port, default=8998)
    parser.add_argument("--nnodes", type=_number, default=1)
    parser.add_argument("--node-rank", type=_number, default=0)
    return parser


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 1  # as for $PORT


def _port(text: str) -> int:
    return int(text) if text.isdigit() else 0  # $PORT of a recipe, not yet replaced
