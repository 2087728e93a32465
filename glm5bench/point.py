"""The values a point is made of, and its key.

Everything here is frozen and plain: what Hydra composed becomes these values once, and past that place nothing else is passed
around. Facts (Hardware, Checkpoint, ...) come from conf/; an Arm is one recipe under one workload with `$C` symbolic; a Point is an
arm at one concurrency. The key is a hash of what changes the physics, so that the same measurement has the same key on any cluster.
This module knows no file, no clock and no Hydra.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter

from .workload import Natural, Positive, PositiveFloat, Workload

PROTOCOL_VERSION = 1  # of the load protocol: what is sent, when the clock starts and stops
SIMULATOR_MODEL = 1  # of the simulator's scheduler and step model: raised when its figures change

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

KEY_FILE_VARIABLE = "GLM5BENCH_API_KEY_FILE"  # names the file that holds a server's key: the key stands in no environment

Share = Annotated[FiniteFloat, Gt(0), Le(1)]

Word = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]

ServerScope = Literal["arm", "point"]


@dataclass(frozen=True)
class Rule:
    """Flags, environment and image that one group adds to a recipe when `when` holds.

    `when` maps a property of the arm (engine, hardware, architecture, vendor, model, precision, checkpoint, speculative, speculates) to
    one value or a list. A flag's value: True for a bare flag, None to take away what an earlier group set, a string with `$C $TP
    $ISL $OSL $STEPS $DRAFTS $MODEL`, a formula of them after `=`, or `{by_concurrency: [[up_to, value], ..., [None, value]]}`.
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
class Arm:
    """One recipe under one workload, before `$C` has a number."""

    hardware: Hardware
    checkpoint: Checkpoint
    engine: Engine
    tp: int
    speculative: Speculative
    workload: Workload

    @property
    def label(self) -> str:
        """The arm in a few words, as tables show it."""
        c, e = self.checkpoint, self.engine
        return f"{self.hardware.id} {c.id} tp{self.tp} {self.speculative.id} {e.id} {self.workload.isl_tokens}/{self.workload.osl_tokens}"


def kind_of(arm: Arm) -> str:
    """What arms have in common whose servers take about as long to start."""
    return f"{arm.hardware.id} {arm.checkpoint.id} {arm.engine.id}"


@dataclass(frozen=True)
class Recipe:
    """How one server is started. `argv` and `env` keep `$MODEL $HOST $PORT` for the node; `binding` is what `$C` became."""

    argv: tuple[str, ...]
    env: dict[str, str]
    image: str
    origin: dict[str, str]  # flag -> the group that set it
    notes: tuple[str, ...]
    binding: int | None = None


@dataclass(frozen=True)
class Point:
    """One measurement to be made: an arm at one concurrency, seed and repeat, on a server of a bound recipe."""

    key: str
    arm: str
    concurrency: int
    repeat: int
    seed: int
    binding: int


@dataclass(frozen=True)
class ServerStart:
    """One start of a server, and the points measured on it, ascending in concurrency."""

    recipe: Recipe
    points: tuple[Point, ...]


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


@dataclass(frozen=True)
class NodeJob:
    """What one Slurm job measures on one node; complete in itself, so that it runs from its JSON alone."""

    id: str
    arm: Arm
    arm_id: str
    server_scope: ServerScope
    model_path: str  # where the node finds the checkpoint: a directory, or the repository's name
    starts: tuple[ServerStart, ...]
    estimate_s: float
    estimate_usd: float
    image_dir: str = ""  # where the node finds images; empty: engines run from its PATH
    cache_dir: str = ""  # where compiled kernels outlive the job; empty: nowhere
    stage_dir: str = ""  # where on the node the checkpoint is copied before it is read; empty: it is read where it lies
    binds: tuple[str, ...] = ()  # what else of the node a container shows, as apptainer --bind takes it
    lanes: Positive = 1  # servers side by side on the node; each is a node job
    pace: PositiveFloat = 1.0  # what points of this campaign took so far, over what the roofline model estimates
    accuracy: Accuracy | None = None  # what each server is asked before it is measured
    accuracy_at: tuple[int, ...] = ()  # and at which concurrencies: the arm's median and highest, whichever points are left
    telemetry_s: Annotated[FiniteFloat, Ge(0)] = 1.0  # between two readings beside the load; 0: none

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of all its server starts."""
        return tuple(point for start in self.starts for point in start.points)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, NaN refused."""
    return _canonical(plain(value))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """The value as dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def physics(arm: Arm, recipe: Recipe, *, concurrency: int, repeat: int, seed: int, lanes: int = 1) -> dict[str, Any]:
    """What changes the measurement, and nothing else: no path, date, host or cluster."""
    packed = {"packed": lanes} if lanes > 1 else {}
    return {
        **packed,
        "protocol": PROTOCOL_VERSION,
        "checkpoint": arm.checkpoint.repository,
        "revision": arm.checkpoint.revision,
        "engine": arm.engine.id,
        "image": recipe.image,
        "argv": recipe.argv,
        "env": recipe.env,
        "hardware": arm.hardware.id,
        "tp": arm.tp,
        "speculative": arm.speculative.id,
        "workload": arm.workload.physics(),
        "concurrency": concurrency,
        "repeat": repeat,
        "seed": seed,
        "simulator": _simulator_physics(arm),
    }


def _simulator_physics(arm: Arm) -> dict[str, Any] | None:
    if not arm.engine.simulated:
        return None
    facts = digest_of(simulated_facts(arm))
    return {"model": SIMULATOR_MODEL, "time_scale": arm.engine.time_scale, "facts": facts, "fault": arm.engine.fault}


def simulated_facts(arm: Arm) -> dict[str, Any]:
    """What a simulation computes with."""
    return {
        "hardware": dataclasses.replace(arm.hardware, recipe=(), recipe_exceptions=()),
        "checkpoint": dataclasses.replace(arm.checkpoint, recipe=()),
        "speculative": dataclasses.replace(arm.speculative, recipe=()),
    }


def digest_of(value: Any, length: int = 20) -> str:
    """The first `length` hex digits of the SHA-256 of the value's canonical JSON."""
    return digest_of_plain(plain(value), length)


def digest_of_plain(value: Any, length: int = 20) -> str:
    """The same, of a value that is plain already."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:length]


def point_keys(arm: Arm, recipe: Recipe, axes: Sequence[tuple[int, int, int]], *, lanes: int = 1) -> list[str]:
    """The keys, 20 hex digits each, of an arm's points at these (concurrency, seed, repeat)."""
    same = plain(physics(arm, recipe, concurrency=0, repeat=0, seed=0, lanes=lanes))  # an arm may have thousands of points
    return [digest_of_plain({**same, "concurrency": c, "seed": seed, "repeat": repeat}) for c, seed, repeat in axes]


T = TypeVar("T")


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Validates values of this kind; made once, which takes 10 ms."""
    return TypeAdapter(kind)


def from_json(kind: type[T], text: str | bytes) -> T:
    """A value of this kind from JSON. Raises ValueError that names the first field that is wrong."""
    value: T = adapter(cast(Hashable, kind)).validate_json(text)
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """A value of this kind from parsed JSON. Raises ValueError that names the first field that is wrong."""
    valid: T = adapter(cast(Hashable, kind)).validate_python(value)
    return valid
