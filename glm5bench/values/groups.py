"""The values of conf/: hardware, checkpoint, engine, speculative setting and accuracy, and the recipe rules of each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field, FiniteFloat

from .plain import ABSENT
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
    "closes": "connections without a request are closed after N seconds",
    "retract": "every Nth answer reports its cached tokens twice, as SGLang did after a retraction",
    "transferred": "every answer reports all prompt tokens but one as cached, as some decode workers do",
    "reset": "the token counters restart at 0 after N streamed requests",
    "gauge": "cached tokens are not counted; there is only the hit rate of the last prefill batch",
    "renamed": "the names of the metrics begin with sglang_ instead of sglang:, as behind some collectors",
}  # faults that the simulated server can show

Share = Annotated[FiniteFloat, Gt(0), Le(1)]
NotNegative = Annotated[FiniteFloat, Ge(0)]

Word = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]


@dataclass(frozen=True)
class Rule:
    """Flags, environment and image that one group adds to a recipe if `when` matches the arm.

    `when` maps a property of the arm to one value or a list. The properties are engine, model, precision, checkpoint, speculative,
    speculates, tp, data_parallel, expert_parallel and sparse_mla; for the GPUs cuda, rocm and fp4 (true or false), hardware,
    architecture and vendor. Prefer cuda, rocm and fp4 to names of hardware, so that a rule also applies to new hardware.

    A flag's value is one of:

    - True for a bare flag, or None to remove a flag that an earlier group set
    - a string with `$C $TP $DP $EP $ISL $OSL $STEPS $DRAFTS $MODEL`, or a formula of them after `=`
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
    compute: Share  # of the dense rate for each GEMM's precision, and of the BF16 rate in sparse attention, in decode passes
    indexer: Share  # of the BF16 rate, in the indexer and its top-k (each GPU does all of it)
    layer_s: PositiveFloat  # seconds for launches, norms and small kernels in one pass over one layer
    quantise_s: NotNegative  # extra seconds per layer if the dense layers are FP8: quantising the activations of each GEMM
    index_s: NotNegative = 0.0  # seconds more per layer if attention has an indexer: its projections, scores, top-k and gathering
    index_quantise_s: NotNegative = 0.0  # and more if the dense layers are FP8
    prefill_compute: Share = 0.7  # the same as `compute`, in prefill passes
    prefill_token_s: NotNegative = 0.0  # seconds per token of a prefill pass that tensor parallelism does not divide
    expert_s: NotNegative = 0.0  # seconds per expert that a pass touches in a layer, besides reading it: small GEMMs do not fill a GPU
    narrow_fp4_expert_s: NotNegative = 0.0  # the same for a 4-bit expert of which a GPU has fewer than NARROW columns
    token_s: NotNegative = 0.0  # the same for a decode pass: permuting, norms, copies
    request_s: NotNegative = 0.0  # seconds per request of a decode pass: sampling and bookkeeping
    eager_layer_s: NotNegative = 0.0  # shortest time of a layer in a prefill pass: kernels are launched one by one, without a CUDA graph
    host_s: NotNegative = 0.0  # seconds of a request outside forward passes: HTTP, tokenizer, detokenizer


@dataclass(frozen=True)
class Passes:
    """How an engine arranges forward passes, and its own times relative to those that were fitted with SGLang (docs/roofline.md)."""

    mixed: bool = False  # whether prefill chunks share a pass with decoding requests; otherwise prefill goes first
    wait: NotNegative = 0.0  # decode passes between the arrival of a request and its prefill
    layer: PositiveFloat = 1.0  # factor on layer_s and quantise_s
    eager: PositiveFloat = 1.0  # factor on eager_layer_s
    sparse_prefill: PositiveFloat = 1.0  # factor on the computing time of prefill if attention has an indexer


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
    scale_out_gb_s: PositiveFloat = field(default=50.0, metadata=ABSENT)  # of a GPU to other nodes, in one direction
    recipe: tuple[Rule, ...] = ()
    recipe_exceptions: tuple[Rule, ...] = ()  # rules of a variant, applied after the recipe that it inherits


def _impossible(a: Architecture) -> Iterator[str]:
    """Each field whose value contradicts another one, in one sentence."""
    latent, grouped = ("kv_lora_rank", "qk_nope_dim", "qk_rope_dim", "v_dim"), ("kv_heads", "head_dim")
    index = ("index_heads", "index_dim", "index_topk")
    linear = ("linear_layers", "linear_key_heads", "linear_value_heads", "linear_dim")
    for what, names in (("latent attention", latent), ("grouped attention", grouped), ("an indexer", index), ("linear attention", linear)):
        missing = [name for name in names if not getattr(a, name)]
        if missing and len(missing) < len(names):
            yield f"{missing[0]} is 0, and {what} needs all of {', '.join(names)}"
    if a.kv_heads and a.kv_lora_rank:
        yield f"kv_heads is {a.kv_heads} and kv_lora_rank {a.kv_lora_rank}: attention is either grouped or latent"
    if not a.kv_heads and not a.kv_lora_rank:
        yield "kv_heads and kv_lora_rank are 0: no attention is described"
    if a.kv_heads and a.heads % a.kv_heads:
        yield f"heads is {a.heads}, not a multiple of kv_heads = {a.kv_heads}"
    if a.index_layers > a.layers or (a.index_layers and not a.index_topk):
        yield f"index_layers is {a.index_layers}, for {a.layers} layers with index_topk={a.index_topk}"
    if a.index_topk and not a.kv_lora_rank:
        yield f"index_topk is {a.index_topk}, and sparse attention with an indexer is known for latent attention only"
    if a.active_experts > a.routed_experts:
        yield f"active_experts is {a.active_experts}, more than routed_experts = {a.routed_experts}"
    if a.dense_layers > a.layers:
        yield f"dense_layers is {a.dense_layers}, more than layers = {a.layers}"
    if a.dense_layers and not a.dense_intermediate:
        yield f"dense_intermediate is 0, and dense_layers is {a.dense_layers}"
    if bool(a.window) != bool(a.window_layers):
        yield f"window is {a.window} and window_layers {a.window_layers}: sliding windows need both"
    if a.window_layers + a.linear_layers > a.layers:
        yield f"window_layers + linear_layers is {a.window_layers + a.linear_layers}, more than layers = {a.layers}"


@dataclass(frozen=True)
class Architecture:
    """The shape of the model, from its config.json. Raises ValueError, naming the field, for a shape that no model can have.

    Attention is latent (MLA; `kv_lora_rank`) or grouped (GQA; `kv_heads`). Either reads all earlier tokens, the `index_topk` best of them
    (sparse, with an indexer), or in `window_layers` layers the last `window`. `linear_layers` layers have linear attention, which keeps a
    state of constant size for each sequence.
    """

    name: str
    layers: Positive
    dense_layers: Natural
    hidden: Positive
    dense_intermediate: Natural
    moe_intermediate: Positive
    routed_experts: Positive
    active_experts: Positive
    shared_experts: Natural
    heads: Positive
    vocabulary: Positive
    mtp_layers: Natural
    positions: Positive
    q_lora_rank: Natural = 0  # 0: queries are not compressed
    kv_lora_rank: Natural = 0
    qk_nope_dim: Natural = 0
    qk_rope_dim: Natural = 0
    v_dim: Natural = 0
    index_heads: Natural = 0
    index_dim: Natural = 0
    index_topk: Natural = 0  # 0: no indexer, attention reads every earlier token
    index_layers: Natural = field(default=0, metadata=ABSENT)  # layers with keys of their own for the indexer; 0: every layer has some
    kv_heads: Natural = 0
    head_dim: Natural = 0
    window: Natural = 0
    window_layers: Natural = 0
    linear_layers: Natural = 0
    linear_key_heads: Natural = 0
    linear_value_heads: Natural = 0
    linear_dim: Natural = 0  # of keys and of values of a head
    linear_conv: Natural = 0  # width of the convolution before linear attention

    def __post_init__(self) -> None:
        for wrong in _impossible(self):
            raise ValueError(wrong)


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
    """The speculative setting: `steps` drafts and `draft_tokens` verified tokens per step; 0 and 0 is off.

    `pinned`: the acceptance length that the engine is made to have, whatever it generates. Its text is then wrong.
    """

    id: str
    steps: Natural
    draft_tokens: Natural
    recipe: tuple[Rule, ...] = ()
    pinned: Annotated[FiniteFloat, Ge(1)] | None = field(default=None, metadata=ABSENT)
    of_pinned: tuple[Rule, ...] = field(default=(), metadata=ABSENT)  # rules that apply after `recipe` if the acceptance length is pinned


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
    workspace_gib: NotNegative  # per GPU, inside the memory fraction, for neither weights nor KV cache
    start_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat
    start_estimate_s: NotNegative
    simulated: bool = False
    time_scale: PositiveFloat = 1.0
    fault: Annotated[str, Field(pattern=f"^$|^({'|'.join(FAULTS)})(:[1-9][0-9]*)?$")] = ""
    image: str | None = None  # the user's own image, instead of the recipe's
    extra_args: tuple[Word, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    settings_may_differ: tuple[Word, ...] = ()  # flags whose values the engine may change, because the user states that they mean the same
    passes: Passes = field(default_factory=Passes)
    recipe: tuple[Rule, ...] = ()
    sets: tuple[Rule, ...] = ()  # flags that the engine sets by itself if they are absent
    renames: tuple[Rename, ...] = ()
    digests: dict[str, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = field(default_factory=dict)  # image reference -> digest
    phases: dict[str, str] = field(default_factory=dict)  # regular expression for the log of a starting server -> phase that begins there
    fatal: tuple[str, ...] = ()  # regular expressions in the log of a server that has failed, even if its process still runs
    of_sessions: tuple[Rule, ...] = field(default=(), metadata=ABSENT)  # rules that apply after all others if agent sessions are replayed


@dataclass(frozen=True)
class Accuracy:
    """The accuracy test of a server before it is measured. `thresholds`: the lowest passing score for each model, and `other`."""

    id: str
    task: str
    data: str | None
    n_shots: Natural
    thresholds: dict[str, Annotated[FiniteFloat, Ge(0), Le(1)]]
    generation: dict[str, Any]
    estimate_s: NotNegative
    timeout_s: PositiveFloat
    thinking: Literal["default", "off", "low", "high", "max"] = field(default="default", metadata=ABSENT)

    @property
    def template(self) -> dict[str, Any]:
        """The fields of a request that ask the chat template for this level of thinking; empty for the template's default."""
        if self.thinking == "default":
            return {}
        effort = {} if self.thinking == "off" else {"reasoning_effort": self.thinking}
        return {"chat_template_kwargs": {"enable_thinking": self.thinking != "off", **effort}}
