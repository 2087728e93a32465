"""Sends node jobs to Slurm. A submission is on disk before it is sent, and its ids are on disk immediately after it is accepted.

Slurm's queue decides what happened to a submission, not sbatch: sites wrap sbatch, and an answer can be lost, misread or wrong. Every
submission has a unique job name, and its ids are those that Slurm lists under that name.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths

from ...directory import Campaign
from ...errors import EnvironmentLacks, UsageError, counted
from ...values.cluster import Cluster
from ..entry import run_requests
from ..records import accept, ask, write_requests
from ..request import Request
from ..scheduler import How, Order, Outcome
from ..submissions import Sent, read_sent, user
from . import commands as slurm
from .batch import Batch, batch_name, batches, parameters
from .look import is_elsewhere, of_another_cluster

LOOKS = 4  # queries for a submission that squeue does not list yet
LOOK_S = 2.0
NO_ANSWER = ("timed out", "unable to contact", "zero bytes", "socket", "connection refused", "connect failure", "unexpected message")
REFUSAL = ("sbatch: error:", "sbatch: fatal:", "sbatch: unrecognized option", "sbatch: invalid option", "sbatch: option ")
LIMITS = ("submitjob", "job submit limit", "invalid job array specification", "maxjobs", "max_array_tasks", "maxarraysize")


def submit(campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
    """Sends the orders as arrays. An array that is larger than a limit of Slurm is divided.

    Raises EnvironmentLacks if Slurm is missing on this machine, does not answer, or is not the cluster of this campaign.
    """
    if not slurm.is_there():
        raise EnvironmentLacks(
            "Slurm's commands (sbatch, srun, squeue, scontrol, scancel) are not on PATH.",
            where=f"{os.uname().nodename}, cluster {how.cluster.id}",
            next_step="run the command on a login node; `glm5bench plan` with the same overrides writes the scripts on any machine",
        )
    config = slurm.config()
    if config is None:
        raise EnvironmentLacks("Slurm's controller does not answer (scontrol show config).", next_step="run the command again later")
    refuse_another_cluster(campaign, config.get("ClusterName", ""))
    settle(campaign)
    if "%" in str(campaign.root):
        raise UsageError(
            f"The path contains %, which Slurm replaces in file names: {campaign.root}.", next_step="set output_dir=... without %"
        )
    return _Submission(campaign, how, config).send(_made(orders, how.cluster, config))


def refuse_another_cluster(campaign: Campaign, here: str) -> None:
    """Raises EnvironmentLacks if the campaign has jobs in another Slurm cluster: ids and job folders of two clusters could coincide."""
    others = sorted({s.cluster for s in read_sent(campaign) if s.executor == "slurm" and is_elsewhere(s, here)})
    if others:
        raise EnvironmentLacks(
            f"{of_another_cluster(others, here)}.",
            where=str(campaign.root),
            next_step="or measure here under another name (name=...), and merge both campaigns",
        )


class _Submission:
    """The arrays of one command on their way to Slurm."""

    def __init__(self, campaign: Campaign, how: How, config: Mapping[str, str]) -> None:
        self.campaign, self.how, self.cluster = campaign, how, config.get("ClusterName", "")
        self.nth = len({s.name for s in read_sent(campaign)})
        self.room, self.limit = _number(config.get("MaxJobCount"), 10_000), "Slurm's MaxJobCount is reached"
        self.ids: list[str] = []
        self.refused: list[str] = []
        self.n_points = self.n_waiting = 0

    def send(self, made: Sequence[Batch]) -> Outcome:
        """Sends what fits. What a limit keeps out is counted, and the limit is named."""
        left = deque(made)
        while left:
            batch = left.popleft()
            most = self.how.cluster.resources(batch.hardware).max_jobs
            room = min(self.room, most - self._n_live() if most else self.room)
            if room < len(batch.members) and room < self.room:
                self.limit = f"cluster.slurm.max_jobs is {most}"
            if room < len(batch.members):
                first, rest = replace(batch, members=batch.members[:room]), replace(batch, members=batch.members[room:])
                self.n_waiting += len(rest.jobs)
                if not first.members:
                    continue
                batch = first
            try:
                _refuse_nowhere(self.campaign, batch, self.how)
                name = batch_name(self.campaign, batch, self.nth)
                self.nth += 1
                self.ids += _send(self.campaign, batch, self.how, name, self.cluster)
                self.n_points += sum(len(job.points) for job in batch.jobs)
                self.room -= len(batch.members)
            except _Limited as error:
                if len(batch.members) > 1:  # the limit's number is not in the answer
                    half = (len(batch.members) + 1) // 2
                    left.extendleft([replace(batch, members=batch.members[half:]), replace(batch, members=batch.members[:half])])
                    continue
                self.limit = str(error)
                self.n_waiting += len(batch.jobs) + sum(len(other.jobs) for other in left)
                break
            except _Refused as error:
                self.refused.append(str(error))
        return Outcome(tuple(self.ids), self.n_points, tuple(self.refused), self.n_waiting, self.limit if self.n_waiting else "")

    def _n_live(self) -> int:
        names = {s.name for s in read_sent(self.campaign)}
        return sum(told.name in names and not told.is_over for told in (slurm.queue([user()]) or {}).values())


def _made(orders: Sequence[Order], cluster: Cluster, config: Mapping[str, str]) -> list[Batch]:
    most = slurm.partition_limits_min({h: cluster.resources(h).partition for h in {o.job.arm.hardware.id for o in orders}})
    return batches(orders, cluster, max_array_size=_number(config.get("MaxArraySize"), 1001), partition_max_min=most)


def named_batches(campaign: Campaign, orders: Sequence[Order], cluster: Cluster, config: Mapping[str, str]) -> list[tuple[str, Batch]]:
    """The arrays of these orders within Slurm's limits, each with a new job name. `config`: Slurm's configuration, or empty."""
    nth = len({s.name for s in read_sent(campaign)})
    return [(batch_name(campaign, batch, nth + i), batch) for i, batch in enumerate(_made(orders, cluster, config))]


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


class _Limited(_Refused):
    """An array was refused because of a limit on the number of jobs."""


def _send(campaign: Campaign, batch: Batch, how: How, name: str, cluster: str) -> list[str]:
    """Sends one array and returns Slurm's ids of its members, in order.

    Raises _Refused if Slurm refused it, EnvironmentLacks if it is unknown whether Slurm accepted it.
    """
    options = parameters(batch, how.cluster, campaign, name)  # raises for options that are refused
    limit_s = batch.time_min * 60.0
    stamp = time.time_ns()
    members = []
    for member in batch.members:
        requests = [Request(job, how.failure, how.retries, limit_s, how.cluster.stop_before_s) for job in member]
        members.append([[path] for path in write_requests(campaign, requests, stamp)])
    keys = [[p.key for job in member for p in job.points] for member in batch.members]
    ask(campaign, name, "slurm", [(lanes, k, limit_s) for lanes, k in zip(members, keys, strict=True)], cluster)
    sent = [s for s in read_sent(campaign) if s.name == name]
    said = _sbatch(campaign, options, members)
    ids = _found(campaign, name, sent, looks=1 if _is_refusal(said) else LOOKS)
    if not ids and any(sign in said.lower() for sign in NO_ANSWER):
        said = _sbatch(campaign, options, members)
        ids = _found(campaign, name, sent, looks=1 if _is_refusal(said) else LOOKS)
    if ids:
        return ids
    if not _is_refusal(said):
        raise EnvironmentLacks(
            f"sbatch gave no answer that can be read ({_last_line(said)}), and Slurm does not list the job {name}.",
            where=str(campaign.root),
            next_step="run the command again: it checks the name first and never sends twice",
        )
    campaign.append_submission({"kind": "refused", "name": name, "message": _last_line(said), "utc_s": time.time()})
    if _is_limit(said):
        raise _Limited(f"Slurm's limit is reached ({_last_line(said).removeprefix('sbatch: error: ')})")
    raise _Refused(f"{batch.hardware}, {counted(len(batch.members), 'job')}: {_last_line(said)}")


def _is_limit(said: str) -> bool:
    """Whether the number of jobs was refused, and not the job. Slurm names the limit, except in its general message."""
    named = re.findall(r"(?:QOS|Assoc)(?:Max|Min|Grp)\w+", said)
    if named:
        return any("SubmitJob" in name for name in named)
    return any(sign in said.lower() for sign in LIMITS)


def _is_refusal(said: str) -> bool:
    """Whether this is Slurm's own refusal, and not only an answer that cannot be read."""
    lines = [line.strip() for line in said.splitlines()]
    return any(line.startswith(REFUSAL) for line in lines) and not any(sign in said.lower() for sign in NO_ANSWER)


def _sbatch(campaign: Campaign, options: Mapping[str, Any], members: Sequence[Sequence[Sequence[str]]]) -> str:
    """Runs sbatch through submitit. Returns its error output, or an empty text. Its answer is not read."""
    executor = submitit.SlurmExecutor(folder=campaign.submitit)
    executor.update_parameters(**options)
    with clean_environment():
        try:
            executor.map_array(run_requests, [str(campaign.root)] * len(members), members)
        except Exception as error:
            return str(error) or type(error).__name__
    return ""


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
    return (own or lines or ["no error message"])[0 if own else -1]


def settle(campaign: Campaign) -> None:
    """Checks by name every array that was sent and never confirmed. It is adopted, or recorded as never accepted.

    Raises EnvironmentLacks if Slurm does not answer: sending again could create duplicate jobs.
    """
    open_names: dict[str, list[Sent]] = {}
    for sent in read_sent(campaign):
        if sent.executor == "slurm" and not sent.job_id and not sent.refused:
            open_names.setdefault(sent.name, []).append(sent)
    if open_names:
        refuse_another_cluster(campaign, slurm.cluster() or "")
    for name, members in open_names.items():
        if not _found(campaign, name, members):
            campaign.append_submission({"kind": "refused", "name": name, "message": "never accepted by Slurm", "utc_s": time.time()})


def _found(campaign: Campaign, name: str, members: Sequence[Sent], looks: int = LOOKS) -> list[str]:
    """The ids of the array with this name in Slurm, which is adopted. If there are several, the later ones are cancelled."""
    masters: list[str] = []
    for look in range(looks):
        found = slurm.find(name, members[0].user)
        for _ in range(LOOKS if found is None and look == looks - 1 else 0):  # no answer is not an empty answer
            time.sleep(LOOK_S)
            found = slurm.find(name, members[0].user)
            if found is not None:
                break
        if found is None and look == looks - 1:
            raise EnvironmentLacks(
                f"Slurm did not answer a submission, and squeue does not show whether it was accepted ({name}).",
                next_step="run the command again later: it checks the name first and never sends twice",
            )
        masters = found or []
        if masters:
            break
        time.sleep(LOOK_S if look < looks - 1 else 0)
    since = datetime.fromtimestamp(members[0].asked_utc_s - 60, timezone.utc).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    masters = sorted(masters or (slurm.find_ended(name, members[0].user, since) if looks > 1 else []), key=int)
    if not masters:
        return []
    slurm.cancel(masters[1:], name)
    return _adopted(campaign, masters[0], name, members)


def _adopted(campaign: Campaign, master: str, name: str, members: Sequence[Sent]) -> list[str]:
    """Records the ids of an array that Slurm accepted, and writes its job files if submitit could not.

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


def cancel(jobs: Sequence[Sent]) -> str:
    """Ends these jobs, if Slurm lists them under their names. Returns error messages, or an empty text.

    Raises EnvironmentLacks if Slurm does not answer, or if the jobs are in another cluster: nobody was asked to end then.
    """
    here = slurm.cluster()
    if here is None:
        raise EnvironmentLacks("Slurm's controller does not answer, so no job was cancelled.", next_step="run the command again later")
    others = sorted({s.cluster for s in jobs if is_elsewhere(s, here)})
    if others:
        raise EnvironmentLacks(f"{of_another_cluster(others, here)}. No job was cancelled.")
    of: dict[str, list[str]] = {}
    for sent in jobs:
        of.setdefault(sent.name, []).append(sent.job_id)
    return "; ".join(f"scancel: {told}" for name, ids in of.items() if (told := slurm.cancel(ids, name)))
