"""Node jobs -> submitit: what is asked for is on disk before it is asked, and what was accepted is on disk before anything else.

Enters: a campaign and orders. Leaves: jobs that run without this process. This machine is one node, so that all node jobs of a local
campaign are one submitit job, which runs them one after another; on Slurm each is a job of its own, in arrays of equal resources.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from .. import __version__
from ..directory import Campaign
from ..errors import EnvironmentLacks, UsageError
from ..files import writable, write_json
from ..node.heartbeat import process_started_ticks
from ..values.cluster import Cluster, Failure
from ..values.plain import digest_of, plain
from ..values.point import NodeJob
from . import slurm
from .batch import Batch, Order, batch_name, batches, parameters
from .entry import run_requests
from .jobs import Job, live_jobs, user
from .request import Request
from .submissions import Sent, read_sent

LOCAL_LIMIT_MIN = 14 * 24 * 60
LOOKS = 4  # for a name that sbatch gave no answer for
LOOK_S = 2.0
NO_ANSWER = ("timed out", "unable to contact", "zero bytes", "socket", "connection refused", "connect failure", "unexpected message")


@dataclass(frozen=True)
class How:
    """The rules that a campaign's jobs are sent by."""

    cluster: Cluster
    failure: Failure
    retries: int


@dataclass(frozen=True)
class Outcome:
    """What became of a submission: ids, what was refused with Slurm's words, and how many node jobs wait for room."""

    job_ids: tuple[str, ...]
    n_points: int
    refused: tuple[str, ...] = ()
    n_waiting: int = 0


@contextmanager
def submitting(campaign: Campaign) -> Iterator[None]:
    """One command at a time sends the jobs of a campaign. The lock is the kernel's: a killed command leaves none."""
    path = campaign.root / ".submitting"
    with writable(path):
        campaign.root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            print(f"{path}: {error.strerror}: no locks here, one command at a time sends jobs of this campaign", file=sys.stderr)
        yield


def submit(campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
    """Sends the orders. With the debug executor they have run when this returns.

    Raises EnvironmentLacks where the cluster is Slurm and there is none here, or none that answers.
    """
    if how.cluster.executor == "slurm":
        return _submit_slurm(campaign, orders, how)
    jobs = [order.job for order in orders]
    return Outcome((_submit_local(campaign, jobs, how),), sum(len(job.points) for job in jobs))


def _submit_local(campaign: Campaign, jobs: Sequence[NodeJob], how: How) -> str:
    executor = how.cluster.executor
    paths = _write_requests(campaign, [Request(job, how.failure, how.retries) for job in jobs])
    name = f"{campaign.root.name}-{time.time_ns()}"
    _ask(campaign, name, executor, [([paths], [p.key for job in jobs for p in job.points], 0.0)])
    runner = submitit.AutoExecutor(folder=campaign.submitit, cluster=executor)
    runner.update_parameters(timeout_min=LOCAL_LIMIT_MIN, name="glm5bench")
    with _detached():
        job = runner.submit(run_requests, str(campaign.root), [paths])
    ticks = process_started_ticks(int(job.job_id)) if executor == "local" else -1
    _accept(campaign, name, [str(job.job_id)], started_ticks=ticks)
    if executor == "debug":
        job.result()
    return str(job.job_id)


def _submit_slurm(campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
    if not slurm.is_there():
        raise EnvironmentLacks(
            "Slurm's commands (sbatch, srun, squeue, scontrol, scancel) are not on PATH.",
            where=f"{os.uname().nodename}, cluster {how.cluster.id}",
            next_step="type the same command on a login node, `glm5bench plan` with the same overrides writes the scripts anywhere",
        )
    settle(campaign)
    config = slurm.config()
    if config is None:
        raise EnvironmentLacks("Slurm's controller does not answer (scontrol show config).", next_step="type the same command again later")
    room = _number(config.get("MaxJobCount"), 10_000)
    if "%" in str(campaign.root):
        raise UsageError(f"Slurm gives % a meaning in the names of files: {campaign.root}.", next_step="output_dir=... without it")
    ids: list[str] = []
    refused: list[str] = []
    n_waiting, n_points = 0, 0
    for name, batch in named_batches(campaign, orders, how.cluster, config):
        room -= len(batch.members)
        if room < 0:
            n_waiting += len(batch.jobs)
            continue
        try:
            _refuse_nowhere(campaign, batch, how)
            ids += _send(campaign, batch, how, name)
            n_points += sum(len(job.points) for job in batch.jobs)
        except _Refused as error:
            refused.append(str(error))
    return Outcome(tuple(ids), n_points, tuple(refused), n_waiting)


def named_batches(campaign: Campaign, orders: Sequence[Order], cluster: Cluster, config: Mapping[str, str]) -> list[tuple[str, Batch]]:
    """The arrays of these orders within Slurm's limits, each with a job name that is the next submission's. `config`: Slurm's, or empty."""
    most = slurm.partition_limits_min({h: cluster.resources(h).partition for h in {o.job.arm.hardware.id for o in orders}})
    made = batches(orders, cluster, max_array_size=_number(config.get("MaxArraySize"), 1001), partition_max_min=most)
    nth = len({s.name for s in read_sent(campaign)})
    return [(batch_name(campaign, batch, nth + i), batch) for i, batch in enumerate(made)]


def _refuse_nowhere(campaign: Campaign, batch: Batch, how: How) -> None:
    """Raises _Refused where every node of the partition is one to stay away from."""
    known = slurm.nodes(how.cluster.resources(batch.hardware).partition) if batch.exclude else None
    if known and set(known) <= set(batch.exclude):
        raise _Refused(
            f"{batch.hardware}, {len(batch.members)} jobs: all {len(known)} nodes of its partition are to be stayed away from"
            f' ({", ".join(sorted(known))}). If they are well again, empty "nodes" in {campaign.nodes}, and type the sweep again'
        )


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdigit() and int(text) > 0 else otherwise


class _Refused(Exception):
    """Slurm's words."""


def _send(campaign: Campaign, batch: Batch, how: How, name: str) -> list[str]:
    """Sends one array. Slurm's ids of its members, in order."""
    limit_s = batch.time_min * 60.0
    stamp = time.time_ns()
    members = []
    for member in batch.members:
        requests = [Request(job, how.failure, how.retries, limit_s, how.cluster.stop_before_s) for job in member]
        members.append([[path] for path in _write_requests(campaign, requests, stamp)])
    keys = [[p.key for job in member for p in job.points] for member in batch.members]
    _ask(campaign, name, "slurm", [(lanes, k, limit_s) for lanes, k in zip(members, keys, strict=True)])
    for attempt in (1, 2):
        try:
            ids = _sbatch(campaign, batch, how, name, members)
            _accept(campaign, name, ids)
            return ids
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            said = _last_line(str(error))
            if any(sign in str(error).lower() for sign in NO_ANSWER):
                ids = _found(campaign, name, [s for s in read_sent(campaign) if s.name == name])
                if ids:
                    return ids
                if attempt == 1:
                    continue
            campaign.append_submission({"kind": "refused", "name": name, "message": said, "utc_s": time.time()})
            raise _Refused(f"{batch.hardware}, {len(batch.members)} jobs: {said}") from error
    raise AssertionError("unreachable")


def _sbatch(campaign: Campaign, batch: Batch, how: How, name: str, members: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    executor = submitit.SlurmExecutor(folder=campaign.submitit)
    executor.update_parameters(**parameters(batch, how.cluster, campaign, name))
    with clean_environment():
        jobs = executor.map_array(run_requests, [str(campaign.root)] * len(members), members)
    return [str(job.job_id) for job in jobs]


@contextmanager
def clean_environment() -> Iterator[None]:
    """Sbatch takes options from the environment, and hands all of it to the job."""
    saved = dict(os.environ)
    for name in set(saved) - set(slurm.clean(saved)):
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def _last_line(text: str) -> str:
    """What sbatch complains of first, among what submitit and the shell say around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("sbatch:") and not line.startswith("sbatch: Try") and "--help" not in line]
    return (own or lines or ["no word"])[0 if own else -1]


def settle(campaign: Campaign) -> None:
    """Finds out what became of every array that was asked for and never confirmed, by its name: adopted, or never accepted.

    Raises EnvironmentLacks where Slurm does not answer: asking again could double the jobs.
    """
    open_names: dict[str, list[Sent]] = {}
    for sent in read_sent(campaign):
        if sent.executor == "slurm" and not sent.job_id and not sent.refused:
            open_names.setdefault(sent.name, []).append(sent)
    for name, members in open_names.items():
        if not _found(campaign, name, members):
            campaign.append_submission({"kind": "refused", "name": name, "message": "never accepted by Slurm", "utc_s": time.time()})


def _found(campaign: Campaign, name: str, members: Sequence[Sent]) -> list[str]:
    """The ids of an array of this name that Slurm has, which is adopted; of several, the later ones are cancelled."""
    masters: list[str] = []
    for look in range(LOOKS):
        found = slurm.find(name, members[0].user)
        if found is None and look == LOOKS - 1:
            raise EnvironmentLacks(
                f"Slurm gave no answer to a submission, and gives none to the question whether it was accepted ({name}).",
                next_step="type the same command again later: it asks for the name first, and never sends twice",
            )
        masters = found or []
        if masters:
            break
        time.sleep(LOOK_S)
    since = datetime.fromtimestamp(members[0].asked_utc_s - 60, timezone.utc).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    masters = sorted(masters or slurm.find_ended(name, members[0].user, since), key=int)
    if not masters:
        return []
    slurm.cancel(masters[1:])
    return _adopted(campaign, masters[0], name, members)


def _adopted(campaign: Campaign, master: str, name: str, members: Sequence[Sent]) -> list[str]:
    """An array that Slurm accepted and nobody heard of gets what it is to run, and is written down. Its tasks wait a minute for it."""
    ids = [f"{master}_{i}" for i in range(len(members))] if len(members) > 1 else [master]
    for job_id, sent in zip(ids, members, strict=True):
        pickle = Path(JobPaths(folder=campaign.submitit, job_id=job_id, task_id=0).submitted_pickle)
        if not pickle.exists():
            delayed = DelayedSubmission(run_requests, str(campaign.root), [list(lane) for lane in sent.requests])
            delayed.set_timeout(max(1, int(sent.limit_s / 60)), 0)
            beside = pickle.with_name(f".{pickle.name}.{os.getpid()}")
            delayed.dump(beside)
            beside.rename(pickle)
    _accept(campaign, name, ids)
    return ids


def _write_requests(campaign: Campaign, requests: Sequence[Request], stamp: int | None = None) -> list[str]:
    paths = []
    for request in requests:
        first = digest_of([p.key for p in request.job.points], 6)  # arms that differ in a rehearsed fault only share a name
        path = campaign.jobs / f"{request.job.id}.{first}.{stamp or time.time_ns()}.json"
        write_json(path, plain(request), is_synced=False)
        paths.append(str(path))
    return paths


def _ask(campaign: Campaign, name: str, executor: str, jobs: Sequence[tuple[Any, Sequence[str], float]]) -> None:
    campaign.append_submission(
        {
            "kind": "asked",
            "name": name,
            "executor": executor,
            "host": os.uname().nodename,
            "user": user(),
            "jobs": [{"requests": requests, "keys": list(keys), "limit_s": limit_s} for requests, keys, limit_s in jobs],
            "utc_s": time.time(),
            "glm5bench": __version__,
        }
    )


def _accept(campaign: Campaign, name: str, job_ids: Sequence[str], **more: Any) -> None:
    campaign.append_submission({"kind": "accepted", "name": name, "job_ids": list(job_ids), "utc_s": time.time(), **more})


@contextmanager
def _detached() -> Iterator[None]:
    """Ctrl-C and a closing terminal reach this command, not the jobs: ignored signals stay ignored in what is started now.

    Nor does it keep this command's output open: a `sweep | tee` would not end before the job does.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGHUP)}
    kept = {fd: os.dup(fd) for fd in (0, 1, 2) if _is_open(fd)}
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for fd in kept:
            os.dup2(nowhere, fd)
        yield
    finally:
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)
        for s, handler in saved.items():
            signal.signal(s, handler)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def refuse_a_copy(campaign: Campaign, live: Sequence[Job]) -> None:
    """Raises UsageError where live jobs write elsewhere: this directory was moved, or copied, while they ran."""
    homes = {str(Path(job.sent.requests[0][0]).parents[1]) for job in live if job.sent is not None and job.sent.requests[0]}
    elsewhere = homes - {str(campaign.root)}
    if elsewhere:
        raise UsageError(
            f"The jobs of this campaign write to {min(elsewhere)}, and this is {campaign.root}: it was moved or copied while they ran.",
            next_step="name that directory, or wait until they are over",
        )


def cancel(campaign: Campaign, *, poll_s: float, patience_s: float = 60.0) -> tuple[list[str], list[str], str]:
    """Asks the campaign's live jobs to end, by id, and waits: the ids that are gone, those that are not, and Slurm's complaint."""
    with submitting(campaign):
        if any(s.executor == "slurm" and not s.job_id and not s.refused for s in read_sent(campaign)):
            settle(campaign)
        live = live_jobs(campaign, poll_s=0)
        refuse_a_copy(campaign, live)
        in_slurm = [job.job_id for job in live if job.sent is not None and job.sent.executor == "slurm"]
        said = slurm.cancel(in_slurm)
    for job in live:
        if job.job_id not in in_slurm and _host(job) == os.uname().nodename:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(job.beats[0].pid if job.beats else int(job.job_id), signal.SIGTERM)
    still = _waited_for(campaign, live, poll_s if in_slurm else 0.0, patience_s)
    gone = [job.job_id for job in live if job.job_id not in still]
    if in_slurm:
        ended = [i for i in in_slurm if i in gone] if said else in_slurm
        campaign.append_submission({"kind": "cancelled", "job_ids": ended, "utc_s": time.time()})
    return gone, still, said


def _host(job: Job) -> str:
    return job.beats[0].host if job.beats else job.sent.host if job.sent else ""


def _waited_for(campaign: Campaign, asked: Sequence[Job], poll_s: float, patience_s: float) -> list[str]:
    """The ids of those that still live after so long. Slurm is asked no more often than ever."""
    deadline, ids = time.monotonic() + patience_s, {job.job_id for job in asked}
    while True:
        still = [job.job_id for job in live_jobs(campaign, poll_s=poll_s) if job.job_id in ids] if ids else []
        if not still or time.monotonic() > deadline:
            return still
        time.sleep(0.1 if not poll_s else min(1.0, poll_s))
