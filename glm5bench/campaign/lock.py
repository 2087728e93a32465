"""Only one command at a time changes a campaign, and only in the directory that its jobs write to."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..directory import Campaign
from ..errors import UsageError
from ..files import writable
from ..trust import make_private, trusted
from .jobs import Job


@contextmanager
def submitting(campaign: Campaign) -> Iterator[None]:
    """Holds the lock for sending jobs of a campaign. The kernel releases it when the process ends, even if it is killed."""
    trusted(campaign.root)
    path = campaign.root / ".submitting"
    with writable(path):
        campaign.root.mkdir(parents=True, exist_ok=True)
        make_private(campaign.jobs)  # pickles, requests, keys and logs
        file = path.open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            print(f"{path}: cannot lock ({error.strerror}): run only one command at a time for this campaign", file=sys.stderr)
        yield


def refuse_a_copy(campaign: Campaign, live: Sequence[Job]) -> None:
    """Raises UsageError if live jobs write to another directory: the campaign was moved or copied while they ran."""
    homes = {str(Path(job.sent.requests[0][0]).parents[1]) for job in live if job.sent is not None and job.sent.requests[0]}
    elsewhere = homes - {str(campaign.root)}
    if elsewhere:
        raise UsageError(
            f"The jobs of this campaign write to {min(elsewhere)}, not to {campaign.root}: it was moved or copied while they ran.",
            next_step="use the first directory, or wait until the jobs end",
        )
