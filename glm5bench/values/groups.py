"""The values of conf/: hardware, checkpoint, engine, speculative setting and accuracy, and the recipe rules of each group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field, FiniteFloat

from .workload import Natural, Positive, PositiveFloat

FAULTS = {
    "fail_start": "the process exits while loading weights, as if it were out of memory",
    "slow_start": "the start takes N simulated seconds longer",
    "settings": "the server reports that it runs on half of the GPUs",
    "die": "the process exits after N streamed requests",
    "hang": "no token is sent after N streamed requests",
    "panic": "the log reports that the scheduler died after N streamed requests, but the process keeps running",
    "refuse": "every request after N streamed ones gets status 503",
    "cut": "every Nth stream ends without a finish reason and without [DONE]",
    "short": "every Nth answer stops after half of its tokens",
    "lost": "every Nth connection is reset in the middle of its stream",
}  # faults that the simulated server can show

Share = Annotated[FiniteFloat, Gt(0), Le(1)]

Word = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]


@dataclass(frozen=True)
class Rule:
    """Flags, environment and image that one group adds to a recipe if `when` matches the arm.

    `when` maps a property of the arm to one value or a list. The properties are engine, model, precision, checkpoint, speculative,
    speculates, tp and sparse_mla; for the GPUs cuda, rocm and fp4 (true or false), hardware, architecture and vendor. Prefer cuda, rocm and
    fp4 to names of hardware, so that a rule also applies to new hardware.

    A flag's value is one of:

    - True for a bare flag, or None to remove a flag that an earlier group set
    - a string with `$C $TP $ISL $OSL $STEPS $DRAFTS $MODEL`, or a formula of them after `=`
    - `{by_concurrency: [[up_to, value], ..., [None, value]]}`

    A name with `$` instead of a flag sets the value for flags of other groups.
    """

    when: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str | None] = field(default_factory=dict)
    image: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Efficiency:
    """How much of the spec sheet a step reaches in practice: shares and seconds, fitted to published points (docs/roofline.md)."""

    bandwidth: Share  # of HBM bandwidth, reading weights and KV cache
    compute: Share  # of the dense rate for each GEMM's precision, and of the BF16 rate in sparse attention
    indexer: Share  # of the BF16 rate, in the indexer and its top-k (each GPU does all of it)
    layer_s: PositiveFloat  # seconds for launches, norms and small kernels in one pass over one layer
    quantise_s: Annotated[
        FiniteFloat, Ge(0)
    ]  # extra seconds per layer if the dense layers are FP8: quantising the activations of each GEMM


@dataclass(frozen=True)
class Hardware:
    """One kind of GPU and its node. HBM in GiB as vendors state it, dense rates, all-in power. Source: docs/facts.md."""

    id: str
    vendor: str
    architecture: str
    compute: str
    gpu_name: str  # the word for this GPU in the driver's name
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
    recipe_exceptions: tuple[Rule, ...] = ()  # rules of a variant, applied after the recipe that it inherits


@dataclass(frozen=True)
class Architecture:
    """The shape of the model, from its config.json."""

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
    """One published set of weights. `weights_gib` is its size on disk; `mtp_layers` is the number of draft layers that it contains."""

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
    mtp_accept: Annotated[FiniteFloat, Ge(0), Le(1)]  # probability that the next draft is accepted (simulator only); 0 without drafts
    index_period: Positive = 1  # the indexer runs once in this many layers
    recipe: tuple[Rule, ...] = ()
    model_recipe: tuple[Rule, ...] = ()  # rules for all checkpoints of its model, applied before its own


@dataclass(frozen=True)
class Speculative:
    """The speculative setting: `steps` drafts and `draft_tokens` verified tokens per step; 0 and 0 is off."""

    id: str
    steps: Natural
    draft_tokens: Natural
    recipe: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Rename:
    """New names of an engine's flags and values since one version."""

    since: Annotated[str, Field(pattern=r"^\d+(\.\d+)*")]
    flags: dict[str, str] = field(default_factory=dict)  # old name -> new name
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # flag, by its new name -> old value -> new value


@dataclass(frozen=True)
class Engine:
    """How a server of this engine is started, and what the engine sets by itself."""

    id: str
    flavor: str  # whose flags it takes: sglang or vllm
    vendor: str  # whose GPUs its image runs on: nvidia, amd or any
    version: str
    program: tuple[str, ...]
    workspace_gib: Annotated[FiniteFloat, Ge(0)]  # per GPU, inside the memory fraction, for neither weights nor KV cache
    start_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat
    start_estimate_s: Annotated[FiniteFloat, Ge(0)]
    simulated: bool = False
    time_scale: PositiveFloat = 1.0
    fault: Annotated[str, Field(pattern=f"^$|^({'|'.join(FAULTS)})(:[1-9][0-9]*)?$")] = ""
    image: str | None = None  # the user's own image, instead of the recipe's
    extra_args: tuple[Word, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    settings_may_differ: tuple[Word, ...] = ()  # flags whose values the engine may change, because the user states that they mean the same
    recipe: tuple[Rule, ...] = ()
    sets: tuple[Rule, ...] = ()  # flags that the engine sets by itself if they are absent
    renames: tuple[Rename, ...] = ()
    digests: dict[str, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = field(default_factory=dict)  # image reference -> digest
    phases: dict[str, str] = field(default_factory=dict)  # regular expression for the log of a starting server -> phase that begins there
    fatal: tuple[str, ...] = ()  # regular expressions in the log of a server that has failed, even if its process still runs


@dataclass(frozen=True)
class Accuracy:
    """The accuracy test of a server before it is measured. `thresholds`: the lowest passing score for each model, and `other`."""

    id: str
    task: str
    data: str | None
    n_shots: Natural
    thresholds: dict[str, Annotated[FiniteFloat, Ge(0), Le(1)]]
    generation: dict[str, Any]
    estimate_s: Annotated[FiniteFloat, Ge(0)]
    timeout_s: PositiveFloat
