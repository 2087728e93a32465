"""What submitit runs on the node: an importable function of plain strings.

A pickle holds today's code only by name, so that what runs is the installed package; everything else comes from JSON files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from submitit import JobEnvironment

from ..errors import BenchError
from ..node.heartbeat import Heartbeat
from ..node.job import Progress, catch_signals, run
from ..point import NodeJob, from_json
from ..store.campaign import Campaign

POLL_S = 0.2
LOCK_VARIABLE = "GLM5BENCH_LOCK_DIR"


def run_requests(root: str, requests: Sequence[str]) -> dict[str, list[str]]:
    """Runs the node jobs of these request files one after another: keys measured, failed and left. Never raises."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection a user, here and in the server: often more than 1,024
    campaign, progress = Campaign(Path(root)), Progress()
    catch_signals(progress)
    job_id = JobEnvironment().job_id
    jobs = [from_json(NodeJob, Path(request).read_bytes()) for request in requests]
    keys = [p.key for job in jobs for p in job.points]
    with Heartbeat(campaign.heartbeat(job_id), keys) as heart, _this_machine(heart, progress):
        for job in jobs:
            try:
                run(campaign, job, job_id, heart, progress)
            except BenchError as error:  # nothing can be written, or a record is damaged: the log of the job holds why
                print(error, file=sys.stderr, flush=True)
                progress.left += [p.key for p in job.points]
                break
    return {"measured": progress.measured, "failed": progress.failed, "left": progress.left}


@contextlib.contextmanager
def _this_machine(heart: Heartbeat, progress: Progress) -> Iterator[None]:
    """Local node jobs of one user wait for each other, over all campaigns: two at once would measure each other."""
    path = Path(os.environ.get(LOCK_VARIABLE, "/tmp")) / f"glm5bench-{os.getuid()}.lock"  # noqa: S108  no TMPDIR: one place a machine
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        print(f"{path}: {error.strerror}: other local campaigns of this user are not waited for", flush=True)
        yield
        return
    try:
        while not progress.stop:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if heart.beat.phase != "queued":
                    heart.phase("queued")
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)
