"""Where node jobs run, what is asked of Slurm for them, and what becomes of failures: frozen values from conf/cluster and conf/failure.

A cluster names an executor; where it is Slurm, `slurm` holds what every job asks for and `hardware` what the jobs of one hardware ask
for instead. A failure set names, for every class of failure, whether and how its points are sent again. Pure: no file, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator, FiniteFloat, ValidationError

from ..errors import SettingsError
from .plain import from_plain, plain
from .workload import Positive, PositiveFloat

CLASSES = {
    "node_fault": "the node lacks what the arm needs, or Slurm lost the node",
    "server_oom": "the server ran out of memory",
    "server_crash": "the server ended, or no longer answers",
    "server_hung": "the server lives and no token comes",
    "server_start_timeout": "the server was not ready in time",
    "server_settings": "the server runs with other settings than were asked for",
    "client_error": "the load client could not do its work against a server that lives",
    "invalid_point": "measured whole, and invalid by its own reasons",
    "preempted": "Slurm took the node for another job, or was told to requeue this one",
    "time_limit": "the job's time was over before its points were",
    "cancelled": "somebody ended the job",
    "image_missing": "the node has no such image, program or module",
    "checkpoint_missing": "the node does not see the checkpoint",
    "submit_refused": "Slurm did not take the job",
    "lost": "the job died without a word, or a file of its is gone",
}


Lines = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


@dataclass(frozen=True)
class Resources:
    """What one Slurm job asks for. `$GPUS` in gres and gpus_per_node becomes the number of GPUs that the job's servers use."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None
    gpus_per_node: str | None = None
    exclusive: bool = True
    cpus_per_task: Positive | None = None
    mem: str | None = None  # as sbatch --mem takes it; '0' is all of the node's
    time_limit_min: Positive | None = None  # of every job; None: from its estimate
    max_time_min: Positive | None = None  # a longer node job is split; None: the partition's own limit, where Slurm tells it
    setup: Lines = ()
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    wckey: str | None = None
    concurrent_jobs: Positive = 256


@dataclass(frozen=True)
class Cluster:
    """Where node jobs run. `executor` is submitit's; `checkpoint_dir` holds a directory for each checkpoint, None: by its name.

    `image_dir` holds the recipes' images as SIF files, None: engines run from the node's PATH; `cache_dir` what they compile;
    `stage_dir` copies of checkpoints on a disk of the node's own, under `stage=local`.
    """

    id: str
    executor: str  # a scheduler's name: slurm, or local and debug for this machine
    checkpoint_dir: str | None
    image_dir: str | None = None
    cache_dir: str | None = None
    stage_dir: str | None = None
    binds: tuple[str, ...] = ()
    slurm: Resources = Resources()
    hardware: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop_before_s: Annotated[Positive, Le(65535)] = 120  # before its time limit a job stops: long enough to end a server and to write
    poll_s: Annotated[FiniteFloat, Ge(0)] = 10.0  # Slurm is asked at most this often

    def resources(self, hardware: str) -> Resources:
        """What the jobs of this hardware ask for. Raises SettingsError for a name or a value that cannot be."""
        r = self._resources(hardware)
        most = min((limit for limit in (r.time_limit_min, r.max_time_min) if limit), default=None)
        if self.executor == "slurm" and most is not None and self.stop_before_s >= most * 60:
            raise SettingsError(
                f"cluster.stop_before_s={self.stop_before_s}: a job of {most} min would stop before it begins.",
                where=f"cluster {self.id}, hardware {hardware}",
                next_step="a smaller stop_before_s, or more time",
            )
        return r

    def _resources(self, hardware: str) -> Resources:
        own = self.hardware.get(hardware, {})
        unknown = set(own) - set(Resources.__dataclass_fields__)
        if unknown:
            known = ", ".join(sorted(Resources.__dataclass_fields__))
            raise SettingsError(
                f"cluster.hardware.{hardware}.{min(unknown)} is not a setting.",
                where=f"cluster {self.id}",
                next_step=f"known here: {known}",
            )
        try:
            return from_plain(Resources, {**plain(self.slurm), **_one_kind_of_gpus(own), **own})
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(map(str, first["loc"]))
            raise SettingsError(
                f"cluster.hardware.{hardware}.{path}={first['input']!r}: {first['msg']}.", where=f"cluster {self.id}"
            ) from error


def _one_kind_of_gpus(own: dict[str, Any]) -> dict[str, None]:
    """A hardware that names its GPUs in one of Slurm's two ways does not inherit the other."""
    names = {"gres", "gpus_per_node"}
    return dict.fromkeys(names - set(own)) if names & set(own) else {}


@dataclass(frozen=True)
class Policy:
    """What becomes of the points of one class of failure.

    `again`: anywhere; elsewhere (not on the nodes where it happened); longer (the time limit times `factor`); patient (the start
    timeout times `factor`); never. `automatic`: also by a campaign's own retries. `counts`: towards the limit of attempts.
    """

    again: Literal["anywhere", "elsewhere", "longer", "patient", "never"]
    automatic: bool = True
    counts: bool = True
    factor: PositiveFloat = 1.0
    why: str = ""


@dataclass(frozen=True)
class Failure:
    """The policies of all classes. `limit`: attempts a point gets; `node_faults`: how many make a node one to stay away from."""

    id: str
    limit: Positive
    node_faults: Positive
    node_away_h: PositiveFloat
    classes: dict[str, Policy]

    def policy(self, class_: str) -> Policy:
        """The policy of a class; a point without one was never tried and is sent."""
        return self.classes.get(class_, Policy("anywhere", counts=False))
