"""The function that submitit runs on the node: importable, with plain strings as arguments.

The pickle stores only the name of the function, so the installed package runs. Everything else comes from JSON files.
Slurm may kill and requeue the job at any time. A new run checks which points are done and measures the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import secrets
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from submitit import JobEnvironment

from ..directory import Campaign, lane_ids
from ..errors import BenchError, EnvironmentLacks
from ..files import write_json
from ..machine.lane import keep_to
from ..node.attempt import Trace, record_failure
from ..node.command import Stopped
from ..node.crew import Crew, NodeGone, gathered, say_over
from ..node.hands import has_several
from ..node.heartbeat import Heartbeat, node_name, read_beat
from ..node.job import run
from ..node.member import follow
from ..node.progress import Progress, catch_signals
from ..plan import without
from ..trust import refuse_group_writes, trusted
from ..values.plain import from_json
from ..values.point import NodeJob
from .known import schedulers
from .request import End, Request, read_end
from .retries import is_tried_again_here
from .scheduler import Scheduler

POLL_S = 0.2
LOCK_VARIABLE = "GLM5BENCH_LOCK_DIR"


def run_requests(root: str, lanes: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Runs the node jobs of this lane's request files one after another. Returns the keys measured, failed and left. Never raises.

    `lanes`: the request files of each task of this job. A job without packing has one task.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one connection per user, here and in the server: often more than 1,024
    refuse_group_writes()
    trusted(Path(root))  # raises, so that the job fails before it reads anything else
    campaign, progress, environment = Campaign(Path(root)), Progress(), JobEnvironment()
    catch_signals(progress)
    rank = environment.global_rank
    lane = rank if len(lanes) > 1 else 0  # a job of one lane has one task on each of its nodes
    job_id = lane_ids(environment.job_id, len(lanes))[lane]
    requests = [from_json(Request, Path(request).read_bytes()) for request in lanes[lane]]
    keys = [p.key for r in requests for p in r.job.points]
    scheduler = schedulers()[environment.cluster]
    if rank > 0 and len(lanes) == 1:
        return _follow(campaign, requests, job_id, rank, progress, scheduler)
    progress.deadline_utc_s = _deadline(campaign, job_id, requests[0], scheduler)
    name = scheduler.job_name()
    if scheduler.comes_again:  # a local job's id is a process id, which the system reuses
        record_an_earlier_run(campaign, requests, job_id, name)
    campaign.ended(job_id).unlink(missing_ok=True)  # the end record of an earlier run, if the job was requeued
    if requests[0].job.lanes > 1:
        keep_to(lane, requests[0].job)
    with Heartbeat(campaign.heartbeat(job_id), keys, name) as heart, this_machine(scheduler, heart, progress):
        heart.beat.said = requests[0].mismatch()
        if heart.beat.said:
            print(heart.beat.said, flush=True)
        for request in requests:
            run_request(campaign, request, job_id, heart, progress, scheduler)
    _say_the_end(campaign, job_id, progress, name)
    if scheduler.comes_again and progress.left and progress.why == "SIGUSR2":
        print(f"preempted: {scheduler.run_again(environment.raw_job_id) or 'requeued'}", flush=True)
    elif scheduler.has_nodes and requests[0].retries and not progress.why.startswith("SIG") and (progress.failed or progress.left):
        _send_elsewhere(campaign, job_id)
    return {"measured": progress.measured, "failed": progress.failed, "left": progress.left}


def _follow(
    campaign: Campaign, requests: Sequence[Request], job_id: str, rank: int, progress: Progress, scheduler: Scheduler
) -> dict[str, list[str]]:
    """Serves the first node of the job, which writes all results."""
    with Heartbeat(campaign.heartbeat(f"{job_id}.{rank}"), [], scheduler.job_name()) as heart:
        for request in requests:
            follow(campaign, request.job, job_id, rank, heart, progress, scheduler.run_number())
    return {"measured": [], "failed": [], "left": []}


@contextlib.contextmanager
def _crew(
    campaign: Campaign, job: NodeJob, job_id: str, heart: Heartbeat, progress: Progress, scheduler: Scheduler | None
) -> Iterator[Crew]:
    """The nodes of the job. Without a scheduler of nodes, threads of this process play the other nodes: simulated servers need no GPUs."""
    if scheduler is not None and scheduler.has_nodes:
        with gathered(campaign, job, job_id, scheduler.job_nodes(), heart, progress) as crew:
            yield crew
        return
    here, run = replace(job, interface="lo"), secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        members = []
        for rank in range(1, job.arm.nodes):
            other = stack.enter_context(Heartbeat(campaign.heartbeat(f"{job_id}.{rank}"), [], heart.beat.name))
            members.append(threading.Thread(target=follow, args=(campaign, here, job_id, rank, other, progress, run), daemon=True))
        for member in members:
            member.start()
        with gathered(campaign, here, job_id, (), heart, progress) as crew:
            yield crew
        for member in members:
            member.join()


def run_request(
    campaign: Campaign, request: Request, job_id: str, heart: Heartbeat, progress: Progress, scheduler: Scheduler | None = None
) -> None:
    """Runs one node job. Points that fail are retried on this node as often as the campaign's retries and the policy allow."""
    retried: Counter[str] = Counter()

    def is_retried(key: str) -> bool:
        may = retried[key] < request.retries and is_tried_again_here(campaign, request.failure, key)
        retried[key] += may
        return may

    try:
        spent = spent_points(campaign, request, job_id)
        progress.left += sorted(spent)
        progress.fault = "lost" if spent else progress.fault
        job = without(request.job, spent)
        if job is not None and has_several(job.arm):
            with _crew(campaign, job, job_id, heart, progress, scheduler) as crew:
                run(campaign, job, job_id, heart, progress, is_retried, crew)
        elif job is not None:
            run(campaign, job, job_id, heart, progress, is_retried)
    except Stopped:
        progress.stopped("stopped")
        progress.left += [p.key for p in request.job.points if p.key not in progress.measured]
    except NodeGone as error:  # the nodes never came together
        print(error, file=sys.stderr, flush=True)
        done = campaign.done(p.key for p in request.job.points)
        keys = [p.key for p in request.job.points if p.key not in done]
        for key in keys[:1]:
            record_failure(campaign, Trace(job_id, request.job.id, error.node or node_name()), key, error.failure_class, str(error))
        progress.left += keys
        progress.fault = error.failure_class
        progress.stop = True
    except BenchError as error:  # nothing can be written, or a record is damaged: the job's log has the reason
        print(error, file=sys.stderr, flush=True)
        progress.fault = "lost"
        progress.left += [p.key for p in request.job.points if p.key not in progress.measured]
        progress.stop = True
    finally:
        if scheduler is not None and request.job.arm.nodes > 1:
            say_over(campaign, job_id, request.job, scheduler.run_number())


def spent_points(campaign: Campaign, request: Request, job_id: str) -> set[str]:
    """The points that reached the limit of attempts because Slurm requeued this job."""
    attempts = campaign.attempts(p.key for p in request.job.points)
    return {
        key
        for key, tried in attempts.items()
        if sum(a.failure_class == "lost" and a.job_id == job_id for a in tried) >= request.failure.limit
    }


def record_an_earlier_run(campaign: Campaign, requests: Sequence[Request], job_id: str, name: str = "") -> None:
    """Records a failed attempt if an earlier run of this job died without an end record and Slurm requeued the job.

    The attempt belongs to the point that the run was measuring. Without it, a point that crashes its node would be retried for ever.
    """
    beat = read_beat(campaign.heartbeat(job_id))
    if beat is None or beat.phase == "done" or read_end(campaign, job_id) is not None or beat.name not in ("", name):
        return  # nothing died, or the folder is of an earlier job with the same id
    points = [(r.job, p.key) for r in requests for p in r.job.points if beat.key == p.key or (not beat.key and beat.node_job == r.job.id)]
    done = campaign.done(key for _, key in points)
    job, key = next(((job, key) for job, key in points if key not in done), (None, ""))  # while loading, it is the first point left
    if job is None:
        return
    message = f"job {job_id} died at this point on {beat.node} without an end record; Slurm has requeued it"
    with contextlib.suppress(EnvironmentLacks):
        record_failure(campaign, Trace(job_id, job.id, beat.node), key, "lost", message)


def _send_elsewhere(campaign: Campaign, job_id: str) -> None:
    """Resubmits points of this job that need another node or more time. This works only if the site allows nodes to submit jobs."""
    command = [sys.executable, "-m", "glm5bench", "resubmit", str(campaign.root), "--after", job_id]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        print(f"retries: {done.stdout.strip()}", flush=True)
    else:
        print(f"retries: not all were sent from this node; run `glm5bench resubmit {shlex.quote(str(campaign.root))}`", flush=True)


def _deadline(campaign: Campaign, job_id: str, request: Request, scheduler: Scheduler) -> float:
    """When this job must stop measuring, UTC seconds. Based on the scheduler's end time, or on the start of the batch script."""
    told = scheduler.end_utc_s()
    if told is not None:
        return told - request.stop_before_s
    if not request.limit_s:
        return float("inf")
    _, began = campaign.started(job_id.partition(".")[0])
    return (began or time.time()) + request.limit_s - request.stop_before_s


def _say_the_end(campaign: Campaign, job_id: str, progress: Progress, name: str) -> None:
    left = tuple(dict.fromkeys(progress.left))
    why = progress.last_word if left else "complete"
    end = End(why, tuple(progress.measured), tuple(progress.failed), left, node_name(), time.time(), name)
    print(f"{why}: {len(end.measured)} points measured, {len(end.failed)} failed, {len(left)} left", flush=True)
    with contextlib.suppress(EnvironmentLacks):  # the points are written, or their failure was already reported
        write_json(campaign.ended(job_id), asdict(end))


def lock_folder() -> Path:
    """A folder that only this user can write and that is the same for all campaigns on this machine. Raises OSError if there is none.

    Not TMPDIR, and not /tmp itself: another user could create the file there first.
    """
    named = os.environ.get(LOCK_VARIABLE)
    if named:
        return Path(named)
    for folder in (Path(f"/run/user/{os.getuid()}"), Path(f"/tmp/glm5bench-{os.getuid()}"), Path.home() / ".cache" / "glm5bench"):  # noqa: S108
        with contextlib.suppress(OSError):
            if folder.parent != Path("/run/user"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            seen = os.lstat(folder)
            if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o022:
                return folder
    raise OSError("no folder for the lock belongs to this user only")


@contextlib.contextmanager
def this_machine(scheduler: Scheduler, heart: Heartbeat, progress: Progress) -> Iterator[None]:
    """Holds the machine lock. A user's local node jobs wait for each other in all campaigns: two at once would disturb each other."""
    if scheduler.has_own_machine:
        yield
        return
    try:
        path = lock_folder() / f"glm5bench-{os.getuid()}-{os.uname().nodename}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        print(f"cannot wait for other local campaigns of this user: {error.strerror or error}", flush=True)
        progress.is_unlocked = True
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
