"""What is asked of Slurm: node jobs grouped by what they ask for into arrays, and each array as submitit's parameters and sbatch script.

Pure but for the paths that stand in a script: the same text is printed by `plan`, with no Slurm installed, and sent by `sweep`.
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
MARGIN = 1.5  # of a time limit over the estimate
MARGIN_MIN = 10
OWN = (
    "job-name", "array", "output", "error", "open-mode", "ntasks", "ntasks-per-node", "nodes", "signal", "time", "wait", "parsable",
    "test-only", "wrap", "export", "export-file", "chdir", "quiet", "wait-all-nodes",
)  # fmt: skip  # options of sbatch that are this tool's
RESERVED = {*OWN, *(name.replace("_", "-") for name in Resources.__dataclass_fields__)}  # or that have a line of their own in conf/cluster


@dataclass(frozen=True)
class Batch:
    """One array (or one job): every member is the lanes of one Slurm job; all ask for the same."""

    members: tuple[tuple[NodeJob, ...], ...]
    hardware: str
    gpus: int
    lanes: int
    time_min: int
    exclude: tuple[str, ...]

    @property
    def jobs(self) -> tuple[NodeJob, ...]:
        """All node jobs of it."""
        return tuple(job for member in self.members for job in member)


def batches(
    orders: Sequence[Order], cluster: Cluster, *, max_array_size: int = 1001, partition_max_min: Mapping[str, float] | None = None
) -> list[Batch]:
    """The orders as arrays, as few as their resources and Slurm's MaxArraySize allow; no time above what a hardware's partition allows."""
    groups: dict[str, Batch] = {}
    for member in _members(orders):
        first = member[0]
        jobs = tuple(order.job for order in member)
        most = (partition_max_min or {}).get(first.job.arm.hardware.id)
        time_min = max(time_limit_min(order.job, cluster, order.time_factor, most) for order in member)
        exclude = tuple(sorted({node for order in member for node in order.exclude}))
        gpus = min(sum(job.arm.tp for job in jobs), first.job.arm.hardware.gpus_per_node)
        batch = Batch((jobs,), first.job.arm.hardware.id, gpus, len(jobs), time_min, exclude)
        r = cluster.resources(batch.hardware)
        same = canonical_json([r, *_gpus(r, gpus), batch.lanes, time_min, exclude])
        groups[same] = replace(groups[same], members=(*groups[same].members, jobs)) if same in groups else batch
    return [
        replace(batch, members=batch.members[i : i + max_array_size])
        for batch in groups.values()
        for i in range(0, len(batch.members), max_array_size)
    ]


def _members(orders: Sequence[Order]) -> Iterable[tuple[Order, ...]]:
    """One order a Slurm job; packed ones with as many of their kind as stand side by side."""
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
    """The time asked for, minutes: the cluster's, or the estimate with a margin, in steps so that jobs share an array; never too much."""
    r = cluster.resources(job.arm.hardware.id)
    wanted = factor * (r.time_limit_min or job.estimate_s / 60 * MARGIN + MARGIN_MIN)
    stepped = math.ceil(wanted) if r.time_limit_min else next((step for step in STEPS_MIN if step >= wanted), math.ceil(wanted))
    return max(1, int(min(limit for limit in (stepped, r.max_time_min, partition_max_min) if limit)))


def longest_s(resources: Resources, stop_before_s: float, partition_max_min: float | None) -> float | None:
    """The longest estimate that a job may have, seconds: its limit without the margin; None where there is no limit."""
    limits = [limit for limit in (resources.time_limit_min, resources.max_time_min, partition_max_min) if limit]
    return max(60.0, (min(limits) - MARGIN_MIN) * 60 / MARGIN, min(limits) * 60 / 2 - stop_before_s) if limits else None


def parameters(batch: Batch, cluster: Cluster, campaign: Campaign, name: str) -> dict[str, Any]:
    """What submitit's Slurm executor is told. None leaves an option out, wckey too, which submitit would send by itself."""
    r = cluster.resources(batch.hardware)
    reserved = sorted({option.replace("_", "-") for option in r.sbatch} & RESERVED)
    if reserved:
        raise SettingsError(
            f"slurm.sbatch holds {reserved[0]}, which glm5bench sets itself or has a setting for.",
            where=f"cluster {cluster.id}",
            next_step=f"cluster.slurm.{reserved[0].replace('-', '_')}, or leave it out",
        )
    strange = [option for option in r.sbatch if not re.fullmatch(r"[a-z][a-z0-9_-]+", option)]
    if strange:
        raise SettingsError(
            f"slurm.sbatch holds {strange[0]!r}, which is no long option's name.",
            where=f"cluster {cluster.id}",
            next_step="mail-type: FAIL",
        )
    options: dict[str, Any] = {option: value for option, value in r.sbatch.items() if value is not False and option != "exclude"}
    gres, gpus_per_node = _gpus(r, batch.gpus)
    exclude = [str(r.sbatch["exclude"])] if r.sbatch.get("exclude") else []
    if r.reservation:
        options["reservation"] = r.reservation
    asked = {
        "job_name": name,
        "time": batch.time_min,
        "nodes": 1,
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
        "srun_args": ["--cpu-bind=none"],  # the job's one task is a server with all its workers
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
    """The sbatch script, word for word as submitit writes it for this batch."""
    executor = _executor(batch, cluster, campaign, name)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def command_script(batch: Batch, cluster: Cluster, campaign: Campaign, name: str, command: str) -> str:
    """A script that asks for what this batch asks for, sets up the same, and runs a shell's command in place of the job."""
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
    """submitit's executor refuses to be made where there is no srun; to write a script it needs none."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def batch_name(campaign: Campaign, batch: Batch, nth: int) -> str:
    """A job name that no other submission has: Slurm is asked for it when sbatch gave no answer."""
    keys = [point.key for job in batch.jobs for point in job.points]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", campaign.root.name)[:40]
    return f"{readable}-{digest_of([str(campaign.root), nth, keys], 10)}"
