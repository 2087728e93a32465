"""Measures one point on a running server: warm-up, load, telemetry, and the point's file, which is complete before anything else begins."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from ..analysis.metrics import Requests
from ..archive.measurement import Measurement, answers_of
from ..archive.pointfile import write_point
from ..client.counters import Counted, counted, counted_since
from ..client.endpoint import redacted_deeply
from ..client.protocol import Measured, Patience, Protocol
from ..directory import lane_ids
from ..engines.known import adapter
from ..errors import ClientError, ServerError
from ..files import Taken
from ..machine.cores import measuring, of_the_job, reserved
from ..machine.provenance import provenance
from ..replay.protocol import SessionsProtocol
from ..values.point import Point, ServerStart
from .attempt import Watch, observed, point_record, record_attempt, whole
from .deployment import hosts
from .deployment import placed as where
from .heartbeat import is_alive, read_beat
from .observed import Observers
from .server import Server, model_name
from .staging import Weights
from .telemetry.watching import Observer
from .work import Work


@dataclass
class Life:
    """One running server: its start, the facts that it reported when it was ready, and its observer."""

    name: str
    start: ServerStart
    weights: Weights
    notes: list[str]  # of the preflight
    observer: Observer | Observers | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measuring:
    """Measures points on one server."""

    work: Work
    server: Server
    life: Life

    def _poke(self) -> None:
        """Requests a telemetry reading. Called at the edges of the window, where power changes most."""
        if self.life.observer is not None:
            self.life.observer.poke()

    def measure(self, point: Point) -> None:
        """Measures the point and writes its file. Raises ServerError if the server died or hung, ClientError if this client failed."""
        self.work.heart.beat.key = point.key
        arm = self.work.job.arm
        client = self._protocol(point)
        if client.keeps_cache:
            flush(self.server)
        if client.has_warmups:
            self.work.heart.phase("warm-up")
            before = counted(self.server)
            counted_since(self.server, before, _tokens(_answered(self.server, client.warm_up()).requests))  # until the warm-up is counted
        if not client.keeps_cache:
            flush(self.server)
        client.encode()
        self._progress(0, 0)  # those were the warm-up's
        self.work.heart.phase("measuring")
        neighbours, before = self._beside(), counted(self.server)
        watch = Watch()
        self._poke()
        with measuring(reserved(of_the_job())):
            load = client.measure()
        self._poke()
        self.server.listens_or_raise()  # what a stranger answered is not a measurement
        made, requests = {**self._made(watch, load, neighbours), **client.about}, load.requests
        source = adapter(arm.engine).source
        answers = {"answers": answers_of(requests)}
        record = point_record(self.work.job, self.life.start, point)
        unread = Measurement(point.key, source, record, {**made, "is_server_unread": True}, requests, {**self.life.facts, **answers})
        _answered(self.server, load)
        if load.n_failed:  # raise if the server is dead; no complete measurement is lost
            self.server.alive_or_raise()
            self.server.answers_or_raise()
            return self._write(self._read(unread, load, before), point)
        kept = self._kept(unread)
        try:
            self.server.alive_or_raise()
            self._write(self._read(unread, load, before), point)
        except ServerError:  # it died after all answers; the next point will report it
            self._write(replace(unread, log=self.server.log.tail(1_000_000)), point)
        kept.unlink(missing_ok=True)
        return None

    def _protocol(self, point: Point) -> Protocol | SessionsProtocol:
        """The load of a point."""
        arm, engine, argv = self.work.job.arm, adapter(self.work.job.arm.engine), self._answering_argv()
        basic = (
            self.server,
            model_name(self.server),
            arm.workload,
            point,
            Patience(arm.engine.stall_timeout_s, self.server.alive_or_raise),
        )
        common: dict[str, Any] = {
            "vocabulary": arm.checkpoint.architecture.vocabulary,
            "time_scale": arm.engine.time_scale if arm.engine.simulated else 1.0,
            "attempt": self.work.campaign.next_attempt(point.key),
            "wants_steps": engine.reports_verify_steps(arm),
        }
        if not arm.workload.has_sessions:
            return Protocol(*basic, self._progress, **common)
        reports = any(flag in argv for flag in engine.cache_report_flags)
        return SessionsProtocol(*basic, self._progress, **common, wants_places=engine.reports_cache_places, reports_cached=reports)

    def _answering_argv(self) -> tuple[str, ...]:
        """The command of the servers that generate the answers."""
        recipe = self.server.recipe
        return recipe.roles[-1].recipe.argv if recipe.roles else recipe.argv

    def _read(self, unread: Measurement, load: Measured, before: Counted | None) -> Measurement:
        """The measurement with the server's information after it, and with the telemetry."""
        requests, end_ns = load.requests, load.start_ns + max(int(load.requests.end_ns.max()), self._window_ns())
        since = counted_since(self.server, before, _tokens(requests)) if requests.is_whole.all() else None  # unknown for broken answers
        beside = self.life.observer.told(load.start_ns, end_ns) if self.life.observer else None
        foreign = self.life.observer.foreign(load.start_ns, end_ns) if self.life.observer else []
        told = {**observed(self.server.info(), self.server, since, self.life.facts), "answers": unread.server["answers"]}
        made = {name: value for name, value in unread.provenance.items() if name != "is_server_unread"}
        return replace(
            unread,
            provenance=made,
            server=told | ({"foreign_pids": foreign} if foreign else {}),
            log=self.server.logs(1_000_000),
            telemetry=beside,
        )

    def _window_ns(self) -> int:
        """The length of the window of agent sessions, in which there may be no request at its end; 0 for other workloads."""
        arm = self.work.job.arm
        scale = arm.engine.time_scale if arm.engine.simulated else 1.0
        return round((arm.workload.duration_s or 0.0) / scale * 1e9) if arm.workload.has_sessions else 0

    def _made(self, watch: Watch, load: Measured, neighbours: list[str]) -> dict[str, Any]:
        """The provenance of the measurement."""
        return {
            **provenance(self.work.job_id, self.server.place.image),
            "checkpoint": self.life.weights.told,
            **self._neighbourhood(neighbours),
            **watch.told(load),
            **({"telemetry": self.life.observer.account()} if self.life.observer else {}),
            "argv": [*self.server.recipe.argv, *adapter(self.work.job.arm.engine).flags_of_the_node(self.server.recipe.argv)],
            **({"hosts": hosts(self.work.crew), "placements": where(self.work.job.arm, self.work.crew)} if self.work.crew else {}),
            "server_start": self.life.name,
            "server_start_s": self.server.start_s,
            "preflight": self.life.notes,
            "client_cores": list(reserved(of_the_job())),
            **({"is_unlocked": True} if self.work.progress.is_unlocked else {}),
        }

    def _kept(self, m: Measurement) -> Path:
        """Writes the measurement to disk before any further request to the server, which may end the job with it."""
        path = self.work.campaign.unread(self.work.job_id, m.key)
        path.unlink(missing_ok=True)
        write_point(path, self._redacted(m))
        return path

    def _beside(self) -> list[str]:
        """The phases of the other lanes of this node, from their heartbeats; empty if the node is not shared."""
        beats = [
            read_beat(self.work.campaign.heartbeat(other))
            for other in lane_ids(self.work.job_id, self.work.job.lanes)
            if other != self.work.job_id
        ]
        return [f"{beat.node_job} {beat.phase}" for beat in beats if beat is not None and is_alive(beat, time.time())]

    def _neighbourhood(self, before: list[str]) -> dict[str, Any]:
        if self.work.job.lanes == 1:
            return {}
        names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
        devices = {name: os.environ[name] for name in names if name in os.environ}
        cores = sorted(os.sched_getaffinity(0))
        return {"lanes": self.work.job.lanes, "devices": devices, "cores": cores, "beside_before": before, "beside_after": self._beside()}

    def _write(self, m: Measurement, point: Point) -> None:
        m = self._redacted(m)
        attempt = self._write_point(m, point)
        figures, verdict = m.figures(), m.verdict()
        assert figures is not None
        record = whole(self.work.campaign.point_file(point.key, attempt), m.digest(), figures, verdict)
        record_attempt(self.work.campaign, self.work.trace, point.key, attempt, record)

    def _redacted(self, m: Measurement) -> Measurement:
        """The measurement without the server's key, wherever the server repeated it: in names and values of JSON, and in its log."""
        texts = {name: redacted_deeply(getattr(m, name), self.server) for name in ("point", "provenance", "server")}
        return replace(m, **texts, log=self.server.redacted(m.log))

    def _write_point(self, m: Measurement, point: Point) -> int:
        """Writes the file and returns the number of its attempt. Skips numbers that another job has taken meanwhile."""
        while True:
            attempt = self.work.campaign.next_attempt(point.key)
            with contextlib.suppress(Taken):
                write_point(self.work.campaign.point_file(point.key, attempt), m)
                return attempt

    def _progress(self, done: int, of: int) -> None:
        self.work.heart.beat.requests_done, self.work.heart.beat.requests = done, of


def _answered(server: Server, load: Measured) -> Measured:
    """The same load. Raises the error that ended it early, if there is one."""
    if load.ended_by is not None:
        raise server.said(load.ended_by)
    return load


def _tokens(requests: Requests) -> Counted:
    """The prompt and output tokens of all requests."""
    return Counted(int(requests.prompt_tokens.sum()), int(requests.output_tokens.sum()))


def flush(server: Server) -> None:
    """Empties the prefix cache and resets counters. Engines without such a request keep theirs; prompts never repeat."""
    path = adapter(server.arm.engine).flush_path
    if path is None:
        return
    for endpoint in server.endpoints():
        try:
            endpoint.ask("POST", path, within_s=60)
        except httpx.HTTPError as error:
            server.answers_or_raise()
            raise ClientError(f"The server did not answer POST {path}: {error}.") from error
