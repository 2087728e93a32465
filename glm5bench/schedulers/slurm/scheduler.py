"""The Slurm scheduler. Each node job is a separate Slurm job, in arrays of equal resources."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...checks.finding import Finding
from ...directory import Campaign
from ...errors import counted
from ...node.heartbeat import Beat
from ...values.cluster import Cluster
from ...values.point import NodeJob
from .. import scheduler
from ..scheduler import How, Look, Order, Outcome, by_id
from ..submissions import Sent
from . import commands, examined, submission
from .batch import longest_s, script
from .look import SlurmLook, view


class Slurm(scheduler.Scheduler):
    """Runs jobs with Slurm's commands. Jobs are submitted through submitit."""

    comes_again = True
    has_nodes = True
    has_own_machine = True  # Slurm gives each job its own GPUs; nodes are shared only if the user chose it

    def limits_s(self, cluster: Cluster, hardware: Sequence[str]) -> dict[str, float]:
        """The limits of conf/cluster and, if Slurm answers, of its partitions."""
        most = commands.partition_limits_min({h: cluster.resources(h).partition for h in hardware})
        limits = {h: longest_s(cluster.resources(h), cluster.stop_before_s, most.get(h)) for h in hardware}
        return {h: limit for h, limit in limits.items() if limit is not None}

    def submit(self, campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
        """Sends the orders as arrays."""
        return submission.submit(campaign, orders, how)

    def settle(self, campaign: Campaign) -> None:
        """Checks submissions without an answer by their names."""
        submission.settle(campaign)

    def look(self, campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> Look:
        """The states of jobs from squeue, and from sacct for jobs that squeue does not list any more."""
        return SlurmLook(view(campaign, sent, poll_s), sent)

    def cancel(self, jobs: Sequence[tuple[Sent, Beat | None]]) -> str:
        """Ends jobs with scancel, which compares id and name."""
        return submission.cancel([sent for sent, _ in jobs])

    def scripts(self, campaign: Campaign, orders: Sequence[Order], cluster: Cluster) -> list[tuple[str, str]]:
        """The sbatch script of each array."""
        named = submission.named_batches(campaign, orders, cluster, commands.config() or {})
        return [(name, script(batch, cluster, campaign, name)) for name, batch in named]

    def judged(self, scripts: Sequence[Path]) -> Iterator[tuple[str, bool]]:
        """The answers of `sbatch --test-only`."""
        for path in scripts if commands.config() is not None else ():
            said = commands.test_only(path)
            if said is not None:
                yield f"sbatch --test-only: {said}", " to start at " not in said

    def said(self, outcome: Outcome) -> list[str]:
        """Reports submitted arrays by id, refusals, and node jobs that were not sent."""
        ids = ", ".join(by_id(outcome.job_ids))
        amounts = (counted(outcome.n_points, "point"), counted(len(outcome.job_ids), "job"))
        lines = [f"{amounts[0]} submitted to Slurm as {amounts[1]}: {ids}."] if ids else []
        lines += [f"refused by Slurm: {refused}" for refused in outcome.refused]
        return lines + ([f"{counted(outcome.n_waiting, 'node job')} not submitted yet: {outcome.limit}"] if outcome.n_waiting else [])

    def examined(
        self, cluster: Cluster, hardware: Sequence[str], outputs: Path, jobs: Sequence[NodeJob], *, is_probing: bool
    ) -> Iterator[Finding]:
        """Findings about Slurm's commands, controller, limits, accounting and partitions."""
        return examined.examined(cluster, hardware, outputs, jobs, is_probing=is_probing)

    def job_name(self) -> str:
        """The name from SLURM_JOB_NAME."""
        return os.environ.get("SLURM_JOB_NAME", "")

    def job_nodes(self) -> tuple[str, ...]:
        """The nodes in SLURM_JOB_NODELIST, in the order of Slurm's ranks."""
        return commands.hostnames(os.environ.get("SLURM_JOB_NODELIST", ""))

    def run_number(self) -> str:
        """SLURM_RESTART_COUNT, which Slurm sets when it requeues a job."""
        return os.environ.get("SLURM_RESTART_COUNT", "0")

    def end_utc_s(self) -> float | None:
        """The end time from SLURM_JOB_END_TIME, which Slurm sets since 23.02."""
        told = os.environ.get("SLURM_JOB_END_TIME", "")
        return float(told) if told.isdigit() else None

    def run_again(self, job_id: str) -> str:
        """Requeues the job after a preemption warning. Slurm does not requeue a job that ends before the node is taken."""
        return commands.requeue(job_id)


SCHEDULERS = (Slurm("slurm"),)
