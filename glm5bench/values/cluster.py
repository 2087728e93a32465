"""Where node jobs run, which Slurm options they use, and how failures are handled. Frozen values from conf/cluster and conf/failure.

A cluster names an executor. For Slurm, `slurm` holds the options of every job, and `hardware` the options that replace them for one
hardware. A failure set states, for every class of failure, whether and how its points are submitted again. Pure: no file, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError

from ..errors import SettingsError
from .plain import ABSENT, from_plain, plain
from .workload import Positive, PositiveFloat

CLASSES = {
    "node_fault": "the node does not have what the arm needs, or Slurm lost the node",
    "server_oom": "the server ran out of memory",
    "server_crash": "the server ended, or stopped answering",
    "server_hung": "the server runs but sends no tokens",
    "server_start_timeout": "the server was not ready in time",
    "foreign_listener": "another process listens on the server's port, so no request was sent to it",
    "server_settings": "the server runs with other settings than its flags asked for",
    "client_error": "the load client failed although the server was running",
    "invalid_point": "the measurement is complete, but its verdict is invalid",
    "preempted": "Slurm preempted the job, or the job was requeued",
    "time_limit": "the job's time limit ended before all of its points were measured",
    "cancelled": "the job was cancelled",
    "image_missing": "the image, program or module is missing on the node",
    "checkpoint_missing": "the checkpoint is missing on the node",
    "submit_refused": "Slurm rejected the job",
    "lost": "the job ended without a report, or one of its files is missing",
}


Lines = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


@dataclass(frozen=True)
class Resources:
    """The options of one Slurm job. `$GPUS` in gres and gpus_per_node is replaced by the number of GPUs that the job's servers use."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None
    gpus_per_node: str | None = None
    exclusive: bool = True
    cpus_per_task: Positive | None = None
    mem: str | None = None  # in the form of sbatch --mem; '0' is all memory of the node
    time_limit_min: Positive | None = None  # for every job; None: computed from its estimate
    max_time_min: Positive | None = None  # a longer node job is split; None: the partition's limit, if Slurm reports it
    setup: Lines = ()
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    wckey: str | None = None
    concurrent_jobs: Positive = 256
    max_jobs: Positive | None = None  # of a campaign that are queued or running at once; None: as many as Slurm accepts


@dataclass(frozen=True)
class Cluster:
    """Where node jobs run.

    `interface` is the network interface at which the nodes of one job reach each other; None: the address of the host name.
    `checkpoint_dir` holds a directory for each checkpoint; None: engines get the repository's name. `image_dir` holds the recipes' images
    as SIF files; None: engines run from the node's PATH. `sif_sha256` pins the content of these files: file name -> SHA-256. If it is not
    empty, every image needs a pin. `cache_dir` holds compiled kernels. `stage_dir` holds copies of checkpoints on the node's own disk,
    with `stage=local`.
    """

    id: str
    executor: str  # slurm, or local or debug for this machine
    checkpoint_dir: str | None
    image_dir: str | None = None
    sif_sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = field(default_factory=dict)
    cache_dir: str | None = None
    stage_dir: str | None = None
    binds: tuple[str, ...] = ()
    interface: str | None = field(default=None, metadata=ABSENT)
    slurm: Resources = Resources()
    hardware: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop_before_s: Annotated[Positive, Le(65535)] = 120  # a job stops this long before its time limit, to end its server and write files
    poll_s: Annotated[FiniteFloat, Ge(0)] = 10.0  # shortest time between two queries to Slurm

    def resources(self, hardware: str) -> Resources:
        """The options of this hardware's jobs. Raises SettingsError for an unknown name or an invalid value."""
        r = self._resources(hardware)
        most = min((limit for limit in (r.time_limit_min, r.max_time_min) if limit), default=None)
        if self.executor == "slurm" and most is not None and self.stop_before_s >= most * 60:
            raise SettingsError(
                f"cluster.stop_before_s={self.stop_before_s}: a job of {most} min would stop before it begins.",
                where=f"cluster {self.id}, hardware {hardware}",
                next_step="set a smaller cluster.stop_before_s, or a longer time limit",
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
                next_step=f"use one of {known}",
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
    """Empty values for the option that is not inherited: a hardware that sets gres or gpus_per_node does not inherit the other."""
    names = {"gres", "gpus_per_node"}
    return dict.fromkeys(names - set(own)) if names & set(own) else {}


@dataclass(frozen=True)
class Policy:
    """How the points of one class of failure are submitted again.

    `again`: anywhere; elsewhere (not on the nodes where it happened); longer (the time limit times `factor`); patient (the start
    timeout times `factor`); never. `automatic`: also by the campaign's own retries. `counts`: counts towards the limit of attempts.
    """

    again: Literal["anywhere", "elsewhere", "longer", "patient", "never"]
    automatic: bool = True
    counts: bool = True
    factor: PositiveFloat = 1.0
    why: str = ""


@dataclass(frozen=True)
class Failure:
    """The policies of all classes. `limit`: attempts for each point; `node_faults`: faults after which a node is excluded."""

    id: str
    limit: Positive
    node_faults: Positive
    node_away_h: PositiveFloat
    classes: dict[str, Policy]

    def policy(self, class_: str) -> Policy:
        """The policy of a class. A point without a class was never tried, and can be submitted anywhere."""
        return self.classes.get(class_, Policy("anywhere", counts=False))
