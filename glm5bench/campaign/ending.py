"""Cancels the jobs of a campaign by their ids."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..directory import Campaign
from ..node.heartbeat import end_process
from ..schedulers.known import schedulers
from ..schedulers.submissions import read_sent
from .jobs import Job, live_jobs
from .lock import refuse_a_copy, submitting

AGAIN_S = 1.0  # how often processes on this machine are asked again


def cancel(campaign: Campaign, *, poll_s: float, patience_s: float = 60.0) -> tuple[list[str], list[str], str]:
    """The ids of the jobs that ended, the ids of those that did not, and the scheduler's error messages.

    Asks all live jobs to end and waits up to `patience_s` seconds for them. Processes on this machine are asked again: until a job has
    installed its signal handlers, submitit's own handlers only log SIGTERM.
    """
    with submitting(campaign):
        for name in {s.executor for s in read_sent(campaign) if not s.job_id and not s.refused} & set(schedulers()):
            schedulers()[name].settle(campaign)
        live = live_jobs(campaign, poll_s=0)
        refuse_a_copy(campaign, live)
        asked = {name: [job for job in live if job.sent is not None and job.sent.executor == name] for name in schedulers()}
        said = {name: _end(name, asked[name]) for name in asked if asked[name]}
    _end_unrecorded(live)
    is_polled = any(schedulers()[name].comes_again for name in said)
    still = _waited_for(campaign, live, poll_s if is_polled else 0.0, patience_s)
    gone = [job.job_id for job in live if job.job_id not in still]
    ids = {name: [job.job_id for job in asked[name]] for name in said if schedulers()[name].comes_again}
    ended = [i for name, own in ids.items() for i in own if not said[name] or i in gone]
    local = [(job.job_id, job.sent.name) for name in said if name not in ids for job in asked[name] if job.sent and job.job_id in gone]
    if ids or local:
        campaign.append_submission({"kind": "cancelled", "job_ids": ended, "jobs": local, "utc_s": time.time()})
    return gone, still, "; ".join(filter(None, said.values()))


def _end(name: str, jobs: Sequence[Job]) -> str:
    """Asks these jobs of one scheduler to end. Returns its error message."""
    return schedulers()[name].cancel([(job.sent, next(iter(job.beats), None)) for job in jobs if job.sent is not None])


def _end_unrecorded(jobs: Sequence[Job]) -> None:
    """Ends jobs without a submission record, whose processes only the heartbeat identifies."""
    for job in jobs:
        if job.sent is None and job.beats:
            end_process(job.beats[0].host, job.beats[0].pid, job.beats[0].started_ticks)


def _waited_for(campaign: Campaign, asked: Sequence[Job], poll_s: float, patience_s: float) -> list[str]:
    """The ids of the jobs that are still live after `patience_s` seconds. Schedulers are asked at most every `poll_s` seconds."""
    now = time.monotonic()
    deadline, again, ids = now + patience_s, now + AGAIN_S, {job.job_id for job in asked}
    while True:
        still = [job for job in live_jobs(campaign, poll_s=poll_s) if job.job_id in ids] if ids else []
        if not still or time.monotonic() > deadline:
            return [job.job_id for job in still]
        if time.monotonic() > again:
            again += AGAIN_S
            for name in {job.sent.executor for job in still if job.sent is not None} & set(schedulers()):
                if not schedulers()[name].comes_again:
                    _end(name, [job for job in still if job.sent is not None and job.sent.executor == name])
            _end_unrecorded(still)
        time.sleep(0.1 if not poll_s else min(1.0, poll_s))
