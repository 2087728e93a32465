"""Where every point and job of a campaign stands, from its files alone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import FileError
from ..point import NodeJob, Point, from_plain
from ..store.campaign import Attempt, Campaign
from .submit import LiveJob, live_jobs

STATES = ("done", "running", "queued", "invalid", "failed", "missing")


@dataclass(frozen=True)
class PointState:
    """One point: its state, and of its last attempt why."""

    key: str
    arm: str
    concurrency: int
    repeat: int
    seed: int
    state: str
    validity: str
    failure_class: str
    attempts: int
    message: str


@dataclass(frozen=True)
class JobState:
    """One live job: what it does now."""

    job_id: str
    node: str
    phase: str
    node_job: str
    key: str
    requests_done: int
    requests: int
    points_done: int
    points: int
    beat_age_s: float


@dataclass(frozen=True)
class Status:
    """A campaign at one moment."""

    name: str
    simulated: bool
    points: tuple[PointState, ...]
    jobs: tuple[JobState, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Points by state."""
        return {state: n for state in STATES if (n := sum(p.state == state for p in self.points))}

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.jobs

    @property
    def is_complete(self) -> bool:
        """Whether every point is done."""
        return all(p.state == "done" for p in self.points)

    def as_json(self) -> dict[str, Any]:
        """One plain object: docs/json.md."""
        return {
            "campaign": self.name,
            "simulated": self.simulated,
            "complete": self.is_complete,
            "counts": self.counts,
            "points": [asdict(p) for p in self.points],
            "jobs": [asdict(j) for j in self.jobs],
        }


def status(campaign: Campaign) -> Status:
    """The state of all points and live jobs. Raises FileError where there is no campaign."""
    record = campaign.read_plan()
    jobs = planned_jobs(record, str(campaign.plan))
    live = live_jobs(campaign)
    waiting = {key for job in live for key in job.keys}
    running = [_job_state(job) for job in live]
    now = {j.key for j in running}
    attempts = campaign.attempts(p.key for job in jobs for p in job.points)
    submissions = campaign.read_submissions()
    sent = {key: str(s["job_id"]) for s in submissions for key in s.get("keys", [])}
    said = {job_id: _last_words(campaign, job_id) for job_id in set(sent.values())}
    points = tuple(
        _point_state(
            p, job.arm.label, attempts[p.key], is_waiting=p.key in waiting, is_running=p.key in now, ended=said.get(sent.get(p.key, ""), "")
        )
        for job in jobs
        for p in job.points
    )
    is_simulated = any(j.arm.engine.simulated for j in jobs)
    return Status(str(record.get("name", campaign.root.name)), is_simulated, points, tuple(running))


def _last_words(campaign: Campaign, job_id: str) -> str:
    """What a job that ended before its points said last."""
    log = campaign.jobs / "submitit" / f"{job_id}_0_log.err"
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()][-3:]
    except OSError:
        lines = []
    return "\n".join([f"job {job_id} ended before it ({log})", *lines])


def planned_jobs(record: dict[str, Any], where: str) -> tuple[NodeJob, ...]:
    """The node jobs of a plan's record. Raises FileError where it is damaged or of another version."""
    try:
        return from_plain(tuple[NodeJob, ...], record["jobs"])
    except ValueError as error:
        raise FileError(f"plan.json cannot be understood: {str(error).splitlines()[0]}.", path=where) from error


def _point_state(point: Point, arm: str, attempts: list[Attempt], *, is_waiting: bool, is_running: bool, ended: str) -> PointState:
    last = next((a for a in attempts if a.is_done), attempts[-1] if attempts else None)
    state = "missing"
    if last is not None and last.is_done:
        state = "done"
    elif is_running:
        state = "running"
    elif is_waiting and (last is None or last.status != "failed"):
        state = "queued"
    elif last is not None:
        state = "invalid" if last.status == "whole" else "failed"
    validity, class_, message = (last.validity, last.failure_class, last.message) if last else ("", "", "")
    if state == "missing":
        message = ended
    return PointState(point.key, arm, point.concurrency, point.repeat, point.seed, state, validity, class_, len(attempts), message)


def _job_state(job: LiveJob) -> JobState:
    beat = job.beat
    if beat is None:
        return JobState(job.job_id, job.host, "starting", "", "", 0, 0, 0, len(job.keys), 0.0)
    age = max(0.0, time.time() - beat.time_utc_s)
    key = beat.key if beat.phase in ("warm-up", "measuring") else ""
    return JobState(
        job.job_id, job.host, beat.phase, beat.node_job, key, beat.requests_done, beat.requests, beat.points_done, beat.points, age
    )
