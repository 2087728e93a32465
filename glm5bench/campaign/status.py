"""The state of every point and job of a campaign, from its files and, if it answers, from Slurm."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..directory import Attempt, Campaign
from ..errors import FileError
from ..node.heartbeat import Beat
from ..values.cluster import Cluster
from ..values.plain import from_plain
from ..values.point import Arm
from .jobs import Job, look
from .searching import SearchState, skipped, state_of

STATES = ("done", "running", "queued", "invalid", "failed", "missing")


@dataclass(frozen=True)
class PointState:
    """One point: its state, and the reason from its last attempt or from the job that did not reach it."""

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
    """One live job, or one lane of it, and what it does now. `state`: queued, running or unknown. `slurm`: Slurm's own state and reason."""

    job_id: str
    state: str
    slurm: str
    node: str
    phase: str
    doing: str
    node_job: str
    key: str
    requests_done: int
    requests: int
    points_done: int
    points: int
    rate_requests_s: float
    left_s: float
    beat_age_s: float
    said: str


@dataclass(frozen=True)
class Status:
    """A campaign at one moment. `slurm_answers`: None if none of its jobs runs under Slurm."""

    name: str
    simulated: bool
    points: tuple[PointState, ...]
    jobs: tuple[JobState, ...]
    slurm_answers: bool | None = None
    silence: str = ""  # why the scheduler's answer is missing
    search: SearchState | None = None
    skipped: tuple[str, ...] = ()  # what a saturated server did not measure, one text per arm

    @property
    def counts(self) -> dict[str, int]:
        """Number of points by state."""
        counted = dict.fromkeys(STATES, 0)
        for p in self.points:
            counted[p.state] += 1
        return {state: n for state, n in counted.items() if n}

    @property
    def is_over(self) -> bool:
        """Whether no job is queued, running or unknown."""
        return not self.jobs

    @property
    def is_complete(self) -> bool:
        """Whether every point is done, and the question of a search is answered."""
        return all(p.state == "done" for p in self.points) and (self.search is None or self.search.is_reached)

    def as_json(self) -> dict[str, Any]:
        """The status as one JSON object, described in docs/json.md."""
        return {
            "campaign": self.name,
            "simulated": self.simulated,
            "complete": self.is_complete,
            "slurm_answers": self.slurm_answers,
            "silence": self.silence,
            "counts": self.counts,
            "points": [{f.name: getattr(p, f.name) for f in _POINT_FIELDS} for p in self.points],
            "jobs": [asdict(j) for j in self.jobs],
            **({"skipped": list(self.skipped)} if self.skipped else {}),
            **({"search": {**asdict(self.search), "is_reached": self.search.is_reached}} if self.search is not None else {}),
        }


_POINT_FIELDS = fields(PointState)


def status(campaign: Campaign, *, poll_s: float | None = None) -> Status:
    """The state of all points and live jobs. Slurm is asked at most every `poll_s` seconds; None: the cluster's `poll_s`.

    Raises FileError if the campaign does not exist.
    """
    record = campaign.read_plan()
    planned = _Planned(campaign.with_decisions(record), str(campaign.plan))
    seen = look(campaign, poll_s=planned.poll_s if poll_s is None else poll_s)
    found, live = seen.jobs, [job for job in seen.jobs if job.is_live]
    in_charge = {key: job for job in live for key in job.keys}
    running = [state for job in live for state in _job_states(job, campaign.root)]
    now = {j.key for j in running if j.key}
    attempts = campaign.attempts(key for key, *_ in planned.points)
    ended = {key: job for job in found if not job.is_live for key in job.keys}
    words: dict[str, str] = {}
    points = tuple(
        _point_state(p, attempts[p[0]], in_charge.get(p[0]), ended.get(p[0]), words, campaign, is_running=p[0] in now)
        for p in planned.points
    )
    name, search, skips = str(record.get("name", campaign.root.name)), state_of(campaign, record), skipped(campaign, record)
    return Status(name, planned.is_simulated, points, tuple(running), seen.answers, seen.silence, search, skips)


def unmeasured(campaign: Campaign) -> tuple[int, list[tuple[str, int]]]:
    """The number of planned points, and arm and concurrency of each that has no whole measurement. Reads files only.

    Raises FileError if this is not the directory of a campaign.
    """
    planned = _Planned(campaign.with_decisions(campaign.read_plan()), str(campaign.plan)).points
    attempts = campaign.attempts(key for key, *_ in planned)
    return len(planned), [(arm, concurrency) for key, arm, concurrency, *_ in planned if not any(a.is_done for a in attempts[key])]


class _Planned:
    """The part of plan.json that status needs. Only the fields of points are checked, because a plan may have 100,000 points."""

    def __init__(self, record: dict[str, Any], where: str) -> None:
        try:
            arms = [(from_plain(Arm, job["arm"]), job) for job in record["jobs"]]
            self.is_simulated = any(arm.engine.simulated for arm, _ in arms)
            self.poll_s = from_plain(Cluster, record["cluster"]).poll_s if "cluster" in record else 10.0
            self.points: list[tuple[str, str, int, int, int]] = [
                (str(p["key"]), arm.label, int(p["concurrency"]), int(p["repeat"]), int(p["seed"]))
                for arm, job in arms
                for start in job["starts"]
                for p in start["points"]
            ]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"plan.json is not valid: {str(error).splitlines()[0]}.", path=where) from error


def _point_state(
    point: tuple[str, str, int, int, int],
    attempts: Sequence[Attempt],
    live: Job | None,
    ended: Job | None,
    words: dict[str, str],
    campaign: Campaign,
    *,
    is_running: bool,
) -> PointState:
    done = next((a for a in attempts if a.is_done), None)
    last = done or (attempts[-1] if attempts else None)
    validity, class_, message = (last.validity, last.failure_class, last.message) if last else ("", "", "")
    if done is not None:
        state = "done"
    elif is_running:
        state = "running"
    elif live is not None and (last is None or last.job_id.partition(".")[0] != live.job_id):
        state = "queued"
    elif last is not None:
        state = "invalid" if last.status == "whole" else "failed"
    else:
        state = "missing"
        if ended is not None:
            class_ = ended.failure_class
            name = ended.job_id or (ended.sent.name if ended.sent else "")
            if name not in words:
                words[name] = _last_words(campaign, ended)
            message = words[name]
    return PointState(*point, state, validity, class_, len(attempts), message)


def _last_words(campaign: Campaign, job: Job) -> str:
    """The last messages of a job that ended before it reached its points."""
    if job.sent is not None and job.sent.refused:
        return f"submission {job.sent.name}: {job.sent.refused}"
    if job.state == "unconfirmed" and job.sent is not None:
        return f"submitted as {job.sent.name}, but the command ended before Slurm answered: `glm5bench resubmit` checks it"
    log = campaign.submitit / f"{job.job_id}_0_log.err"
    try:
        with open(os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            text = file.read(2000).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip() and "lacks support for cpu binding" not in line][-3:]
    except OSError:
        lines = []
    node = f" on {job.node}" if job.node else ""
    slurm = f", Slurm: {job.told.state}" if job.told and job.told.is_over else ""
    slurm += f" ({job.told.note})" if job.told and job.told.is_over and job.told.note else ""
    said = [f"it reported: {e.why}; {len(e.measured)} points measured, {len(e.failed)} failed, {len(e.left)} left" for e in job.ends]
    return "\n".join([f"job {job.job_id}{node} ended before this point{slurm} ({log})", *(said or lines)])


def _job_states(job: Job, root: Path) -> list[JobState]:
    told = "" if job.told is None else f"{job.told.state} {job.told.reason if job.state == 'queued' else ''}".strip()
    if job.state == "queued" or not job.beats:
        phase = {"queued": "queued", "unknown": "unknown"}.get(job.state, "starting")
        remedy = job.told.remedy(job.job_id).replace("DIR", shlex.quote(str(root))) if job.told else ""
        stuck = f"Slurm does not start it by itself. next: {remedy}" if remedy else ""
        node = "" if job.state == "queued" else job.node  # a queued job may have the node of an earlier run
        return [JobState(job.job_id, job.state, told, node, phase, "", "", "", 0, 0, 0, len(job.keys), 0.0, -1.0, 0.0, stuck)]
    return [_beating(job, beat, lane, told) for lane, beat in enumerate(job.beats)]


def _beating(job: Job, beat: Beat, lane: int, told: str) -> JobState:
    now = time.time()
    measuring = beat.phase in ("warm-up", "measuring")
    spent = max(1e-9, now - beat.since_utc_s)
    rate = beat.requests_done / spent if beat.phase == "measuring" and beat.requests_done else 0.0
    return JobState(
        f"{job.job_id}.{lane}" if lane else job.job_id,
        job.state,
        told,
        beat.node or beat.host,
        "stopped" if beat.phase == "done" and beat.points_done < beat.points else beat.phase,
        beat.doing,
        beat.node_job,
        beat.key if measuring else "",
        beat.requests_done,
        beat.requests,
        beat.points_done,
        beat.points,
        rate,
        max(0.0, beat.left_s - (now - beat.since_utc_s)) if beat.left_s >= 0 and measuring else beat.left_s,
        max(0.0, now - beat.time_utc_s),
        "waiting for another local campaign on this machine" if beat.phase == "queued" else beat.said,
    )
