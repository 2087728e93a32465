"""What differs from one scheduler to another, and what holds for one that runs jobs on this machine.

A scheduler is one module of this room with its `SCHEDULERS`, and files in conf/cluster. Nothing outside this room asks which one it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checks.finding import Finding
from ..directory import Campaign
from ..node.heartbeat import Beat
from ..values.cluster import Cluster, Failure
from ..values.point import NodeJob
from .request import End
from .submissions import Sent

State = Literal["queued", "running", "ended", "unknown", "unconfirmed"]


@dataclass(frozen=True)
class Order:
    """One node job to be sent, with what the policy of its failure adds."""

    job: NodeJob
    exclude: tuple[str, ...] = ()
    time_factor: float = 1.0


@dataclass(frozen=True)
class How:
    """The rules that a campaign's jobs are sent by."""

    cluster: Cluster
    failure: Failure
    retries: int


@dataclass(frozen=True)
class Outcome:
    """What became of a submission: ids, what was refused with the scheduler's words, and how many node jobs wait for room."""

    job_ids: tuple[str, ...]
    n_points: int
    refused: tuple[str, ...] = ()
    n_waiting: int = 0


@dataclass(frozen=True)
class Told:
    """What a scheduler says of one job: `state` is its own word, `reason` why the job waits."""

    state: str
    node: str = ""
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job will not run any more."""
        return False

    @property
    def failure_class(self) -> str:
        """The class of conf/failure of a job that ended so; empty where the state does not say why."""
        return ""

    @property
    def never_starts(self) -> bool:
        """Whether it waits for somebody to do something."""
        return False

    @property
    def note(self) -> str:
        """What a user should know of this state."""
        return ""


class Look:
    """What is known at one moment of the jobs that one scheduler runs. `answers`: whether it answered; None: it need not be asked."""

    answers: bool | None = None
    silence = ""  # what to say if it did not answer

    def state(self, sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> tuple[State, Told | None]:
        """Where an accepted job stands. `began`: its batch script, UTC s; 0: it has not."""
        raise NotImplementedError

    def told(self, job_id: str) -> Told | None:
        """What the scheduler says of a job that no record names."""
        return None


@dataclass(frozen=True)
class Scheduler:
    """Runs jobs somewhere."""

    name: str  # cluster.executor
    waits = False  # jobs are over when `submit` returns
    comes_again = False  # a job may be ended and run again under its id, which is never another job's
    has_nodes = False  # a job may be sent to one of several nodes, and kept away from some
    has_own_machine = False  # a job never shares its node with another of ours

    def limits_s(self, cluster: Cluster, hardware: Sequence[str]) -> dict[str, float]:
        """The longest estimate that a job may have, seconds, by hardware, where there is a limit."""
        return {}

    def submit(self, campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
        """Sends the orders. Raises EnvironmentLacks where it does not answer: asking again could double the jobs."""
        raise NotImplementedError

    def settle(self, campaign: Campaign) -> None:
        """Finds out what became of every submission that was never confirmed. Raises EnvironmentLacks where it does not answer."""

    def look(self, campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> Look:
        """Where its jobs of a campaign stand. It is asked if it was not within `poll_s`."""
        raise NotImplementedError

    def cancel(self, jobs: Sequence[tuple[Sent, Beat | None]]) -> str:
        """Ends jobs by id. What it complains of; empty where it does not."""
        raise NotImplementedError

    def scripts(self, campaign: Campaign, orders: Sequence[Order], cluster: Cluster) -> list[tuple[str, str]]:
        """(name, text) of every script that `submit` would send."""
        return []

    def judged(self, scripts: Sequence[Path]) -> Iterator[tuple[str, bool]]:
        """For each script what it says of it, and whether it would refuse it; nothing where it does not answer."""
        return iter(())

    def said(self, outcome: Outcome) -> list[str]:
        """A submission in sentences."""
        return [f"{outcome.n_points} points submitted as {self.name} job {', '.join(outcome.job_ids)}."] if outcome.job_ids else []

    def examined(
        self, cluster: Cluster, hardware: Sequence[str], outputs: Path, jobs: Sequence[NodeJob], *, is_probing: bool
    ) -> Iterator[Finding]:
        """What it has and lacks for a campaign of these node jobs. `is_probing`: by a short job on each kind of node, too."""
        raise NotImplementedError

    def end_utc_s(self) -> float | None:
        """When the job that this runs in will be ended; None where nobody says."""
        return None

    def run_again(self, job_id: str) -> str:
        """Puts the job that this runs in back into the queue. What it complains of; empty where it does not."""
        raise NotImplementedError


def by_id(job_ids: Collection[str]) -> list[str]:
    """Ids of jobs, arrays once, in the order of their numbers."""
    return sorted({job_id.split("_")[0] for job_id in job_ids}, key=lambda i: (len(i), i))
