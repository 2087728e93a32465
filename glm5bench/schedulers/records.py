"""Writes the records of a submission, before it is sent and after it is accepted, and the request files that its jobs read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..directory import Campaign
from ..files import write_json
from ..values.plain import digest_of, plain
from .request import Request
from .submissions import user


def write_requests(campaign: Campaign, requests: Sequence[Request], stamp: int | None = None) -> list[str]:
    """Writes the request files of these jobs and returns their paths."""
    paths = []
    for request in requests:
        first = digest_of([p.key for p in request.job.points], 6)  # arms that differ only in a rehearsed fault have the same name
        path = campaign.jobs / f"{request.job.id}.{first}.{stamp or time.time_ns()}.json"
        write_json(path, plain(request), is_synced=False)
        paths.append(str(path))
    return paths


def ask(campaign: Campaign, name: str, executor: str, jobs: Sequence[tuple[Any, Sequence[str], float]], cluster: str = "") -> None:
    """Records the jobs of this submission before they are sent. `jobs`: request files by lane, keys, time limit in seconds."""
    campaign.append_submission(
        {
            "kind": "asked",
            "name": name,
            "executor": executor,
            "cluster": cluster,
            "host": os.uname().nodename,
            "user": user(),
            "jobs": [{"requests": requests, "keys": list(keys), "limit_s": limit_s} for requests, keys, limit_s in jobs],
            "utc_s": time.time(),
            "glm5bench": __version__,
        }
    )


def accept(campaign: Campaign, name: str, job_ids: Sequence[str], **more: Any) -> None:
    """Records the job ids of an accepted submission."""
    campaign.append_submission({"kind": "accepted", "name": name, "job_ids": list(job_ids), "utc_s": time.time(), **more})
