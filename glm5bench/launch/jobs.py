"""The jobs of a campaign and where each stands: from submissions, heartbeats and last words, refined by what Slurm says where it answers.

Truth is in files. Slurm's word decides only what files cannot: whether a job still waits, and whether one that is silent will come
again. A job that nobody can tell of is `unknown`, and unknown is not over.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..directory import Campaign, lane_ids
from ..errors import BenchError, EnvironmentLacks, FileError
from ..files import read_json, write_json
from ..node.heartbeat import Beat, is_alive, process_started_ticks, read_beat
from . import slurm
from .request import End, read_end
from .slurm import Told
from .submissions import Sent, read_sent

State = Literal["queued", "running", "ended", "unknown", "unconfirmed"]
CLOCKS_S = 3600.0  # that the clocks of nodes may be apart
LATE_S = 300.0  # after its time limit a job is over, whatever its file says
CLASS_OF_STATE = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_fault",
    "BOOT_FAIL": "node_fault",
    "LAUNCH_FAILED": "node_fault",
    "OUT_OF_MEMORY": "lost",  # the job's host memory, slurm.mem, not the GPUs'
}


@dataclass(frozen=True)
class Job:
    """One job at one moment. `beats` and `ends`: what its lanes have written, those that have."""

    job_id: str
    sent: Sent | None
    state: State
    told: Told | None
    node: str
    keys: tuple[str, ...]
    beats: tuple[Beat, ...]
    ends: tuple[End, ...]
    is_node_suspect: bool = False  # Python started for other jobs of the campaign, on other nodes

    @property
    def is_live(self) -> bool:
        """Whether its points are, or may be, in its charge."""
        return self.state in ("queued", "running", "unknown")

    @property
    def is_complete(self) -> bool:
        """Whether it said that it came to every point in its charge."""
        return bool(self.ends) and all(end.is_complete for end in self.ends)

    @property
    def failure_class(self) -> str:
        """Why it ended before the points that it left: a class of conf/failure."""
        state = self.told.state if self.told else ""
        whys = [end.why for end in self.ends if not end.is_complete]
        if self.state == "unconfirmed":
            return ""
        if self.sent is not None and self.sent.refused:
            return "submit_refused"
        if self.sent is not None and self.sent.is_cancelled:
            return "cancelled"
        if "time_limit" in whys:
            return "time_limit"
        if state in CLASS_OF_STATE:
            return CLASS_OF_STATE[state]
        if any(why.startswith("SIG") for why in whys):
            return "preempted"
        if whys:
            return whys[0]
        # the batch script ran there and Python never spoke, which it did elsewhere
        return "node_fault" if self.node and not self.beats and self.is_node_suspect else "lost"


@dataclass(frozen=True)
class View:
    """What Slurm said at one moment. `queue` None: it did not answer."""

    asked_utc_s: float
    queue: dict[str, Told] | None
    accounted: dict[str, Told] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """The jobs at one moment, and whether Slurm answered; None: none of them is Slurm's."""

    jobs: tuple[Job, ...]
    slurm_answers: bool | None


def look(campaign: Campaign, *, poll_s: float) -> Seen:
    """Every job that was asked for or has left a heartbeat, with its state. Slurm is asked if it was not within `poll_s`."""
    sent = read_sent(campaign)
    in_slurm = [s for s in sent if s.executor == "slurm"]
    view = _view(campaign, in_slurm, poll_s)
    known = {s.job_id for s in sent if s.job_id}
    found = [_job(campaign, s, view) for s in sent]
    folders = [name for name in _job_folders(campaign) if name not in known and name.partition(".")[0] not in known]
    found += [job for name in folders if (job := _unrecorded(campaign, name, view)) is not None]
    speaking = {job.node for job in found if job.beats}
    found = [replace(job, is_node_suspect=bool(speaking - {job.node})) for job in found]
    return Seen(tuple(found), view.queue is not None if in_slurm else None)


def jobs(campaign: Campaign, *, poll_s: float = 10.0) -> list[Job]:
    """The same without whether Slurm answered."""
    return list(look(campaign, poll_s=poll_s).jobs)


def live_jobs(campaign: Campaign, *, poll_s: float = 10.0) -> list[Job]:
    """The jobs that have points in their charge."""
    return [job for job in jobs(campaign, poll_s=poll_s) if job.is_live]


def jobs_by_slurm(campaign: Campaign) -> list[Job]:
    """All jobs, as Slurm says now. Raises EnvironmentLacks where it does not answer: what looks over then may only be waiting."""
    seen = look(campaign, poll_s=0)
    if seen.slurm_answers is False and any(job.job_id and not job.is_complete for job in seen.jobs):
        raise EnvironmentLacks(
            "Slurm does not answer (squeue), and what became of the jobs that this campaign has sent cannot be known.",
            where=str(campaign.root),
            next_step="type the same command again when it does: nothing was sent",
        )
    return list(seen.jobs)


def _job(campaign: Campaign, sent: Sent, view: View) -> Job:
    if sent.refused:
        return Job("", sent, "ended", None, "", sent.keys, (), ())
    if not sent.job_id:
        return Job("", sent, "unconfirmed" if sent.executor == "slurm" else "ended", None, "", sent.keys, (), ())
    lanes = lane_ids(sent.job_id, len(sent.requests))
    since = sent.asked_utc_s - (CLOCKS_S if sent.executor == "slurm" else 0)  # local ids are process ids, which come again
    began_on, began = campaign.started(sent.job_id)  # its latest run: what an earlier one said is not its last word
    beats = tuple(beat for lane in lanes if (beat := read_beat(campaign.heartbeat(lane))) is not None and beat.time_utc_s >= since)
    ends = tuple(end for lane in lanes if (end := read_end(campaign, lane)) is not None and end.utc_s >= max(since, began))
    state, told = _slurm_state(sent, beats, ends, view, began) if sent.executor == "slurm" else (_local_state(sent, beats), None)
    node = next((b.node or b.host for b in beats), "") or began_on or (told.node if told else "")
    return Job(sent.job_id, sent, state, told, node, sent.keys, beats, ends)


def _unrecorded(campaign: Campaign, job_id: str, view: View) -> Job | None:
    """A job whose acceptance nobody wrote down, found by its heartbeat."""
    beat = read_beat(campaign.heartbeat(job_id))
    if beat is None:
        return None
    told = (view.queue or {}).get(job_id.partition(".")[0])
    is_live = is_alive(beat, time.time()) or (told is not None and told.state not in slurm.TERMINAL)
    end = read_end(campaign, job_id)
    return Job(
        job_id, None, "running" if is_live else "ended", None, beat.node or beat.host, tuple(beat.keys), (beat,), (end,) if end else ()
    )


def _local_state(sent: Sent, beats: Sequence[Beat]) -> State:
    if beats:
        return "running" if is_alive(beats[0], time.time()) else "ended"
    if sent.executor != "local" or sent.host != os.uname().nodename:
        return "ended"
    started = process_started_ticks(int(sent.job_id))
    return "running" if started >= 0 and started == sent.started_ticks else "ended"


def _slurm_state(sent: Sent, beats: Sequence[Beat], ends: Sequence[End], view: View, began: float) -> tuple[State, Told | None]:
    if view.queue is None:
        known = view.accounted.get(sent.job_id)
        return ("ended", known) if known is not None else (_state_by_files(sent, beats, ends, began), None)
    told = view.queue.get(sent.job_id)
    if told is not None and told.state not in slurm.TERMINAL:
        if told.state in slurm.WAITING:
            has_begun = any(beat.time_utc_s > view.asked_utc_s and beat.phase != "done" for beat in beats)
            has_ended = any(end.utc_s > view.asked_utc_s for end in ends) and _has_said_all(sent, ends)
            return "ended" if has_ended else "running" if has_begun else "queued", told  # since Slurm was asked
        return "ended" if _has_said_all(sent, ends) else "running", told  # it is only not gone yet
    if told is not None:
        return "ended", told
    if sent.accepted_utc_s >= view.asked_utc_s:
        return "queued", None
    told = view.accounted.get(sent.job_id)
    if told is None and sent.user != user() and not _has_said_all(sent, ends):
        return "unknown", None  # a cluster may hide one user's jobs from another
    return "ended", told


def _has_said_all(sent: Sent, ends: Sequence[End]) -> bool:
    """Whether every lane has said its last word. What a signal ended may be run again by Slurm."""
    return len(ends) == len(sent.requests) and not any(end.why.startswith("SIG") for end in ends)


def _state_by_files(sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> State:
    """Slurm may run a silent job again: it is over when it has said so, or when its time must be. `began`: its batch script, UTC s."""
    now = time.time()
    if any(is_alive(beat, now) for beat in beats):
        return "running"
    last_sign = max([began, *(beat.time_utc_s for beat in beats)])
    is_late = last_sign > 0 and sent.limit_s > 0 and now > last_sign + sent.limit_s + LATE_S
    return "ended" if _has_said_all(sent, ends) or is_late else "unknown"


def user() -> str:
    """Whose jobs this process sends, as Slurm sees it: $LOGNAME is only somebody's word."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _job_folders(campaign: Campaign) -> list[str]:
    if not campaign.jobs.is_dir():
        return []
    with os.scandir(campaign.jobs) as entries:
        return [e.name for e in entries if e.name[0].isdigit() and e.is_dir()]


def _view(campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> View:
    """Slurm's word, from the file of the last question where that is young enough; no question where there is no such job."""
    if not sent:
        return View(0.0, None)
    kept = _kept_view(campaign)
    if 0 <= time.time() - kept.asked_utc_s < poll_s:
        return kept
    now = time.time()
    queue = slurm.queue({s.user for s in sent if s.user})
    accounted = {job: told for job, told in kept.accounted.items() if told.state in slurm.TERMINAL}
    if queue is not None:
        gone = [s.job_id for s in sent if s.job_id and s.job_id not in queue and s.job_id not in accounted]
        accounted |= slurm.accounting(gone) or {}
        over = {job: told for job, told in queue.items() if told.state in slurm.TERMINAL}  # the controller forgets it in minutes
        accounted = {job: told for job, told in accounted.items() if job not in queue} | {
            s.job_id: over[s.job_id] for s in sent if s.job_id in over
        }
    view = View(now, queue, accounted)
    with contextlib.suppress(BenchError):  # a directory that cannot be written can still be looked at
        write_json(_view_file(campaign), asdict(view))
    return view


def _kept_view(campaign: Campaign) -> View:
    try:
        r: Any = read_json(_view_file(campaign))
        return View(float(r["asked_utc_s"]), None if r["queue"] is None else _told(r["queue"]), _told(r["accounted"]))
    except (FileError, KeyError, TypeError, ValueError):
        return View(0.0, None)


def _told(record: dict[str, Any]) -> dict[str, Told]:
    return {job: Told(**told) for job, told in record.items()}


def _view_file(campaign: Campaign) -> Any:
    return campaign.jobs / "slurm.json"


def keys_of(found: Iterable[Job]) -> set[str]:
    """The points in the charge of these jobs."""
    return {key for job in found for key in job.keys}
