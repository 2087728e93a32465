"""The values a point is made of, and its key.

An Arm is one recipe under one workload with `$C` symbolic; a Point is an arm at one concurrency. The key is a hash of what changes the
physics, so that the same measurement has the same key on any cluster. Everything here is frozen, and knows no file and no clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import FiniteFloat

from .groups import Accuracy, Checkpoint, Engine, Hardware, Speculative
from .plain import digest_of, digest_of_plain, plain
from .workload import Positive, PositiveFloat, Workload

PROTOCOL_VERSION = 1  # of the load protocol: what is sent, when the clock starts and stops
SIMULATOR_MODEL = 1  # of the simulator's scheduler and step model: raised when its figures change

KEY_FILE_VARIABLE = "GLM5BENCH_API_KEY_FILE"  # names the file that holds a server's key: the key stands in no environment

ServerScope = Literal["arm", "point"]


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
        "checkpoint": {k: v for k, v in plain(dataclasses.replace(arm.checkpoint, recipe=())).items() if k != "model_recipe"},
        "speculative": dataclasses.replace(arm.speculative, recipe=()),
    }


def point_keys(arm: Arm, recipe: Recipe, axes: Sequence[tuple[int, int, int]], *, lanes: int = 1) -> list[str]:
    """The keys, 20 hex digits each, of an arm's points at these (concurrency, seed, repeat)."""
    same = plain(physics(arm, recipe, concurrency=0, repeat=0, seed=0, lanes=lanes))  # an arm may have thousands of points
    return [digest_of_plain({**same, "concurrency": c, "seed": seed, "repeat": repeat}) for c, seed, repeat in axes]
