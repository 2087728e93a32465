"""The request and the end record of one lane of a job, as plain JSON.

A request contains a node job and the rules of its campaign. Both records may be read by another version, so neither is a pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..directory import Campaign
from ..errors import FileError
from ..files import read_json
from ..machine.provenance import git_state
from ..values.cluster import Failure
from ..values.point import NodeJob


@dataclass(frozen=True)
class Request:
    """A node job as it was submitted."""

    job: NodeJob
    failure: Failure
    retries: int = 0
    limit_s: float = 0.0  # of the Slurm job, from its start; 0: none
    stop_before_s: float = 0.0
    glm5bench: str = __version__
    git: str = field(default_factory=git_state)

    def mismatch(self) -> str:
        """How the code that runs now differs from the code that made the plan. Empty if it does not."""
        now, then = (__version__, git_state()), (self.glm5bench, self.git)
        return "" if now == then else f"runs glm5bench {' '.join(now).strip()}, was planned with {' '.join(then).strip()}"


@dataclass(frozen=True)
class End:
    """The end record of a job. `why`: complete, the name of a signal, time_limit, or the class of the fault that ended it."""

    why: str
    measured: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...]
    node: str
    utc_s: float
    name: str = ""  # of the job

    @property
    def is_complete(self) -> bool:
        """Whether the job reached every assigned point."""
        return not self.left


def read_end(campaign: Campaign, job_id: str) -> End | None:
    """The end record of a job, or None if it has written none."""
    try:
        r: Any = read_json(campaign.ended(job_id))
        return End(r["why"], tuple(r["measured"]), tuple(r["failed"]), tuple(r["left"]), r["node"], r["utc_s"], str(r.get("name", "")))
    except (FileError, KeyError, TypeError):
        return None
