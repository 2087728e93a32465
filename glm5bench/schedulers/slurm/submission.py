"""Sends node jobs to Slurm. A submission is on disk before it is sent, and its ids are on disk immediately after it is accepted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from ...directory import Campaign
from ...errors import EnvironmentLacks, UsageError
from ...values.cluster import Cluster
from ..entry import run_requests
from ..records import accept, ask, write_requests
from ..request import Request
from ..scheduler import How, Order, Outcome
from ..submissions import Sent, read_sent
from . import commands as slurm
from .batch import Batch, batch_name, batches, parameters

LOOKS = 4  # queries for a submission that sbatch did not answer
LOOK_S = 2.0
NO_ANSWER = ("timed out", "unable to contact", "zero bytes", "socket", "connection refused", "connect failure", "unexpected message")


def submit(campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
    """Sends the orders as arrays. Raises EnvironmentLacks if Slurm is missing on this machine or does not answer."""
    if not slurm.is_there():
        raise EnvironmentLacks(
            "Slurm's commands (sbatch, srun, squeue, scontrol, scancel) are not on PATH.",
            where=f"{os.uname().nodename}, cluster {how.cluster.id}",
            next_step="run the command on a login node; `glm5bench plan` with the same overrides writes the scripts on any machine",
        )
    settle(campaign)
    config = slurm.config()
    if config is None:
        raise EnvironmentLacks("Slurm's controller does not answer (scontrol show config).", next_step="run the command again later")
    room = _number(config.get("MaxJobCount"), 10_000)
    if "%" in str(campaign.root):
        raise UsageError(
            f"The path contains %, which Slurm replaces in file names: {campaign.root}.", next_step="set output_dir=... without %"
        )
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
    """The arrays of these orders within Slurm's limits, each with a new job name. `config`: Slurm's configuration, or empty."""
    most = slurm.partition_limits_min({h: cluster.resources(h).partition for h in {o.job.arm.hardware.id for o in orders}})
    made = batches(orders, cluster, max_array_size=_number(config.get("MaxArraySize"), 1001), partition_max_min=most)
    nth = len({s.name for s in read_sent(campaign)})
    return [(batch_name(campaign, batch, nth + i), batch) for i, batch in enumerate(made)]


def _refuse_nowhere(campaign: Campaign, batch: Batch, how: How) -> None:
    """Raises _Refused if every node of the partition is excluded."""
    known = slurm.nodes(how.cluster.resources(batch.hardware).partition) if batch.exclude else None
    if known and set(known) <= set(batch.exclude):
        raise _Refused(
            f"{batch.hardware}, {len(batch.members)} jobs: all {len(known)} nodes of its partition are excluded"
            f' ({", ".join(sorted(known))}). If they are repaired, empty "nodes" in {campaign.nodes} and run the sweep again'
        )


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdigit() and int(text) > 0 else otherwise


class _Refused(Exception):
    """An array was refused, by Slurm or because all its nodes are excluded."""


def _send(campaign: Campaign, batch: Batch, how: How, name: str) -> list[str]:
    """Sends one array and returns Slurm's ids of its members, in order."""
    limit_s = batch.time_min * 60.0
    stamp = time.time_ns()
    members = []
    for member in batch.members:
        requests = [Request(job, how.failure, how.retries, limit_s, how.cluster.stop_before_s) for job in member]
        members.append([[path] for path in write_requests(campaign, requests, stamp)])
    keys = [[p.key for job in member for p in job.points] for member in batch.members]
    ask(campaign, name, "slurm", [(lanes, k, limit_s) for lanes, k in zip(members, keys, strict=True)])
    for attempt in (1, 2):
        try:
            ids = _sbatch(campaign, batch, how, name, members)
            accept(campaign, name, ids)
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
    """Removes Slurm's variables from the environment: sbatch reads options from it and passes all of it to the job."""
    saved = dict(os.environ)
    for name in set(saved) - set(slurm.clean(saved)):
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def _last_line(text: str) -> str:
    """The first error line of sbatch, without the lines of submitit and the shell around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("sbatch:") and not line.startswith("sbatch: Try") and "--help" not in line]
    return (own or lines or ["no word"])[0 if own else -1]


def settle(campaign: Campaign) -> None:
    """Checks by name every array that was sent and never confirmed. It is adopted, or recorded as never accepted.

    Raises EnvironmentLacks if Slurm does not answer: sending again could create duplicate jobs.
    """
    open_names: dict[str, list[Sent]] = {}
    for sent in read_sent(campaign):
        if sent.executor == "slurm" and not sent.job_id and not sent.refused:
            open_names.setdefault(sent.name, []).append(sent)
    for name, members in open_names.items():
        if not _found(campaign, name, members):
            campaign.append_submission({"kind": "refused", "name": name, "message": "never accepted by Slurm", "utc_s": time.time()})


def _found(campaign: Campaign, name: str, members: Sequence[Sent]) -> list[str]:
    """The ids of the array with this name in Slurm, which is adopted. If there are several, the later ones are cancelled."""
    masters: list[str] = []
    for look in range(LOOKS):
        found = slurm.find(name, members[0].user)
        if found is None and look == LOOKS - 1:
            raise EnvironmentLacks(
                f"Slurm did not answer a submission, and squeue does not show whether it was accepted ({name}).",
                next_step="run the command again later: it checks the name first and never sends twice",
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
    """Writes the missing job files of an array that Slurm accepted without an answer, and records its ids.

    The tasks of the array wait a minute for these files.
    """
    ids = [f"{master}_{i}" for i in range(len(members))] if len(members) > 1 else [master]
    for job_id, sent in zip(ids, members, strict=True):
        pickle = Path(JobPaths(folder=campaign.submitit, job_id=job_id, task_id=0).submitted_pickle)
        if not pickle.exists():
            delayed = DelayedSubmission(run_requests, str(campaign.root), [list(lane) for lane in sent.requests])
            delayed.set_timeout(max(1, int(sent.limit_s / 60)), 0)
            beside = pickle.with_name(f".{pickle.name}.{os.getpid()}")
            delayed.dump(beside)
            beside.rename(pickle)
    accept(campaign, name, ids)
    return ids
