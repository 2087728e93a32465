"""The states of a campaign's Slurm jobs, from heartbeats, end records and, if it answers, from Slurm.

Files decide. Slurm is used only for what files cannot show: whether a job is still queued, and whether a job without a heartbeat will
run again. A job without any information is `unknown`. An unknown job may still be running.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...directory import Campaign
from ...errors import BenchError, FileError
from ...files import read_json, write_json
from ...node.heartbeat import Beat, is_alive
from ...values.plain import digest_of
from ..request import End
from ..scheduler import Look, State
from ..submissions import Sent, user
from . import commands as slurm
from .states import Told

LATE_S = 300.0  # this long after its time limit, a job has ended even if no file shows it


@dataclass(frozen=True)
class View:
    """Slurm's answers at one moment. `queue`: None if Slurm did not answer. `cluster`: which Slurm answered."""

    asked_utc_s: float
    queue: dict[str, Told] | None
    accounted: dict[str, Told] = field(default_factory=dict)
    cluster: str = ""


class SlurmLook(Look):
    """The states of jobs from Slurm's answers and from files."""

    silence = "Slurm does not answer (squeue)"

    def __init__(self, seen: View, sent: Sequence[Sent]) -> None:
        self.seen = seen
        self.answers = seen.queue is not None if sent else None
        others = sorted({s.cluster for s in sent if s.job_id and is_elsewhere(s, seen.cluster)})
        if others:
            self.answers, self.silence = False, of_another_cluster(others, seen.cluster)

    def state(self, sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> tuple[State, Told | None]:
        """The state of an accepted job, and Slurm's report on it."""
        if is_elsewhere(sent, self.seen.cluster):
            return _state_by_files(sent, beats, ends, began), None
        return _state(sent, beats, ends, self.seen, began)

    def told(self, job_id: str, name: str) -> Told | None:
        """The job's entry in squeue, if the job of this id has this name."""
        told = (self.seen.queue or {}).get(job_id.partition(".")[0])
        return told if told is not None and name and told.name == name else None


def is_elsewhere(sent: Sent, cluster: str) -> bool:
    """Whether the job was sent to another cluster than the one that answers here. False if one of them is unknown."""
    return bool(sent.cluster and cluster and sent.cluster != cluster)


def of_another_cluster(others: Sequence[str], here: str) -> str:
    """The message for a campaign whose jobs are in another cluster."""
    there = ", ".join(others)
    return f"Its jobs are in Slurm cluster {there}, and this machine uses cluster {here}: run the command on a login node of {there}"


def _state(sent: Sent, beats: Sequence[Beat], ends: Sequence[End], view: View, began: float) -> tuple[State, Told | None]:
    if view.queue is None:
        known = _own(view.accounted, sent)
        return ("ended", known) if known is not None else (_state_by_files(sent, beats, ends, began), None)
    told = _own(view.queue, sent)
    if told is not None and not told.is_over:
        if told.is_waiting:
            has_begun = any(beat.time_utc_s > view.asked_utc_s and beat.phase != "done" for beat in beats)
            has_ended = any(end.utc_s > view.asked_utc_s for end in ends) and _has_said_all(sent, ends)
            return "ended" if has_ended else "running" if has_begun else "queued", told  # files that are newer than Slurm's answer
        return "ended" if _has_said_all(sent, ends) else "running", told  # Slurm still lists a job that has ended
    if told is not None:
        return "ended", told
    if sent.accepted_utc_s >= view.asked_utc_s:
        return "queued", None
    told = _own(view.accounted, sent)
    if told is None and sent.user != user() and not _has_said_all(sent, ends):
        return "unknown", None  # a cluster may hide one user's jobs from another
    return "ended", told


def _own(reports: dict[str, Told], sent: Sent) -> Told | None:
    """Slurm's report on this job. None if the job of this id has another name: ids start again after a reset of the controller."""
    told = reports.get(sent.job_id)
    return told if told is None or told.name in ("", sent.name) else None


def _has_said_all(sent: Sent, ends: Sequence[End]) -> bool:
    """Whether every lane has written its final end record. Slurm may requeue a job that a signal ended."""
    return len(ends) == len(sent.requests) and not any(end.why.startswith("SIG") for end in ends)


def _state_by_files(sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> State:
    """The state of a job without Slurm's answer. `began`: start of its batch script, UTC seconds.

    Slurm may requeue a job without a heartbeat. Such a job has ended only if it has written its end records or its time limit has passed.
    """
    now = time.time()
    if any(is_alive(beat, now) for beat in beats):
        return "running"
    last_sign = max([began, *(beat.time_utc_s for beat in beats)])
    is_late = last_sign > 0 and sent.limit_s > 0 and now > last_sign + sent.limit_s + LATE_S
    return "ended" if _has_said_all(sent, ends) or is_late else "unknown"


def view(campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> View:
    """Slurm's answers, from a file if they are younger than `poll_s` seconds. Slurm is not asked if no job was sent to it."""
    if not sent:
        return View(0.0, None)
    kept = _kept_view(campaign)
    if 0 <= time.time() - kept.asked_utc_s < poll_s:
        return kept
    now = time.time()
    cluster = slurm.cluster()
    queue = slurm.queue({s.user for s in sent if s.user}) if cluster is not None else None
    sent = [s for s in sent if not is_elsewhere(s, cluster or "")]
    accounted = {job: told for job, told in kept.accounted.items() if told.is_over}
    if queue is not None:
        gone = [s.job_id for s in sent if s.job_id and _own(queue, s) is None and _own(accounted, s) is None]
        accounted |= slurm.accounting(gone) or {}
        over = {job: told for job, told in queue.items() if told.is_over}  # the controller forgets them after some minutes
        listed = {s.job_id for s in sent if _own(queue, s) is not None}  # a job of another name may have the id now
        accounted = {job: told for job, told in accounted.items() if job not in listed} | {
            s.job_id: over[s.job_id] for s in sent if s.job_id in listed and s.job_id in over
        }
    made = View(now, queue, accounted, cluster or "")
    with contextlib.suppress(BenchError):  # a read-only directory can still be displayed
        write_json(_view_file(campaign), asdict(made))
    return made


def _kept_view(campaign: Campaign) -> View:
    try:
        r: Any = read_json(_view_file(campaign))
        queue = None if r["queue"] is None else _told(r["queue"])
        return View(float(r["asked_utc_s"]), queue, _told(r["accounted"]), str(r.get("cluster", "")))
    except (FileError, KeyError, TypeError, ValueError):
        return View(0.0, None)


def _told(record: dict[str, Any]) -> dict[str, Told]:
    return {job: Told(**told) for job, told in record.items()}


def _view_file(campaign: Campaign) -> Any:
    """One file for each Slurm that a machine can ask, because login nodes of two clusters may share the directory."""
    conf = os.environ.get("SLURM_CONF", "")
    return campaign.jobs / (f"slurm-{digest_of([os.uname().nodename, conf], 8)}.json")
