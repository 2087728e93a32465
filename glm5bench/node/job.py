"""One node job: starts a server, measures its points, writes each point when it ends, and leaves no process running.

Enters: a NodeJob, complete in itself, and the campaign's directory. Leaves: point files and a record of every attempt. No measurement is
lost: a point is written completely before the next one begins. A fault costs only the point in progress. Its record contains the reason,
and the server is started again for the remaining points. SIGTERM, SIGINT and SIGUSR2 stop the job cleanly; unmeasured points stay missing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..checks import machine as preflight
from ..checks.finding import refuse
from ..directory import Campaign
from ..errors import BenchError, ClientError, EnvironmentLacks, ServerError
from ..files import write_json
from ..images.record import unlike_pin
from ..machine.container import Image
from ..values.point import NodeJob, ServerStart
from . import accuracy, searching
from .attempt import now_utc
from .command import NEXT_STEPS, Place, Stopped, cannot_start
from .crew import Crew, NodeGone
from .deployment import deployed
from .hands import image_of
from .heartbeat import Heartbeat, is_running
from .measuring import Life, Measuring
from .observed import Observers, observing_all
from .progress import Progress
from .server import Server, model_name, running
from .settled import refuse_other_settings, start_facts
from .staging import weights
from .telemetry.watching import SIMULATED_S, Observer, Wanted, observing
from .work import Remaining, Work

MAX_FAULTS_IN_A_ROW = 2  # of one server start: after that, the remaining points would only waste node-hours


def run(
    campaign: Campaign,
    job: NodeJob,
    job_id: str,
    heart: Heartbeat,
    progress: Progress,
    is_retried: Callable[[str], bool],
    crew: Crew | None = None,
) -> None:
    """Measures the points of the job that are not done yet. Faults of a server or a point are recorded, not raised.

    `is_retried` is called with the key of each failed point. If it returns True, the point is retried after the others, on a server that
    is already running. `crew`: the nodes of the job, if its system has several processes.
    """
    decided = [line["key"] for line in campaign.decisions(job.id) if isinstance(line, dict) and line.get("key")]
    campaign.adopt([*(p.key for p in job.points), *decided], lambda other: other != job_id and is_running(campaign.heartbeat(other)))
    done = campaign.done(p.key for p in job.points)
    heart.beat.node_job, heart.beat.points, heart.beat.points_done = job.id, len(job.points), len(done)
    work = Work(campaign, job, job_id, heart, progress, is_retried, crew)
    for number, start in enumerate(job.starts):
        points = [p for p in start.points if p.key not in done]
        if points:
            _Start(work, start, number).measure(Remaining(work, start, points))
    if job.search is not None:
        _search(work, len(job.starts))


def _search(work: Work, number: int) -> None:
    """Measures the points that the search of the job's arm decides, each here on a new server start. Further points may follow on it."""
    progress, start = work.progress, work.job.starts[-1]
    while not progress.is_stopped():
        following = searching.advance(work.campaign, work.job)
        if following is None or following[0].key in {*progress.failed, *progress.measured}:  # measured: it is invalid
            return
        point, _ = following
        work.heart.beat.points += 1
        _Start(work, start, number).measure(Remaining(work, replace(start, points=(point,)), [point]))
        if point.key in progress.left:
            return
        number += 1


@dataclass
class _Start:
    """One server start of a job. After a fault the server is started again, until there are MAX_FAULTS_IN_A_ROW faults in a row."""

    work: Work
    start: ServerStart
    number: int
    notes: list[str] | None = field(init=False, default=None)

    def measure(self, left: Remaining) -> None:
        """Measures the points, as many as the time allows."""
        progress = self.work.progress
        while left and left.faults < MAX_FAULTS_IN_A_ROW and not progress.is_stopped():
            if not progress.has_time_for(self._before_s + left.estimate_s([left.first])):
                progress.stopped("time_limit")
                break
            self._live(left)
        progress.left += [p.key for p in left.points]

    @property
    def _before_s(self) -> float:
        """The estimated time from the start of the server to its first point."""
        asked = self.work.job.accuracy
        return self.work.job.arm.engine.start_estimate_s + (asked.estimate_s if asked is not None else 0.0)

    def _live(self, left: Remaining) -> None:
        """Starts one server and measures the remaining points on it."""
        work, is_ready = self.work, False
        try:
            work.heart.beat.key = ""
            notes = self._preflight()
            here = weights(work.job, lambda doing: work.heart.tell("staging", doing), work.progress.is_stopped)
            if work.crew is not None:
                notes = [*notes, *work.crew.prepare(here.path)]
            place = self._place(here.path)
            work.heart.phase("image" if place.image else "loading")
            self._verify(place.image)
            with self._server(place) as server, self._observing(server) as observer:
                life = Life(f"{socket.gethostname()} {work.job_id} {self.number} {now_utc()}", self.start, here, notes, observer)
                work.took("start", server.start_s, work.job.arm.engine.start_estimate_s)
                life.facts |= start_facts(server, self.start.recipe)
                refuse_other_settings(server, life.facts)
                is_ready = True
                life.facts |= self._examine(server)
                self._measure(Measuring(work, server, life), left)
        except Stopped:
            work.progress.stopped("stopped")
        except (ServerError, OSError) as error:
            if not work.progress.is_soon_stopped():  # a signal that ends the job also ends its server, and may reach the server first
                is_gone = isinstance(error, NodeGone)
                left.life_ended(error if isinstance(error, ServerError) else _of_the_node(error), was_ready=is_ready or is_gone)
                if is_gone:  # no other server can be started in this job
                    work.progress.stopped("node_fault")

    def _measure(self, measuring: Measuring, left: Remaining) -> None:
        progress = self.work.progress
        while left:
            self.work.heart.beat.left_s = left.estimate_s(left.points) * progress.pace
            if not progress.has_time_for(left.estimate_s([left.first])):
                progress.stopped("time_limit")
                raise Stopped
            if self.work.campaign.done([left.first.key]):  # another job has measured it
                left.skip()
            else:
                point = left.first
                self._one(measuring, left)
                if self.work.progress.measured[-1:] == [point.key]:
                    self._follow(left, point.key)

    def _follow(self, left: Remaining, after: str) -> None:
        """Adds the next point of a search, if it is measured on this server, or removes points that are not needed any more."""
        work = self.work
        if work.job.stop_when and left:
            skipped = set(searching.skip_saturated(work.campaign, work.job, self.start, left.points))
            left.points[:] = [p for p in left.points if p.key not in skipped]
            work.heart.beat.points -= len(skipped)
        if work.job.search is None:
            return
        following = searching.advance(work.campaign, work.job, after)
        if following is None:
            work.heart.beat.points -= len(left.points)
            left.points.clear()
            return
        point, is_new_start = following
        had = {*work.progress.failed, *work.progress.measured, *(p.key for p in left.points)}  # measured: it is invalid
        if not is_new_start and point.key not in had:
            left.points.append(point)
            work.heart.beat.points += 1

    def _one(self, measuring: Measuring, left: Remaining) -> None:
        began = time.monotonic()
        try:
            measuring.measure(left.first)
        except (ServerError, Stopped, EnvironmentLacks):
            raise
        except BenchError as error:
            left.failed(error)
        except Exception as error:  # the border around one point: a defect fails this point, but not the next ones
            traceback.print_exc()
            left.failed(ClientError(f"A defect of glm5bench, please report it: {type(error).__name__}: {error}."))
            left.faults += 1
        else:
            left.measured(time.monotonic() - began)

    def _preflight(self) -> list[str]:
        """The notes of this node's preflight checks, which run once. Raises ServerError if the node cannot run the job."""
        if self.notes is not None:
            return self.notes
        self.work.heart.phase("preflight")
        found = preflight.findings(self.work.job, self.work.campaign.points)
        write_json(self.work.campaign.job(self.work.job_id) / "preflight.json", {"findings": [asdict(f) for f in found]})
        for f in found:
            print("preflight:", *f.lines(), flush=True)
        self.notes = [f"{f.what}: {f.said}" for f in found if f.is_well is None]
        refuse(found, socket.gethostname())
        return self.notes

    def _server(self, place: Place) -> contextlib.AbstractContextManager[Server]:
        """The running server: one process group on this node, or several on the nodes of the job."""
        work = self.work
        if work.crew is None:
            return running(self.start.recipe, work.job.arm, place)
        return deployed(work.crew, work.job, self.start.recipe, self.number)

    def _place(self, path: str) -> Place:
        folder = self.work.campaign.job(self.work.job_id) / f"{self.work.job.id}.{self.number}"
        return Place(
            folder,
            path,
            socket.gethostname(),
            self.work.progress.is_stopped,
            image_of(self.work.job, self.start.recipe, folder),
            lambda doing: self.work.heart.tell("loading", doing),
        )

    def _verify(self, image: Image | None) -> None:
        """Hashes the image's file if the cluster pins it. Raises ServerError for other content."""
        pin = image.pins.get(image.sif.name) if image is not None else None
        if image is None or pin is None or image.lacks():
            return  # what it lacks is reported by the start itself
        self.work.heart.tell("image", f"hashing {image.sif.name}")
        wrong = unlike_pin(image.sif, pin, self.work.campaign.jobs / "images.json")
        if wrong:
            raise cannot_start(self.work.job.arm, self._place(""), wrong, "image_missing")

    def _examine(self, server: Server) -> dict[str, Any]:
        """Runs the accuracy gate, if it is requested, on the server that is measured next."""
        if self.work.job.accuracy is None:
            return {}
        self.work.heart.phase("accuracy")
        at = self.work.job.accuracy_at or sorted({p.concurrency for p in self.start.points})  # empty if each concurrency has a server
        told = accuracy.gate(server, model_name(server), self.work.job.accuracy, at, lambda doing: self.work.heart.tell("accuracy", doing))
        print(f"accuracy: {json.dumps(told)}", flush=True)
        return {"accuracy": told}

    def _observing(self, server: Server) -> contextlib.AbstractContextManager[Observer | Observers | None]:
        """The observer that records telemetry during the load; None if telemetry is off."""
        arm, period_s = self.work.job.arm, self.work.job.telemetry_s
        if not period_s:
            return contextlib.nullcontext()
        if arm.engine.simulated:
            period_s = max(SIMULATED_S, period_s / arm.engine.time_scale)
        if self.work.crew is not None:
            return observing_all(self.work.crew, is_split=arm.has_parts, period_s=period_s)
        whose = "simulated" if arm.engine.simulated else arm.hardware.vendor
        return observing(server, server.place.scratch or server.place.folder, Wanted(whose, arm.tp, server.process.pid, period_s))


def _of_the_node(error: OSError) -> ServerError:
    """The error for a full or read-only disk, or a cache directory that cannot be created: this node cannot run the server."""
    what = f"The server cannot run on this node: {error.strerror or error}."
    return ServerError(what, failure_class="node_fault", where=str(error.filename or ""), next_step=NEXT_STEPS["node_fault"])
