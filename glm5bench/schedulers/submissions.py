"""submissions.jsonl: what was asked of the executor, what it accepted, refused, and what was cancelled, read as one list of jobs.

A line `asked` is on disk before anything is asked for, one `accepted` or `refused` after the answer; a name without an answer is a
command that was killed in between, and is looked up before anything is asked for again.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..directory import Campaign
from ..errors import FileError


@dataclass(frozen=True)
class Sent:
    """One job that was asked for. `job_id` is empty while nobody knows that it was accepted; `requests` are paths, by lane."""

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


def read_sent(campaign: Campaign) -> list[Sent]:
    """Every job that was asked for, in that order."""
    asked: dict[str, list[Sent]] = {}
    cancelled: set[str] = set()
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
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise FileError(
                f"A line of submissions.jsonl cannot be understood ({type(error).__name__}: {error}).",
                path=str(campaign.submissions),
                next_step="mend or remove that line; jobs that it named are then found by their heartbeats",
            ) from error
    return [replace(s, is_cancelled=s.job_id in cancelled) for group in asked.values() for s in group]


def _asked(line: dict[str, Any]) -> list[Sent]:
    same = (str(line["name"]), str(line["executor"]), str(line["host"]), str(line["user"]))
    return [
        Sent(*same, tuple(tuple(lane) for lane in job["requests"]), tuple(job["keys"]), float(job["limit_s"]), float(line["utc_s"]))
        for job in line["jobs"]
    ]


def _accepted(sent: Sequence[Sent], line: dict[str, Any]) -> list[Sent]:
    at, ticks = float(line["utc_s"]), int(line.get("started_ticks", -1))
    ids = zip(sent, line["job_ids"], strict=True)
    if any(s.executor == "local" and not str(job_id).isdigit() for s, job_id in zip(sent, line["job_ids"], strict=True)):
        raise ValueError("a local job's id is the number of its process")
    return [replace(s, job_id=str(job_id), accepted_utc_s=at, started_ticks=ticks, refused="") for s, job_id in ids]


def user() -> str:
    """Whose jobs this process sends, as Slurm sees it: $LOGNAME is only somebody's word."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
