"""One command at a time acts on a campaign, and only on one that is where its jobs write."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..directory import Campaign
from ..errors import UsageError
from ..files import writable
from .jobs import Job


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


def refuse_a_copy(campaign: Campaign, live: Sequence[Job]) -> None:
    """Raises UsageError where live jobs write elsewhere: this directory was moved, or copied, while they ran."""
    homes = {str(Path(job.sent.requests[0][0]).parents[1]) for job in live if job.sent is not None and job.sent.requests[0]}
    elsewhere = homes - {str(campaign.root)}
    if elsewhere:
        raise UsageError(
            f"The jobs of this campaign write to {min(elsewhere)}, and this is {campaign.root}: it was moved or copied while they ran.",
            next_step="name that directory, or wait until they are over",
        )
