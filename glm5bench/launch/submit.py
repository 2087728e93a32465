"""Node jobs -> submitit: what is asked for is on disk before it is asked, and what was accepted is on disk before anything else.

Enters: a campaign and the node jobs that are left. Leaves: running jobs. This machine is one node, so that all node jobs of a
local campaign are one submitit job, which runs them one after another.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import submitit

from .. import __version__
from ..node.heartbeat import Beat, is_alive, process_started_ticks, read_beat
from ..point import NodeJob, plain
from ..store.campaign import Campaign
from ..store.files import write_json
from .entry import run_requests

LOCAL_LIMIT_MIN = 14 * 24 * 60


def submit(campaign: Campaign, jobs: Sequence[NodeJob], executor: str) -> str:
    """Submits the jobs and returns submitit's job id. With the debug executor they have run when this returns."""
    requests = _write_requests(campaign, jobs)
    runner = submitit.AutoExecutor(folder=campaign.jobs / "submitit", cluster=executor)
    runner.update_parameters(timeout_min=LOCAL_LIMIT_MIN, name="glm5bench")
    asked_utc_s = time.time()
    with _detached():
        job = runner.submit(run_requests, str(campaign.root), requests)
    accepted = {
        "job_id": job.job_id,
        "executor": executor,
        "started_ticks": process_started_ticks(int(job.job_id)) if executor == "local" else -1,
        "host": os.uname().nodename,
        "requests": requests,
        "keys": [p.key for j in jobs for p in j.points],
        "submitted_utc_s": asked_utc_s,
        "glm5bench": __version__,
    }
    campaign.append_submission(accepted)
    if executor == "debug":
        job.result()
    return str(job.job_id)


def _write_requests(campaign: Campaign, jobs: Sequence[NodeJob]) -> list[str]:
    stamp, paths = time.time_ns(), []
    for job in jobs:
        path = campaign.jobs / f"{job.id}.{stamp}.json"
        write_json(path, plain(job))
        paths.append(str(path))
    return paths


@contextmanager
def _detached() -> Iterator[None]:
    """Ctrl-C and a closing terminal reach this command, not the jobs: ignored signals stay ignored in what is started now."""
    saved = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for s, handler in saved.items():
            signal.signal(s, handler)


@dataclass(frozen=True)
class LiveJob:
    """A job that still runs: its last beat, or None before the first one, and the points in its charge."""

    job_id: str
    host: str
    beat: Beat | None
    keys: tuple[str, ...]


def live_jobs(campaign: Campaign) -> list[LiveJob]:
    """Jobs that still run, from their heartbeats and, before the first one, from what was submitted.

    A job whose submission was never recorded (the command was killed in that instant) is found by its heartbeat.
    """
    now, live = time.time(), []
    submitted = {str(s["job_id"]): s for s in campaign.read_submissions() if "job_id" in s}
    for job_id in sorted({*submitted, *_job_folders(campaign)}):
        beat = read_beat(campaign.heartbeat(job_id))
        if beat is not None and job_id in submitted and beat.time_utc_s < submitted[job_id]["submitted_utc_s"]:
            beat = None  # of an earlier job: local job ids are process ids, which come again
        if beat is not None and is_alive(beat, now):
            live.append(LiveJob(job_id, beat.host, beat, tuple(beat.keys)))
        elif beat is None and job_id in submitted and _controller_runs(submitted[job_id]):
            live.append(LiveJob(job_id, os.uname().nodename, None, tuple(submitted[job_id]["keys"])))
    return live


def _job_folders(campaign: Campaign) -> list[str]:
    return [f.name for f in campaign.jobs.iterdir() if f.is_dir()] if campaign.jobs.is_dir() else []


def _controller_runs(submission: dict[str, Any]) -> bool:
    if submission.get("host") != os.uname().nodename or submission.get("executor") != "local":
        return False
    started = process_started_ticks(int(submission["job_id"]))
    return started >= 0 and started == submission.get("started_ticks")


def cancel(campaign: Campaign, *, patience_s: float = 30.0) -> list[str]:
    """Asks the campaign's live jobs on this host to stop, and waits for it. The ids of those that ran."""
    ended = []
    for job in live_jobs(campaign):
        if job.host != os.uname().nodename:
            continue
        with suppress(ProcessLookupError):
            os.kill(job.beat.pid if job.beat else int(job.job_id), signal.SIGTERM)
            ended.append(job.job_id)
    deadline = time.monotonic() + patience_s
    while live_jobs(campaign) and time.monotonic() < deadline:
        time.sleep(0.1)
    return ended
