"""The values of conf/: hardware, checkpoint, engine, speculative setting and accuracy, and the rules that each adds to a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field, FiniteFloat

from .workload import Natural, Positive, PositiveFloat

FAULTS = {
    "fail_start": "exits while loading weights, as if out of memory",
    "slow_start": "takes N simulated seconds longer to start",
    "settings": "says that it runs on half of the GPUs",
    "die": "the process dies after N streamed requests",
    "hang": "no token leaves after N streamed requests",
    "panic": "the log says that the scheduler died after N streamed requests, and the process lives on",
    "refuse": "answers 503 to every request after N streamed ones",
    "cut": "every Nth stream ends without finish reason or [DONE]",
    "short": "every Nth answer stops at half its tokens",
    "lost": "every Nth connection is reset in mid-stream",
}  # how the simulated server can be told to misbehave

Share = Annotated[FiniteFloat, Gt(0), Le(1)]

Word = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]


@dataclass(frozen=True)
class Rule:
    """Flags, environment and image that one group adds to a recipe when `when` holds.

    `when` maps a property of the arm to one value or a list. Names: engine, model, precision, checkpoint, speculative, tp; what the GPUs
    can do: cuda, rocm, fp4 (true or false), and hardware, architecture, vendor; of the model: sparse_mla; speculates. Rules should ask
    what hardware can do, so that they hold for the next one, too.

    A flag's value: True for a bare flag, None to take away what an earlier group set, a string with `$C $TP $ISL $OSL $STEPS $DRAFTS
    $MODEL`, a formula of them after `=`, or `{by_concurrency: [[up_to, value], ..., [None, value]]}`. A name with `$` in place of a
    flag gives flags of other groups their value.
    """

    when: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str | None] = field(default_factory=dict)
    image: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Efficiency:
    """What a step really reaches of the spec sheet: ratios and seconds, fitted to published points (docs/roofline.md)."""

    bandwidth: Share  # of HBM bandwidth, reading weights and KV cache
    compute: Share  # of the dense rate of each GEMM's precision, and of the BF16 rate in sparse attention
    indexer: Share  # of the BF16 rate, in the indexer and its top-k (each GPU does all of it)
    layer_s: PositiveFloat  # seconds of launches, norms and small kernels that one pass over one layer costs
    quantise_s: Annotated[
        FiniteFloat, Ge(0)
    ]  # seconds more a layer where the dense layers are FP8: quantising the activations of each GEMM


@dataclass(frozen=True)
class Hardware:
    """One kind of GPU and its node. HBM in GiB as the vendors name it, rates dense, power all-in. Source: docs/facts.md."""

    id: str
    vendor: str
    architecture: str
    compute: str
    gpu_name: str  # the word in the driver's name of this GPU
    gpus_per_node: Positive
    memory_gib: PositiveFloat
    bandwidth_tb_s: PositiveFloat
    tflop_s: dict[str, PositiveFloat]  # by precision of the multiplication: bf16, fp8, fp4
    formats: tuple[str, ...]  # checkpoint precisions that its tensor cores run
    scale_up_gb_s: PositiveFloat
    scale_up_world: Positive
    power_kw: PositiveFloat
    efficiency: Efficiency
    recipe: tuple[Rule, ...] = ()
    recipe_exceptions: tuple[Rule, ...] = ()  # of a variant, after the recipe that it inherits


@dataclass(frozen=True)
class Architecture:
    """The shape of the model, as its config.json says it."""

    name: str
    layers: int
    dense_layers: int
    hidden: int
    dense_intermediate: int
    moe_intermediate: int
    routed_experts: int
    active_experts: int
    shared_experts: int
    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int
    index_heads: int
    index_dim: int
    index_topk: int
    vocabulary: int
    mtp_layers: int
    positions: int


@dataclass(frozen=True)
class Checkpoint:
    """One published set of weights. `weights_gib` is its size on disk; `mtp_layers` how many draft layers it really ships."""

    id: str
    repository: str
    revision: str | None
    model: str
    precision: str
    dense_precision: str
    weights_gib: PositiveFloat
    mtp_layers: Natural
    engines: tuple[str, ...]
    architecture: Architecture
    mtp_accept: Annotated[FiniteFloat, Ge(0), Le(1)]  # chance that each next draft is taken (the simulator only); 0 without draft layers
    index_period: Positive = 1  # the indexer runs once in this many layers
    recipe: tuple[Rule, ...] = ()
    model_recipe: tuple[Rule, ...] = ()  # of all checkpoints of its model, before its own


@dataclass(frozen=True)
class Speculative:
    """The speculative setting: `steps` drafts and `draft_tokens` verified tokens a step; 0 and 0 is off."""

    id: str
    steps: Natural
    draft_tokens: Natural
    recipe: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Rename:
    """What an engine calls its flags and their values from this version on."""

    since: Annotated[str, Field(pattern=r"^\d+(\.\d+)*")]
    flags: dict[str, str] = field(default_factory=dict)  # old name -> new name
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # flag, by its new name -> old value -> new value


@dataclass(frozen=True)
class Engine:
    """How a server of this engine is started and what it is told by itself."""

    id: str
    flavor: str  # whose flags it takes: sglang or vllm
    vendor: str  # whose GPUs its image runs on: nvidia, amd or any
    version: str
    program: tuple[str, ...]
    workspace_gib: Annotated[FiniteFloat, Ge(0)]  # per GPU, inside the memory fraction, that is neither weights nor KV cache
    start_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat
    start_estimate_s: Annotated[FiniteFloat, Ge(0)]
    simulated: bool = False
    time_scale: PositiveFloat = 1.0
    fault: Annotated[str, Field(pattern=f"^$|^({'|'.join(FAULTS)})(:[1-9][0-9]*)?$")] = ""
    image: str | None = None  # of the user's own, in place of the recipe's
    extra_args: tuple[Word, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    settings_may_differ: tuple[Word, ...] = ()  # flags whose values the engine may change: to be the same thing is the user's word
    recipe: tuple[Rule, ...] = ()
    sets: tuple[Rule, ...] = ()  # what it sets by itself if the flag is absent
    renames: tuple[Rename, ...] = ()
    digests: dict[str, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = field(default_factory=dict)  # of images, by reference
    phases: dict[str, str] = field(default_factory=dict)  # expression in the log of a starting server -> what it does from then on
    fatal: tuple[str, ...] = ()  # expressions in the log of a server that is dead, whatever its process does


@dataclass(frozen=True)
class Accuracy:
    """The questions that a server answers before it is measured. `thresholds`: the lowest score that passes, by model, and `other`."""

    id: str
    task: str
    data: str | None
    n_shots: Natural
    thresholds: dict[str, Annotated[FiniteFloat, Ge(0), Le(1)]]
    generation: dict[str, Any]
    estimate_s: Annotated[FiniteFloat, Ge(0)]
    timeout_s: PositiveFloat
