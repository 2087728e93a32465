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


def cancel(campaign: Campaign, *, poll_s: float, patience_s: float = 60.0) -> tuple[list[str], list[str], str]:
    """The ids of the jobs that ended, the ids of those that did not, and the scheduler's error messages.

    Asks all live jobs to end and waits up to `patience_s` seconds for them.
    """
    with submitting(campaign):
        for name in {s.executor for s in read_sent(campaign) if not s.job_id and not s.refused} & set(schedulers()):
            schedulers()[name].settle(campaign)
        live = live_jobs(campaign, poll_s=0)
        refuse_a_copy(campaign, live)
        asked = {name: [job for job in live if job.sent is not None and job.sent.executor == name] for name in schedulers()}
        said = {
            name: scheduler.cancel([(job.sent, next(iter(job.beats), None)) for job in asked[name] if job.sent is not None])
            for name, scheduler in schedulers().items()
            if asked[name]
        }
    for job in live:
        if job.sent is None and job.beats:  # without a submission record, only the heartbeat identifies the process
            end_process(job.beats[0].host, job.beats[0].pid, job.beats[0].started_ticks)
    is_polled = any(schedulers()[name].comes_again for name in said)
    still = _waited_for(campaign, live, poll_s if is_polled else 0.0, patience_s)
    gone = [job.job_id for job in live if job.job_id not in still]
    ids = {name: [job.job_id for job in asked[name]] for name in said if schedulers()[name].comes_again}
    ended = [i for name, own in ids.items() for i in own if not said[name] or i in gone]
    local = [(job.job_id, job.sent.name) for name in said if name not in ids for job in asked[name] if job.sent and job.job_id in gone]
    if ids or local:
        campaign.append_submission({"kind": "cancelled", "job_ids": ended, "jobs": local, "utc_s": time.time()})
    return gone, still, "; ".join(filter(None, said.values()))


def _waited_for(campaign: Campaign, asked: Sequence[Job], poll_s: float, patience_s: float) -> list[str]:
    """The ids of the jobs that are still live after `patience_s` seconds. Schedulers are asked at most every `poll_s` seconds."""
    deadline, ids = time.monotonic() + patience_s, {job.job_id for job in asked}
    while True:
        still = [job.job_id for job in live_jobs(campaign, poll_s=poll_s) if job.job_id in ids] if ids else []
        if not still or time.monotonic() > deadline:
            return still
        time.sleep(0.1 if not poll_s else min(1.0, poll_s))
