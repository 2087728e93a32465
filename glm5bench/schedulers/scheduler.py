"""The interface of a scheduler. The default values fit a scheduler that runs jobs on this machine.

A scheduler is one module of this package with its `SCHEDULERS`, and files in conf/cluster. Code outside this package must not depend on
which scheduler is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checks.finding import Finding
from ..directory import Campaign
from ..errors import counted
from ..node.heartbeat import Beat
from ..values.cluster import Cluster, Failure
from ..values.point import NodeJob
from .request import End
from .submissions import Sent

State = Literal["queued", "running", "ended", "unknown", "unconfirmed"]


@dataclass(frozen=True)
class Order:
    """One node job to send, with the nodes to exclude and the time factor of its failure policies."""

    job: NodeJob
    exclude: tuple[str, ...] = ()
    time_factor: float = 1.0


@dataclass(frozen=True)
class How:
    """The cluster, failure policies and retries that apply to the jobs of a campaign."""

    cluster: Cluster
    failure: Failure
    retries: int


@dataclass(frozen=True)
class Outcome:
    """The result of a submission. `refused`: in the scheduler's words. `n_waiting`: node jobs not sent because of this limit."""

    job_ids: tuple[str, ...]
    n_points: int
    refused: tuple[str, ...] = ()
    n_waiting: int = 0
    limit: str = ""


@dataclass(frozen=True)
class Told:
    """The scheduler's report on one job. `state`: in the scheduler's words. `reason`: why the job waits. `name`: the job's own name."""

    state: str
    node: str = ""
    reason: str = ""
    name: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return False

    @property
    def failure_class(self) -> str:
        """The class of conf/failure for this end state. Empty if the state does not give a reason."""
        return ""

    @property
    def never_starts(self) -> bool:
        """Whether the job cannot start until a person acts."""
        return False

    @property
    def note(self) -> str:
        """A note on this state for the user."""
        return ""

    def remedy(self, job_id: str) -> str:
        """The command that helps a job that cannot start."""
        return ""


class Look:
    """The known states of one scheduler's jobs at one moment. `answers`: whether the scheduler answered, None if it was not needed."""

    answers: bool | None = None
    silence = ""  # the message if it did not answer

    def state(self, sent: Sent, beats: Sequence[Beat], ends: Sequence[End], began: float) -> tuple[State, Told | None]:
        """The state of an accepted job. `began`: start of its batch script in UTC seconds, 0 if it has not started."""
        raise NotImplementedError

    def told(self, job_id: str, name: str) -> Told | None:
        """The scheduler's report on a job without a submission record. None if the job of this id has another name."""
        return None


@dataclass(frozen=True)
class Scheduler:
    """One way to run jobs."""

    name: str  # cluster.executor
    waits = False  # jobs are over when `submit` returns
    comes_again = False  # a job may be requeued under the same id, and ids are never reused
    has_nodes = False  # there are several nodes, and jobs can exclude some of them
    has_own_machine = False  # two jobs of this tool never share GPUs, so they need no lock

    def limits_s(self, cluster: Cluster, hardware: Sequence[str]) -> dict[str, float]:
        """The longest allowed estimate of a job in seconds, by hardware. Hardware without a limit is missing."""
        return {}

    def refuse(self, jobs: Sequence[NodeJob]) -> None:
        """Raises EnvironmentLacks if this machine is to run the jobs and cannot, before anything is written."""

    def submit(self, campaign: Campaign, orders: Sequence[Order], how: How) -> Outcome:
        """Sends the orders. Raises EnvironmentLacks if the scheduler does not answer: sending again could create duplicate jobs."""
        raise NotImplementedError

    def settle(self, campaign: Campaign) -> None:
        """Checks every submission that was never confirmed. Raises EnvironmentLacks if the scheduler does not answer."""

    def look(self, campaign: Campaign, sent: Sequence[Sent], poll_s: float) -> Look:
        """The states of its jobs in a campaign. The scheduler is asked at most every `poll_s` seconds."""
        raise NotImplementedError

    def cancel(self, jobs: Sequence[tuple[Sent, Beat | None]]) -> str:
        """Ends the jobs that have both this id and this name. Returns the scheduler's error message, or an empty text."""
        raise NotImplementedError

    def scripts(self, campaign: Campaign, orders: Sequence[Order], cluster: Cluster) -> list[tuple[str, str]]:
        """(name, text) for every script that `submit` would send."""
        return []

    def judged(self, scripts: Sequence[Path]) -> Iterator[tuple[str, bool]]:
        """The scheduler's answer for each script, and whether it would refuse it. Empty if the scheduler does not answer."""
        return iter(())

    def said(self, outcome: Outcome) -> list[str]:
        """The lines that report a submission to the user."""
        return (
            [f"{counted(outcome.n_points, 'point')} submitted as {self.name} job {', '.join(outcome.job_ids)}."] if outcome.job_ids else []
        )

    def examined(
        self, cluster: Cluster, hardware: Sequence[str], outputs: Path, jobs: Sequence[NodeJob], *, is_probing: bool
    ) -> Iterator[Finding]:
        """Findings about this scheduler for these node jobs. `is_probing`: also sends a short job to each kind of node."""
        raise NotImplementedError

    def job_name(self) -> str:
        """The name of the job that this code runs in. Empty if the scheduler gives none."""
        return ""

    def job_nodes(self) -> tuple[str, ...]:
        """The nodes of the job that this code runs in, by rank. Empty if the scheduler has no nodes."""
        return ()

    def run_number(self) -> str:
        """Which run of the job this code runs in: a requeued job has several."""
        return ""

    def end_utc_s(self) -> float | None:
        """When the scheduler will end the job that this code runs in, in UTC seconds. None if unknown."""
        return None

    def run_again(self, job_id: str) -> str:
        """Requeues the job that this code runs in. Returns the scheduler's error message, or an empty text."""
        raise NotImplementedError


def by_id(job_ids: Collection[str]) -> list[str]:
    """Job ids in numeric order. An array appears once."""
    return sorted({job_id.split("_")[0] for job_id in job_ids}, key=lambda i: (len(i), i))
