"""Jobs on this machine as a single node. One submitit job runs all node jobs of a submission one after another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import submitit

from ..checks.finding import Finding
from ..checks.machine import findings
from ..checks.needs import of_each_hardware
from ..directory import Campaign
from ..errors import EnvironmentLacks
from ..machine import gpus
from ..node.heartbeat import Beat, end_process, is_alive, process_started_ticks
from ..values.cluster import Cluster
from ..values.point import NodeJob
from .entry import run_requests
from .records import accept, ask, write_requests
from .request import End, Request
from .scheduler import How, Look, Order, Outcome, Scheduler, State, Told
from .submissions import Sent

LIMIT_MIN = 14 * 24 * 60


class LocalLook(Look):
    """The states of local processes, according to their heartbeats."""

    def state(self, sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> tuple[State, Told | None]:
        if beats:
            return ("running" if is_alive(beats[0], time.time()) else "ended"), None
        if sent.executor != "local" or sent.host != os.uname().nodename:
            return "ended", None
        started = process_started_ticks(int(sent.job_id))
        return ("running" if started >= 0 and started == sent.started_ticks else "ended"), None


class Local(Scheduler):
    """Runs each submission in a separate process, or in this process if the name is `debug`."""

    @property
    def waits(self) -> bool:  # type: ignore[override]
        return self.name == "debug"

    def refuse(self, jobs: Sequence[NodeJob]) -> None:
        for job in of_each_hardware([job for job in jobs if not job.arm.engine.simulated]):
            wrong = gpus.wrong(job.arm.hardware, job.arm.gpus)
            if wrong:
                raise EnvironmentLacks(
                    f"The jobs would run on this machine, which cannot run {job.arm.label}: {wrong}.",
                    next_step="run them on Slurm (hydra/launcher=slurm cluster=NAME), or rehearse with engine=simulated",
                )

    def submit(self, campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
        jobs = [order.job for order in orders]
        paths = write_requests(campaign, [Request(job, how.failure, how.retries) for job in jobs])
        name = f"{campaign.root.name}-{time.time_ns()}"
        ask(campaign, name, self.name, [([paths], [p.key for job in jobs for p in job.points], 0.0)])
        runner = submitit.AutoExecutor(folder=campaign.submitit, cluster=self.name)
        runner.update_parameters(timeout_min=LIMIT_MIN, name="glm5bench")
        with _detached():
            job = runner.submit(run_requests, str(campaign.root), [paths])
        ticks = -1 if self.waits else process_started_ticks(int(job.job_id))
        accept(campaign, name, [str(job.job_id)], started_ticks=ticks)
        if self.waits:
            job.result()
        return Outcome((str(job.job_id),), sum(len(job.points) for job in jobs))

    def look(self, campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> Look:
        return LocalLook()

    def cancel(self, jobs: Sequence[tuple[Sent, Beat | None]]) -> str:
        for sent, beat in jobs:
            if beat is not None:
                end_process(beat.host, beat.pid, beat.started_ticks)
            else:
                end_process(sent.host, int(sent.job_id), sent.started_ticks)
        return ""

    def examined(
        self, cluster: Cluster, hardware: Sequence[str], outputs: Path, jobs: Sequence[NodeJob], *, is_probing: bool
    ) -> Iterator[Finding]:
        yield Finding("Slurm", None, f"cluster {cluster.id} runs its jobs on this machine ({self.name})")
        for job in of_each_hardware(jobs):
            yield from (f.of_node(job.arm.hardware.id, "this machine") for f in findings(job, outputs))


@contextmanager
def _detached() -> Iterator[None]:
    """Starts jobs that Ctrl-C and a closing terminal do not reach: child processes inherit ignored signals.

    The jobs also do not keep this command's output open. Otherwise `sweep | tee` would not end before the jobs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGHUP)}
    kept = {fd: os.dup(fd) for fd in (0, 1, 2) if _is_open(fd)}
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for fd in kept:
            os.dup2(nowhere, fd)
        yield
    finally:
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)
        for s, handler in saved.items():
            signal.signal(s, handler)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


SCHEDULERS = (Local("local"), Local("debug"))
