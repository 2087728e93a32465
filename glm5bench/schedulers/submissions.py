"""submissions.jsonl as a list of jobs: what was sent to the executor, accepted, refused and cancelled.

A line `asked` is on disk before the submission is sent. A line `accepted` or `refused` follows after the answer. If a name has no
answer, the command was killed in between: the name is checked with the scheduler before anything else is sent.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..directory import Campaign
from ..errors import FileError

ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")  # of a job, or of a task of an array; reaches command lines
PID = re.compile(r"[0-9]{1,10}")
OTHER_ID = re.compile(r"[A-Za-z0-9_.]{1,80}")
NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


@dataclass(frozen=True)
class Sent:
    """One job that was sent. `job_id`: empty until the job is known to be accepted. `requests`: paths, by lane."""

    name: str
    executor: str
    host: str
    user: str
    requests: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    limit_s: float
    asked_utc_s: float
    job_id: str = ""
    accepted_utc_s: float = 0.0
    started_ticks: int = -1
    refused: str = ""
    is_cancelled: bool = False
    cluster: str = ""  # Slurm's name of the cluster; empty in records of earlier versions


def read_sent(campaign: Campaign) -> list[Sent]:
    """Every job that was sent, in that order. Raises FileError if a line is damaged."""
    asked: dict[str, list[Sent]] = {}
    cancelled: set[str] = set()
    named: set[tuple[str, str]] = set()  # (job id, name): ids of local jobs are process ids, which the system reuses
    for line in campaign.read_submissions():
        try:
            kind, name = line.get("kind"), str(line.get("name", ""))
            if kind == "asked":
                asked[name] = _asked(line)
            elif kind == "accepted" and name in asked:
                asked[name] = _accepted(asked[name], line)
            elif kind == "refused" and name in asked:
                asked[name] = [replace(s, refused=str(line["message"])) for s in asked[name]]
            elif kind == "cancelled":
                cancelled |= set(line["job_ids"])
                named |= {(str(job_id), str(name)) for job_id, name in line.get("jobs", ())}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise FileError(
                f"A line of submissions.jsonl is not valid ({type(error).__name__}: {error}).",
                path=str(campaign.submissions),
                next_step="correct or remove that line; its jobs are then found by their heartbeats",
            ) from error
    return [replace(s, is_cancelled=s.job_id in cancelled or (s.job_id, s.name) in named) for group in asked.values() for s in group]


def _asked(line: dict[str, Any]) -> list[Sent]:
    same = (str(line["name"]), str(line["executor"]), str(line["host"]), str(line["user"]))
    sent = [
        Sent(*same, tuple(tuple(lane) for lane in job["requests"]), tuple(job["keys"]), float(job["limit_s"]), float(line["utc_s"]))
        for job in line["jobs"]
    ]
    if not NAME.fullmatch(sent[0].name if sent else ""):
        raise ValueError(f"{line['name']!r} is not the name of a job")
    return [replace(s, cluster=str(line.get("cluster", ""))) for s in sent]


def _accepted(sent: Sequence[Sent], line: dict[str, Any]) -> list[Sent]:
    at, ticks = float(line["utc_s"]), int(line.get("started_ticks", -1))
    ids = zip(sent, line["job_ids"], strict=True)
    for s, job_id in zip(sent, line["job_ids"], strict=True):
        pattern = {"slurm": ID, "local": PID}.get(s.executor, OTHER_ID)
        if not pattern.fullmatch(str(job_id)):
            raise ValueError(f"{job_id!r} is not the id of a job")
    return [replace(s, job_id=str(job_id), accepted_utc_s=at, started_ticks=ticks, refused="") for s, job_id in ids]


def user() -> str:
    """The user of this process as Slurm sees it. $LOGNAME is not used, because it can have any value."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
