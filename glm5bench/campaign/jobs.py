"""The jobs of a campaign and their states, from submissions, heartbeats, end records and the scheduler.

A job without any information is `unknown`. An unknown job may still be running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..directory import Campaign, lane_ids
from ..errors import EnvironmentLacks
from ..node.heartbeat import Beat, is_alive, read_beat
from ..schedulers.known import schedulers
from ..schedulers.request import End, read_end
from ..schedulers.scheduler import Look, State, Told
from ..schedulers.submissions import Sent, read_sent

CLOCKS_S = 3600.0  # allowed difference between the clocks of nodes


@dataclass(frozen=True)
class Job:
    """One job at one moment. `beats` and `ends`: one entry for each lane that has written one."""

    job_id: str
    sent: Sent | None
    state: State
    told: Told | None
    node: str
    keys: tuple[str, ...]
    beats: tuple[Beat, ...]
    ends: tuple[End, ...]
    is_node_suspect: bool = False  # whether Python started for other jobs of the campaign on other nodes

    @property
    def is_live(self) -> bool:
        """Whether the job may still measure its points."""
        return self.state in ("queued", "running", "unknown")

    @property
    def is_complete(self) -> bool:
        """Whether its end records report that it reached every assigned point."""
        return bool(self.ends) and all(end.is_complete for end in self.ends)

    @property
    def failure_class(self) -> str:
        """Why the job ended before it reached all its points: a class of conf/failure."""
        whys = [end.why for end in self.ends if not end.is_complete]
        if self.state == "unconfirmed":
            return ""
        if self.sent is not None and self.sent.refused:
            return "submit_refused"
        if self.sent is not None and self.sent.is_cancelled:
            return "cancelled"
        if "time_limit" in whys:
            return "time_limit"
        if self.told is not None and self.told.failure_class:
            return self.told.failure_class
        if any(why.startswith("SIG") for why in whys):
            return "preempted"
        if whys:
            return whys[0]
        # the batch script ran on this node but Python wrote no heartbeat; on other nodes it did
        return "node_fault" if self.node and not self.beats and self.is_node_suspect else "lost"


@dataclass(frozen=True)
class Seen:
    """The jobs at one moment. `answers`: whether the scheduler answered, None if it was not needed. `silence`: the reason if it did not."""

    jobs: tuple[Job, ...]
    answers: bool | None
    silence: str = ""


def look(campaign: Campaign, *, poll_s: float) -> Seen:
    """Every job that was submitted or has written a heartbeat, with its state. Schedulers are asked at most every `poll_s` seconds."""
    sent = read_sent(campaign)
    looks = {name: one.look(campaign, [s for s in sent if s.executor == name], poll_s) for name, one in schedulers().items()}
    known = {s.job_id for s in sent if s.job_id}
    found = [_job(campaign, s, looks) for s in sent]
    folders = [name for name in _job_folders(campaign) if name not in known and name.partition(".")[0] not in known]
    found += [job for name in folders if (job := _unrecorded(campaign, name, looks)) is not None]
    speaking = {job.node for job in found if job.beats}
    found = [replace(job, is_node_suspect=bool(speaking - {job.node})) for job in found]
    asked = [one for one in looks.values() if one.answers is not None]
    silence = "; ".join(one.silence for one in asked if not one.answers)
    return Seen(tuple(found), not silence if asked else None, silence)


def jobs(campaign: Campaign, *, poll_s: float = 10.0) -> list[Job]:
    """The jobs of `look`, without the information whether the scheduler answered."""
    return list(look(campaign, poll_s=poll_s).jobs)


def live_jobs(campaign: Campaign, *, poll_s: float = 10.0) -> list[Job]:
    """The jobs that may still measure their points."""
    return [job for job in jobs(campaign, poll_s=poll_s) if job.is_live]


def jobs_for_sure(campaign: Campaign) -> list[Job]:
    """All jobs, with their current states from the scheduler.

    Raises EnvironmentLacks if the scheduler does not answer: a job that seems to have ended may still be queued.
    """
    seen = look(campaign, poll_s=0)
    if seen.answers is False and any(job.job_id and not job.is_complete for job in seen.jobs):
        raise EnvironmentLacks(
            f"{seen.silence}, so the state of this campaign's jobs is unknown.",
            where=str(campaign.root),
            next_step="nothing was sent; run the command again when the scheduler answers",
        )
    return list(seen.jobs)


def _job(campaign: Campaign, sent: Sent, looks: Mapping[str, Look]) -> Job:
    if sent.refused:
        return Job("", sent, "ended", None, "", sent.keys, (), ())
    comes_again = sent.executor in schedulers() and schedulers()[sent.executor].comes_again
    if not sent.job_id:
        return Job("", sent, "unconfirmed" if comes_again else "ended", None, "", sent.keys, (), ())
    lanes = lane_ids(sent.job_id, len(sent.requests))
    since = sent.asked_utc_s - (CLOCKS_S if comes_again else 0)  # local ids are process ids, which the system reuses
    began_on, began = campaign.started(sent.job_id)  # start of the latest run: end records of earlier runs are ignored
    beats = tuple(beat for lane in lanes if (beat := read_beat(campaign.heartbeat(lane))) is not None and beat.time_utc_s >= since)
    ends = tuple(end for lane in lanes if (end := read_end(campaign, lane)) is not None and end.utc_s >= max(since, began))
    if comes_again:  # an id can be used again after a reset of the controller, and by another cluster
        beats = tuple(beat for beat in beats if beat.name in ("", sent.name))
        ends = tuple(end for end in ends if end.name in ("", sent.name))
    look_ = looks.get(sent.executor)
    state, told = look_.state(sent, beats, ends, began) if look_ is not None else ("unknown", None)
    node = next((b.node or b.host for b in beats), "") or began_on or (told.node if told else "")
    return Job(sent.job_id, sent, state, told, node, sent.keys, beats, ends)


def _unrecorded(campaign: Campaign, job_id: str, looks: Mapping[str, Look]) -> Job | None:
    """A job without a submission record, found by its heartbeat."""
    beat = read_beat(campaign.heartbeat(job_id))
    if beat is None:
        return None
    told = [word for one in looks.values() if (word := one.told(job_id, beat.name)) is not None]
    is_live = is_alive(beat, time.time()) or any(not word.is_over for word in told)
    end = read_end(campaign, job_id)
    return Job(
        job_id, None, "running" if is_live else "ended", None, beat.node or beat.host, tuple(beat.keys), (beat,), (end,) if end else ()
    )


def _job_folders(campaign: Campaign) -> list[str]:
    if not campaign.jobs.is_dir():
        return []
    with os.scandir(campaign.jobs) as entries:
        return [e.name for e in entries if e.name[0].isdigit() and e.is_dir()]
