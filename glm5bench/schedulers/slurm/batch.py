"""Slurm arrays of node jobs with equal resources, and the submitit parameters and sbatch script of each array.

Pure, except for the paths in a script. `plan` prints the same text without Slurm that `sweep` sends.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from ...directory import Campaign
from ...errors import SettingsError
from ...values.cluster import Cluster, Resources
from ...values.plain import canonical_json, digest_of
from ...values.point import NodeJob
from ..scheduler import Order

STEPS_MIN = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1080, 1440, 2160, 2880, 4320, 5760, 7200, 10080)
MARGIN = 1.5  # time limit = MARGIN * estimate + MARGIN_MIN
MARGIN_MIN = 10
OWN = (
    "job-name", "array", "output", "error", "open-mode", "ntasks", "ntasks-per-node", "nodes", "signal", "time", "wait", "parsable",
    "test-only", "wrap", "export", "export-file", "chdir", "quiet", "wait-all-nodes",
)  # fmt: skip  # sbatch options that glm5bench sets itself
NOT_SUPPORTED = {
    "clusters": "jobs in another cluster could not be found again; run the command on a login node of that cluster",
    "cluster-constraint": "jobs in another cluster could not be found again",
    "time-min": "a job whose limit Slurm shortens would not know when to stop; set max_time_min",
}
RESERVED = {*OWN, *(name.replace("_", "-") for name in Resources.__dataclass_fields__)}  # and options that conf/cluster has settings for


@dataclass(frozen=True)
class Batch:
    """One array (or one job). Each member holds the lanes of one Slurm job. All members have the same resources."""

    members: tuple[tuple[NodeJob, ...], ...]
    hardware: str
    gpus: int
    lanes: int
    time_min: int
    exclude: tuple[str, ...]
    nodes: int = 1

    @property
    def jobs(self) -> tuple[NodeJob, ...]:
        """All node jobs of the batch."""
        return tuple(job for member in self.members for job in member)


def batches(
    orders: Sequence[Order], cluster: Cluster, *, max_array_size: int = 1001, partition_max_min: Mapping[str, float] | None = None
) -> list[Batch]:
    """The orders in as few arrays as their resources and Slurm's MaxArraySize allow. No time limit exceeds that of the partition."""
    groups: dict[str, Batch] = {}
    for member in _members(orders):
        first = member[0]
        jobs = tuple(order.job for order in member)
        most = (partition_max_min or {}).get(first.job.arm.hardware.id)
        time_min = max(time_limit_min(order.job, cluster, order.time_factor, most) for order in member)
        exclude = tuple(sorted({node for order in member for node in order.exclude}))
        gpus = min(sum(job.arm.gpus_on_a_node for job in jobs), first.job.arm.hardware.gpus_per_node)
        batch = Batch((jobs,), first.job.arm.hardware.id, gpus, len(jobs), time_min, exclude, first.job.arm.nodes)
        r = cluster.resources(batch.hardware)
        same = canonical_json([r, *_gpus(r, gpus), batch.lanes, batch.nodes, time_min, exclude])
        groups[same] = replace(groups[same], members=(*groups[same].members, jobs)) if same in groups else batch
    return [
        replace(batch, members=batch.members[i : i + max_array_size])
        for batch in groups.values()
        for i in range(0, len(batch.members), max_array_size)
    ]


def _members(orders: Sequence[Order]) -> Iterable[tuple[Order, ...]]:
    """The orders of each Slurm job: one, or for packed jobs up to `lanes` orders of the same kind."""
    waiting: dict[str, list[Order]] = {}
    for order in orders:
        job = order.job
        if job.lanes == 1:
            yield (order,)
            continue
        kind = canonical_json([job.arm.hardware.id, job.arm.tp, job.lanes])
        waiting.setdefault(kind, []).append(order)
        if len(waiting[kind]) == job.lanes:
            yield tuple(waiting.pop(kind))
    for rest in waiting.values():
        yield tuple(rest)


def time_limit_min(job: NodeJob, cluster: Cluster, factor: float = 1.0, partition_max_min: float | None = None) -> int:
    """The time limit in minutes: the cluster's, or the estimate with a margin, rounded up to a step so that jobs share an array.

    It never exceeds the cluster's `max_time_min` or the limit of the partition.
    """
    r = cluster.resources(job.arm.hardware.id)
    wanted = factor * (r.time_limit_min or (job.estimate_s + (job.search.reserve_s if job.search else 0.0)) / 60 * MARGIN + MARGIN_MIN)
    stepped = math.ceil(wanted) if r.time_limit_min else next((step for step in STEPS_MIN if step >= wanted), math.ceil(wanted))
    return max(1, int(min(limit for limit in (stepped, r.max_time_min, partition_max_min) if limit)))


def longest_s(resources: Resources, stop_before_s: float, partition_max_min: float | None) -> float | None:
    """The longest allowed estimate of a job in seconds: its time limit without the margin. None if the time is not limited."""
    limits = [limit for limit in (resources.time_limit_min, resources.max_time_min, partition_max_min) if limit]
    return max(60.0, (min(limits) - MARGIN_MIN) * 60 / MARGIN, min(limits) * 60 / 2 - stop_before_s) if limits else None


def parameters(batch: Batch, cluster: Cluster, campaign: Campaign, name: str) -> dict[str, Any]:
    """The parameters for submitit's Slurm executor. None omits an option. wckey stays in as None, because submitit has a default for it."""
    r = cluster.resources(batch.hardware)
    reserved = sorted({option.replace("_", "-") for option in r.sbatch} & RESERVED)
    if reserved:
        raise SettingsError(
            f"slurm.sbatch contains {reserved[0]}, which glm5bench sets itself or has a setting for.",
            where=f"cluster {cluster.id}",
            next_step=f"set cluster.slurm.{reserved[0].replace('-', '_')} if it exists, or remove the option",
        )
    refused = sorted(NOT_SUPPORTED.keys() & {option.replace("_", "-") for option in r.sbatch})
    if refused:
        why = f"slurm.sbatch contains {refused[0]}: {NOT_SUPPORTED[refused[0]]}."
        raise SettingsError(why, where=f"cluster {cluster.id}", next_step="remove it")
    strange = [option for option in r.sbatch if not re.fullmatch(r"[a-z][a-z0-9_-]+", option)]
    if strange:
        raise SettingsError(
            f"slurm.sbatch contains {strange[0]!r}, which is not the name of a long option.",
            where=f"cluster {cluster.id}",
            next_step="write options as in mail-type: FAIL",
        )
    options: dict[str, Any] = {option: value for option, value in r.sbatch.items() if value is not False and option != "exclude"}
    if batch.nodes > 1:
        options.setdefault("no-kill", True)
    options.setdefault("propagate", "NONE")  # limits of the login shell (CPU time, address space, ...) must not reach the job
    gres, gpus_per_node = _gpus(r, batch.gpus)
    exclude = [str(r.sbatch["exclude"])] if r.sbatch.get("exclude") else []
    if r.reservation:
        options["reservation"] = r.reservation
    asked = {
        "job_name": name,
        "time": batch.time_min,
        "nodes": batch.nodes,
        "ntasks_per_node": batch.lanes,
        "partition": r.partition,
        "account": r.account,
        "qos": r.qos,
        "constraint": r.constraint,
        "gres": gres,
        "gpus_per_node": gpus_per_node,
        "exclusive": r.exclusive or None,
        "cpus_per_task": r.cpus_per_task,
        "mem": r.mem,
        "exclude": ",".join([*exclude, *batch.exclude]) or None,
        "signal_delay_s": int(cluster.stop_before_s),
        "array_parallelism": r.concurrent_jobs,
        "wckey": r.wckey,
        "setup": [*_first_lines(campaign), *r.setup],
        # a task is a server with all its workers; if a node fails, the others report it before the job ends
        "srun_args": ["--cpu-bind=none", *(["--no-kill", "--kill-on-bad-exit=0"] if batch.nodes > 1 else [])],
        "additional_parameters": options or None,
    }
    return {key: value for key, value in asked.items() if value is not None or key == "wckey"}


def _gpus(r: Resources, gpus: int) -> list[str | None]:
    return [asked and asked.replace("$GPUS", str(gpus)) for asked in (r.gres, r.gpus_per_node)]


def _first_lines(campaign: Campaign) -> list[str]:
    jobs = shlex.quote(str(campaign.jobs))
    return [
        '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun no longer inherits it since 22.05',
        'glm5bench_job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        f'glm5bench_folder={jobs}/"${{glm5bench_job:-$SLURM_JOB_ID}}"',
        'mkdir -p "$glm5bench_folder" && echo "$SLURMD_NODENAME $(date +%s)" > "$glm5bench_folder/started"',
    ]


def script(batch: Batch, cluster: Cluster, campaign: Campaign, name: str) -> str:
    """The sbatch script exactly as submitit writes it for this batch."""
    executor = _executor(batch, cluster, campaign, name)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def command_script(batch: Batch, cluster: Cluster, campaign: Campaign, name: str, command: str) -> str:
    """A script with the resources and setup of this batch that runs a shell command instead of the job."""
    executor = _executor(batch, cluster, campaign, name)
    executor.update_parameters(use_srun=False)
    text: str = executor._make_submission_file_text(command, "")
    return text


def _executor(batch: Batch, cluster: Cluster, campaign: Campaign, name: str) -> SlurmExecutor:
    executor = _Anywhere(folder=campaign.submitit)
    executor.update_parameters(**parameters(batch, cluster, campaign, name))
    if len(batch.members) > 1:
        executor.parameters["map_count"] = len(batch.members)
    return executor


class _Anywhere(SlurmExecutor):  # type: ignore[misc]  # submitit has no types
    """An executor that can write scripts on a machine without srun. submitit's own executor raises an error there."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def batch_name(campaign: Campaign, batch: Batch, nth: int) -> str:
    """A unique job name. If sbatch gives no answer, Slurm is asked for this name."""
    keys = [point.key for job in batch.jobs for point in job.points]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", campaign.root.name)[:40]
    return f"{readable}-{digest_of([str(campaign.root), nth, keys], 10)}"
