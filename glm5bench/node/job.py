"""One node job: start a server, measure its points, write each as it ends, and leave nothing running.

Enters: a NodeJob, complete in itself, and the campaign's directory. Leaves: point files and a record of every attempt. Nothing
measured is lost: a point is written whole before the next begins; a fault costs the point that it hit, whose record says why, and
the server is started again for what is left. SIGTERM, SIGINT and SIGUSR2 stop it cleanly; what was not measured is simply missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from ..analysis.metrics import Requests
from ..archive.measurement import Measurement, answers_of
from ..archive.pointfile import write_point
from ..checks import machine as preflight
from ..checks.finding import refuse
from ..client.counters import Counted, counted, counted_since
from ..client.protocol import Measured, Patience, Protocol
from ..directory import Campaign, append_line, lane_ids
from ..engines.known import adapter
from ..errors import BenchError, ClientError, EnvironmentLacks, ServerError
from ..files import Taken, write_json
from ..machine.container import Image
from ..machine.cores import measuring, of_the_job, reserved
from ..machine.provenance import provenance
from ..recipe import point_estimate_s
from ..values.point import NodeJob, Point, ServerStart, kind_of
from . import accuracy
from .attempt import Trace, Watch, now_utc, observed, point_record, record_attempt, record_failure, whole
from .command import NEXT_STEPS, Place, Stopped
from .heartbeat import Heartbeat, is_alive, is_running, node_name, read_beat
from .progress import Progress
from .server import Server, model_name, running
from .settled import refuse_other_settings, start_facts
from .staging import Weights, weights
from .telemetry.watching import SIMULATED_S, Observer, Wanted, observing

MAX_FAULTS_IN_A_ROW = 2  # of one server start: more, and what is left would only cost node-hours


def run(
    campaign: Campaign,
    job: NodeJob,
    job_id: str,
    heart: Heartbeat,
    progress: Progress,
    is_retried: Callable[[str], bool],
) -> None:
    """Measures what of the job is not done yet. Never raises for a fault of a server or a point: the records say it.

    `is_retried` is asked of each point that has failed: where it says so, the point is tried again after the others, on a server that
    runs already.
    """
    campaign.adopt([p.key for p in job.points], lambda other: other != job_id and is_running(campaign.heartbeat(other)))
    done = campaign.done(p.key for p in job.points)
    heart.beat.node_job, heart.beat.points, heart.beat.points_done = job.id, len(job.points), len(done)
    for number, start in enumerate(job.starts):
        points = [p for p in start.points if p.key not in done]
        if points:
            _Start(campaign, job, start, job_id, heart, progress, number, is_retried).measure(points)


@dataclass
class _Start:
    """One server start of a job and its points."""

    campaign: Campaign
    job: NodeJob
    start: ServerStart
    job_id: str
    heart: Heartbeat
    progress: Progress
    number: int
    is_retried: Callable[[str], bool]
    weights: Weights = field(init=False)
    observer: Observer | None = field(init=False, default=None)
    facts: dict[str, Any] = field(init=False, default_factory=dict)
    notes: list[str] | None = field(init=False, default=None)
    life: str = field(init=False, default="")  # of the server that runs now

    def measure(self, points: Sequence[Point]) -> None:
        """All points; the server is started again after a fault, as often as it makes sense, and where the time suffices."""
        left, faults = list(points), 0
        while left and not self.progress.is_stopped():
            if not self.progress.has_time_for(self._before_s + self._estimate_s(left[0])):
                self.progress.stopped("time_limit")
                break
            faults = self._with_one_server(left, faults)
            if faults >= MAX_FAULTS_IN_A_ROW:
                break
        self.progress.left += [p.key for p in left]

    @property
    def _before_s(self) -> float:
        """What a server start takes before its first point, by estimate."""
        asked = self.job.accuracy
        return self.job.arm.engine.start_estimate_s + (asked.estimate_s if asked is not None else 0.0)

    def _estimate_s(self, point: Point) -> float:
        return self.job.pace * point_estimate_s(self.job.arm, self.start.recipe, point.concurrency)

    def _took(self, what: str, took_s: float, estimate_s: float) -> None:
        """A line from which later estimates of this campaign learn. Without it nothing is lost."""
        line = {"what": what, "arm": self.job.arm_id, "kind": kind_of(self.job.arm), "took_s": took_s, "estimate_s": estimate_s}
        with contextlib.suppress(EnvironmentLacks):
            append_line(self.campaign.job(self.job_id) / "timing.jsonl", line)

    def _with_one_server(self, left: list[Point], faults: int) -> int:
        """Takes points off `left` as they end. The number of faults in a row, one more where this server's life ended in one.

        A server that never was ready would not be the next time either: all its points fail, and no second load is paid for.
        """
        is_ready = False
        try:
            self.heart.beat.key = ""
            self._preflight()
            place = self._place()
            self.heart.phase("image" if place.image else "loading")
            with running(self.start.recipe, self.job.arm, place) as server, self._observing(server) as self.observer:
                self.life = f"{socket.gethostname()} {self.job_id} {self.number} {now_utc()}"
                self._took("start", server.start_s, self.job.arm.engine.start_estimate_s)
                self.facts = start_facts(server, self.start.recipe)
                refuse_other_settings(server, self.start.recipe, self.facts)
                is_ready = True
                self._examine(server)
                while left:
                    self.heart.beat.left_s = sum(self._estimate_s(p) for p in left) * self.progress.pace
                    if not self.progress.has_time_for(self._estimate_s(left[0])):
                        self.progress.stopped("time_limit")
                        raise Stopped
                    faults = self._one(server, left, faults)
        except Stopped:
            self.progress.stopped("stopped")
        except (ServerError, OSError) as error:
            if self.progress.is_soon_stopped():  # whoever asks the job to end asks its server, too, and may ask that one first
                return faults
            told = error if isinstance(error, ServerError) else _of_the_node(error)
            for _ in left[:1] if is_ready else list(left):
                self._fail(left, told)
            faults += 1
        return faults

    def _one(self, server: Server, left: list[Point], faults: int) -> int:
        """Measures the first point that is left, unless another job was quicker."""
        if self.campaign.done([left[0].key]):
            left.pop(0)
            return faults
        began = time.monotonic()
        try:
            self._measure(server, left[0])
        except (ServerError, Stopped, EnvironmentLacks):
            raise
        except BenchError as error:
            self._fail(left, error)
            return faults
        except Exception as error:  # the border around one point: a defect costs it, and not those after it
            traceback.print_exc()
            self._fail(left, ClientError(f"A defect of glm5bench, please report it: {type(error).__name__}: {error}."))
            return faults + 1
        took = time.monotonic() - began
        self._took("point", took, self._estimate_s(left[0]) / self.job.pace)
        self.progress.took_s += took
        self.progress.estimated_s += self._estimate_s(left[0])
        self.progress.measured.append(left.pop(0).key)
        self.heart.beat.key = ""
        self.heart.beat.points_done += 1
        return 0

    def _preflight(self) -> None:
        """What this node has and lacks, looked at once. Raises ServerError where it cannot do."""
        if self.notes is not None:
            return
        self.heart.phase("preflight")
        found = preflight.findings(self.job, self.campaign.points)
        write_json(self.campaign.job(self.job_id) / "preflight.json", {"findings": [asdict(f) for f in found]})
        for f in found:
            print(f"preflight: {f.what}: {'' if f.is_well else 'LACKS: ' if f.is_well is False else 'note: '}{f.said}", flush=True)
        self.notes = [f"{f.what}: {f.said}" for f in found if f.is_well is None]
        refuse(found, socket.gethostname())

    def _place(self) -> Place:
        folder = self.campaign.job(self.job_id) / f"{self.job.id}.{self.number}"
        self.weights = weights(self.job, lambda doing: self.heart.tell("staging", doing), self.progress.is_stopped)
        return Place(
            folder,
            self.weights.path,
            socket.gethostname(),
            self.progress.is_stopped,
            self._image(folder),
            lambda doing: self.heart.tell("loading", doing),
        )

    def _poke(self) -> None:
        """A reading at the edges of the window, where power changes most."""
        if self.observer is not None:
            self.observer.poke()

    def _examine(self, server: Server) -> None:
        """The accuracy gate, where one is asked for, on the server that is measured after it."""
        if self.job.accuracy is None:
            return
        self.heart.phase("accuracy")
        at = self.job.accuracy_at or sorted({p.concurrency for p in self.start.points})  # a server of its own for each: its own
        told = accuracy.gate(server, model_name(server), self.job.accuracy, at, lambda doing: self.heart.tell("accuracy", doing))
        self.facts["accuracy"] = told
        print(f"accuracy: {json.dumps(told)}", flush=True)

    def _observing(self, server: Server) -> contextlib.AbstractContextManager[Observer | None]:
        """Who reads beside the load, where anything is to be read."""
        arm, period_s = self.job.arm, self.job.telemetry_s
        if not period_s:
            return contextlib.nullcontext()
        if arm.engine.simulated:
            period_s = max(SIMULATED_S, period_s / arm.engine.time_scale)
        whose = "simulated" if arm.engine.simulated else arm.hardware.vendor
        return observing(server, server.place.scratch or server.place.folder, Wanted(whose, arm.tp, server.process.pid, period_s))

    def _image(self, folder: Path) -> Image | None:
        """What the server is started from; None: the node's own PATH, because the cluster or the recipe names no image."""
        name = self.start.recipe.image
        if not self.job.image_dir or not name:
            return None
        cache = Path(self.job.cache_dir) if self.job.cache_dir else folder / "cache"
        return Image(Path(self.job.image_dir), name, cache, self.job.binds)

    def _measure(self, server: Server, point: Point) -> None:
        self.heart.beat.key = point.key
        arm = self.job.arm
        client = Protocol(
            server,
            model_name(server),
            arm.workload,
            point,
            Patience(arm.engine.stall_timeout_s, server.alive_or_raise),
            self._progress,
            vocabulary=arm.checkpoint.architecture.vocabulary,
            time_scale=arm.engine.time_scale if arm.engine.simulated else 1.0,
            attempt=self.campaign.next_attempt(point.key),
            wants_steps=adapter(arm.engine).reports_verify_steps(arm),
        )
        if client.has_warmups:
            self.heart.phase("warm-up")
            before = counted(server)
            counted_since(server, before, _tokens(_answered(server, client.warm_up()).requests))  # until the warm-up is counted
        _flush(server)
        client.encode()
        self.heart.phase("measuring")
        neighbours, before = self._beside(), counted(server)
        watch = Watch()
        self._poke()
        with measuring(reserved(of_the_job())):
            load = client.measure()
        self._poke()
        made, requests = self._made(server, watch, load, neighbours), load.requests
        source = adapter(arm.engine).source
        answers = {"answers": answers_of(requests)}
        record = point_record(self.job, self.start, point)
        unread = Measurement(point.key, source, record, {**made, "is_server_unread": True}, requests, {**self.facts, **answers})
        _answered(server, load)
        if load.n_failed:  # whose fault it is, the server says: nothing whole would be lost
            server.alive_or_raise()
            server.answers_or_raise()
            return self._write(self._read(server, unread, load, before), point)
        kept = self._kept(unread)
        try:
            server.alive_or_raise()
            self._write(self._read(server, unread, load, before), point)
        except ServerError:  # it answered all, and then died: the next point will notice
            self._write(replace(unread, log=server.log.tail(1_000_000)), point)
        kept.unlink(missing_ok=True)
        return None

    def _read(self, server: Server, unread: Measurement, load: Measured, before: Counted | None) -> Measurement:
        """The measurement with what the server says of itself after it, and with what was read beside it."""
        requests, end_ns = load.requests, load.start_ns + int(load.requests.end_ns.max())
        since = counted_since(server, before, _tokens(requests)) if requests.is_whole.all() else None  # of broken answers nobody knows
        beside = self.observer.told(load.start_ns, end_ns) if self.observer else None
        foreign = self.observer.foreign(load.start_ns, end_ns) if self.observer else []
        told = {**observed(server.info(), server, since, self.facts), "answers": unread.server["answers"]}
        made = {name: value for name, value in unread.provenance.items() if name != "is_server_unread"}
        return replace(
            unread,
            provenance=made,
            server=told | ({"foreign_pids": foreign} if foreign else {}),
            log=server.log.tail(1_000_000),
            telemetry=beside,
        )

    def _made(self, server: Server, watch: Watch, load: Measured, neighbours: list[str]) -> dict[str, Any]:
        """How the measurement came about."""
        return {
            **provenance(self.job_id, server.place.image),
            "checkpoint": self.weights.told,
            **self._neighbourhood(neighbours),
            **watch.told(load),
            **({"telemetry": self.observer.account()} if self.observer else {}),
            "argv": [*self.start.recipe.argv, *adapter(self.job.arm.engine).flags_of_the_node(self.start.recipe.argv)],
            "server_start": self.life,
            "server_start_s": server.start_s,
            "preflight": self.notes,
            "client_cores": list(reserved(of_the_job())),
        }

    def _kept(self, m: Measurement) -> Path:
        """The measurement on disk before the server is asked anything else: a server that takes the job down with it costs no point."""
        path = self.campaign.unread(self.job_id, m.key)
        path.unlink(missing_ok=True)
        write_point(path, m)
        return path

    def _beside(self) -> list[str]:
        """What the other lanes of this node are doing, as their heartbeats say; empty where the node is not shared."""
        beats = [read_beat(self.campaign.heartbeat(other)) for other in lane_ids(self.job_id, self.job.lanes) if other != self.job_id]
        return [f"{beat.node_job} {beat.phase}" for beat in beats if beat is not None and is_alive(beat, time.time())]

    def _neighbourhood(self, before: list[str]) -> dict[str, Any]:
        if self.job.lanes == 1:
            return {}
        names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
        devices = {name: os.environ[name] for name in names if name in os.environ}
        cores = sorted(os.sched_getaffinity(0))
        return {"lanes": self.job.lanes, "devices": devices, "cores": cores, "beside_before": before, "beside_after": self._beside()}

    def _write(self, m: Measurement, point: Point) -> None:
        attempt = self._write_point(m, point)
        figures, verdict = m.figures(), m.verdict()
        assert figures is not None
        record = whole(self.campaign.point_file(point.key, attempt), m.digest(), figures, verdict)
        record_attempt(self.campaign, self._trace, point.key, attempt, record)

    def _write_point(self, m: Measurement, point: Point) -> int:
        """The number of the attempt under which the file stands; a number that another job took meanwhile is left to it."""
        while True:
            attempt = self.campaign.next_attempt(point.key)
            with contextlib.suppress(Taken):
                write_point(self.campaign.point_file(point.key, attempt), m)
                return attempt

    def _fail(self, left: list[Point], error: BenchError) -> None:
        """A record of the failed attempt at the first point that is left; one that is retried goes to the end.

        A directory that cannot be written ends the job: nothing more would be kept.
        """
        point = left.pop(0)
        self.heart.beat.key = ""
        class_ = getattr(error, "failure_class", "node_fault")
        self.progress.fault = class_
        record_failure(self.campaign, self._trace, point.key, class_, str(error))
        if self.is_retried(point.key):
            left.append(point)
        else:
            self.progress.failed.append(point.key)

    @property
    def _trace(self) -> Trace:
        return Trace(self.job_id, self.job.id, node_name())

    def _progress(self, done: int, of: int) -> None:
        self.heart.beat.requests_done, self.heart.beat.requests = done, of


def _answered(server: Server, load: Measured) -> Measured:
    """The same, where it was not ended early."""
    if load.ended_by is not None:
        raise server.said(load.ended_by)
    return load


def _tokens(requests: Requests) -> Counted:
    """The tokens of all answers."""
    return Counted(int(requests.prompt_tokens.sum()), int(requests.output_tokens.sum()))


def _of_the_node(error: OSError) -> ServerError:
    """A disk that is full or not to be written, a cache directory that cannot be made: this node cannot run the server."""
    what = f"The server cannot be run here: {error.strerror or error}."
    return ServerError(what, failure_class="node_fault", where=str(error.filename or ""), next_step=NEXT_STEPS["node_fault"])


def _flush(server: Server) -> None:
    """An empty prefix cache and fresh counters. Engines without the endpoint (vLLM) keep theirs: no prompt comes twice."""
    try:
        server.ask("POST", "/flush_cache", within_s=60)
    except httpx.HTTPError as error:
        server.answers_or_raise()
        raise ClientError(f"The server does not answer POST /flush_cache: {error}.") from error
