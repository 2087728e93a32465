"""The values that a point consists of, and its key.

An Arm is one recipe with one workload, before `$C` is replaced. A Point is an arm at one concurrency. The key is a hash of everything that
can change the measurement, so the same measurement has the same key on any cluster. All values are frozen. Pure: no file, no clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import FiniteFloat

from .groups import Accuracy, Checkpoint, Engine, Hardware, Speculative
from .plain import ABSENT, digest_of, digest_of_plain, plain
from .roles import SINGLE, Part, Placement, Roles, placed
from .search import ArmSearch
from .workload import Positive, PositiveFloat, Workload

PROTOCOL_VERSION = 1  # version of the load protocol: what is sent, when the clock starts and stops
SIMULATOR_MODEL = 2  # version of the simulator's scheduler and step model; raised when its figures change

KEY_FILE_VARIABLE = "GLM5BENCH_API_KEY_FILE"  # names the file that holds a server's key; the key itself is in no environment variable

ServerScope = Literal["arm", "point"]
NO_SPECULATION = Speculative("off", 0, 0)


@dataclass(frozen=True)
class Arm:
    """One recipe with one workload, before `$C` is replaced by a number.

    `tp`: GPUs of the server. `dp`: groups of them that each have their own attention weights, requests and cache. `ep`: GPUs over which
    whole experts are distributed; 1: every GPU has a part of every expert.
    """

    hardware: Hardware
    checkpoint: Checkpoint
    engine: Engine
    tp: int
    speculative: Speculative
    workload: Workload
    dp: Positive = field(default=1, metadata=ABSENT)
    ep: Positive = field(default=1, metadata=ABSENT)
    roles: Roles = field(default=SINGLE, metadata=ABSENT)
    role: str = field(default="", metadata=ABSENT)  # of the one server that this arm describes; empty for the whole system

    @property
    def label(self) -> str:
        """A short name of the arm, as shown in tables."""
        c, e, w = self.checkpoint, self.engine, self.workload
        tp = [] if self.has_parts else [f"tp{self.tp}"]
        return " ".join([self.hardware.id, c.id, *tp, *self.spread, self.speculative.id, e.id, f"{w.isl_tokens}/{w.osl_tokens}"])

    @property
    def spread(self) -> list[str]:
        """The parallelism besides TP, in words: `dp8`, `ep8`; with several roles `P1xtp8dp8+D2xtp8`."""
        if self.has_parts:
            return ["+".join(f"{s.role[0].upper()}{s.workers}x{''.join([f'tp{s.arm.tp}', *s.arm.spread])}" for s in self.servers)]
        return [f"{name}{n}" for name, n in (("dp", self.dp), ("ep", self.ep)) if n > 1]

    @property
    def has_parts(self) -> bool:
        """Whether it describes a system of several roles."""
        return not self.role and bool(self.roles.parts)

    @property
    def servers(self) -> tuple[Servers, ...]:
        """The kinds of servers of the system, each with an arm that describes one of its workers."""
        if not self.has_parts:
            return (Servers(self.role, 1, self),)
        return tuple(Servers(name, part.workers, self._of(name, part)) for name, part in self.roles.parts)

    def _of(self, role: str, part: Part) -> Arm:
        speculative = self.speculative if part.speculates else NO_SPECULATION
        tp, dp, ep = part.tp or self.tp, part.dp or self.dp, part.ep or self.ep
        return dataclasses.replace(self, role=role, speculative=speculative, tp=tp, dp=dp, ep=ep)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where each rank of each worker runs."""
        return placed([(s.role, s.workers, s.arm.tp) for s in self.servers], self.hardware.gpus_per_node)

    @property
    def gpus(self) -> int:
        """The GPUs of all its servers."""
        return sum(s.workers * s.arm.tp for s in self.servers)

    @property
    def nodes(self) -> int:
        """The nodes of one job."""
        return 1 + max(p.node for p in self.placements)

    @property
    def gpus_on_a_node(self) -> int:
        """The most GPUs that its servers use on one node."""
        on: dict[int, int] = {}
        for p in self.placements:
            on[p.node] = on.get(p.node, 0) + p.gpus
        return max(on.values())

    @property
    def attention_tp(self) -> int:
        """GPUs that share one copy of the attention weights, and each head's cache."""
        return max(1, self.tp // self.dp)


@dataclass(frozen=True)
class Servers:
    """Equal servers of one role; `arm` describes one of them."""

    role: str
    workers: int
    arm: Arm


def kind_of(arm: Arm) -> str:
    """A name shared by all arms whose servers take about the same time to start."""
    return f"{arm.hardware.id} {arm.checkpoint.id} {arm.engine.id}"


@dataclass(frozen=True)
class Recipe:
    """How a server is started. The node replaces `$MODEL $HOST $PORT` in `argv` and `env`; `binding` is the value of `$C`.

    For a server on several nodes it also replaces `$HEAD $NNODES $RANK`: the address of rank 0, the number of ranks, and the own rank.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    image: str
    origin: dict[str, str]  # flag -> the group that set it
    notes: tuple[str, ...]
    binding: int | None = None
    roles: tuple[RoleRecipe, ...] = field(default=(), metadata=ABSENT)  # one for each role; then `argv` is the router's

    @property
    def started(self) -> tuple[Recipe, ...]:
        """The recipes of its servers: itself, or one for each role."""
        return tuple(part.recipe for part in self.roles) or (self,)


@dataclass(frozen=True)
class RoleRecipe:
    """How each worker of one role is started."""

    role: str
    recipe: Recipe


@dataclass(frozen=True)
class Point:
    """One planned measurement: an arm at one concurrency, seed and repeat, on a server with a bound recipe."""

    key: str
    arm: str
    concurrency: int
    repeat: int
    seed: int
    binding: int


@dataclass(frozen=True)
class ServerStart:
    """One start of a server, and the points measured on it, by rising concurrency."""

    recipe: Recipe
    points: tuple[Point, ...]


@dataclass(frozen=True)
class NodeJob:
    """The work of one Slurm job, on all nodes that its servers need. It is self-contained: the job needs only this value's JSON."""

    id: str
    arm: Arm
    arm_id: str
    server_scope: ServerScope
    model_path: str  # the checkpoint on the node: a directory, or the repository's name
    starts: tuple[ServerStart, ...]
    estimate_s: float
    estimate_usd: float
    image_dir: str = ""  # the images on the node; empty: engines run from its PATH
    sif_sha256: Mapping[str, str] = field(default_factory=dict)  # file name of an image -> SHA-256 of the file; empty: nothing is pinned
    cache_dir: str = ""  # where compiled kernels are kept after the job; empty: they are not kept
    stage_dir: str = ""  # where on the node the checkpoint is copied first; empty: it is read without a copy
    binds: tuple[str, ...] = ()  # other host paths in the container, in the form of apptainer --bind
    interface: str = field(default="", metadata=ABSENT)  # network interface between the nodes of the job; empty: that of the host name
    lanes: Positive = 1  # servers side by side on the node; each is its own node job
    pace: PositiveFloat = 1.0  # time that this campaign's points took so far, divided by the roofline model's estimate
    accuracy: Accuracy | None = None  # the accuracy test of each server, before it is measured
    accuracy_at: tuple[int, ...] = ()  # its concurrencies: the arm's median and highest, even if their points are already measured
    telemetry_s: Annotated[FiniteFloat, Ge(0)] = 1.0  # seconds between two telemetry readings; 0: none
    stop_when: Literal["saturated"] | None = None  # skips concurrencies that cannot be on the frontier
    search: ArmSearch | None = None  # how further points are chosen; None: only the given ones are measured

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of all its server starts."""
        return tuple(point for start in self.starts for point in start.points)


def physics(arm: Arm, recipe: Recipe, *, concurrency: int, repeat: int, seed: int, lanes: int = 1) -> dict[str, Any]:
    """Everything that can change the measurement, and nothing else: no path, date, host or cluster."""
    added = {"packed": lanes, "dp": arm.dp, "ep": arm.ep, "nodes": arm.nodes}  # absent means 1, as before these existed
    return {
        **{name: n for name, n in added.items() if n > 1},
        **({"roles": [_role_physics(s, r) for s, r in zip(arm.servers, recipe.roles, strict=True)]} if recipe.roles else {}),
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


def _role_physics(servers: Servers, of: RoleRecipe) -> dict[str, Any]:
    one, recipe = servers.arm, of.recipe
    sizes = {"workers": servers.workers, "tp": one.tp, "dp": one.dp, "ep": one.ep, "speculative": one.speculative.id}
    return {"role": servers.role, **sizes, "image": recipe.image, "argv": recipe.argv, "env": recipe.env}


def _simulator_physics(arm: Arm) -> dict[str, Any] | None:
    if not arm.engine.simulated:
        return None
    facts = digest_of(simulated_facts(arm))
    return {"model": SIMULATOR_MODEL, "time_scale": arm.engine.time_scale, "facts": facts, "fault": arm.engine.fault}


def simulated_facts(arm: Arm) -> dict[str, Any]:
    """The facts that a simulation computes with."""
    return {
        "hardware": dataclasses.replace(arm.hardware, recipe=(), recipe_exceptions=()),
        "checkpoint": {k: v for k, v in plain(dataclasses.replace(arm.checkpoint, recipe=())).items() if k != "model_recipe"},
        "speculative": dataclasses.replace(arm.speculative, recipe=()),
        "passes": arm.engine.passes,
    }


def point_keys(arm: Arm, recipe: Recipe, axes: Sequence[tuple[int, int, int]], *, lanes: int = 1) -> list[str]:
    """The keys, 20 hex digits each, of an arm's points at these (concurrency, seed, repeat) axes."""
    same = plain(physics(arm, recipe, concurrency=0, repeat=0, seed=0, lanes=lanes))  # an arm may have thousands of points
    return [digest_of_plain({**same, "concurrency": c, "seed": seed, "repeat": repeat}) for c, seed, repeat in axes]
