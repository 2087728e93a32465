"""The context of a node job, and the points that it has not measured yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ..directory import Campaign, append_line
from ..errors import BenchError, EnvironmentLacks
from ..estimate import estimates_s
from ..values.point import NodeJob, Point, ServerStart, kind_of
from .attempt import Trace, record_failure
from .crew import Crew
from .heartbeat import Heartbeat, node_name
from .progress import Progress


@dataclass(frozen=True)
class Work:
    """A node job with its campaign directory, heartbeat and progress."""

    campaign: Campaign
    job: NodeJob
    job_id: str
    heart: Heartbeat
    progress: Progress
    is_retried: Callable[[str], bool]  # whether a failed point is retried on a server that is already running
    crew: Crew | None = None  # the nodes of the job, if its system has several processes

    @property
    def trace(self) -> Trace:
        """The job and the node that make an attempt."""
        return Trace(self.job_id, self.job.id, node_name())

    def took(self, what: str, took_s: float, estimate_s: float) -> None:
        """Records a duration for later estimates of this campaign. Write errors are ignored."""
        line = {"what": what, "arm": self.job.arm_id, "kind": kind_of(self.job.arm), "took_s": took_s, "estimate_s": estimate_s}
        with contextlib.suppress(EnvironmentLacks):
            append_line(self.campaign.job(self.job_id) / "timing.jsonl", line)


@dataclass
class Remaining:
    """The points that one server start has not measured yet, in order, and the number of faults in a row."""

    work: Work
    start: ServerStart
    points: list[Point]
    faults: int = field(default=0, init=False)

    def __bool__(self) -> bool:
        return bool(self.points)

    @property
    def first(self) -> Point:
        """The next point."""
        return self.points[0]

    def estimate_s(self, points: Iterable[Point]) -> float:
        """The estimated time for these points, with the pace of this campaign."""
        job = self.work.job
        return job.pace * sum(estimates_s(job.arm, self.start.recipe, [point.concurrency for point in points]))

    def skip(self) -> None:
        """Removes the first point, because another job has measured it."""
        self.points.pop(0)

    def measured(self, took_s: float) -> None:
        """Records that the first point was measured in this time, and removes it."""
        estimate_s, progress = self.estimate_s([self.first]), self.work.progress
        self.work.took("point", took_s, estimate_s / self.work.job.pace)
        progress.took_s += took_s
        progress.estimated_s += estimate_s
        progress.measured.append(self.points.pop(0).key)
        self.work.heart.beat.key = ""
        self.work.heart.beat.points_done += 1
        self.faults = 0

    def failed(self, error: BenchError) -> None:
        """Records the failed attempt at the first point. A point that is retried moves to the end.

        Raises EnvironmentLacks if the directory cannot be written, because no further result could be stored.
        """
        point = self.points.pop(0)
        self.work.heart.beat.key = ""
        class_ = getattr(error, "failure_class", "node_fault")
        self.work.progress.fault = class_
        trace = replace(self.work.trace, node=getattr(error, "node", "") or self.work.trace.node)
        record_failure(self.work.campaign, trace, point.key, class_, str(error))
        if self.work.is_retried(point.key):
            self.points.append(point)
        else:
            self.work.progress.failed.append(point.key)

    def life_ended(self, error: BenchError, *, was_ready: bool) -> None:
        """Records that a server ended with a fault.

        A server that was never ready would probably fail again: all its points fail, and the server is not started a second time.
        """
        for _ in self.points[:1] if was_ready else list(self.points):
            self.failed(error)
        self.faults += 1
