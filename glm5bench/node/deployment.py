"""Servers on the nodes of a job that act as one: one server over several nodes, or prefill and decode workers behind a router.

Enters: a server start of a node job, and the nodes. Leaves: one address for the load client, which is ready. Workers are ready when each
answers its health route. The system is ready when the router sees all of them and one token has come through it: a router can report that
it is ready while every request fails.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import httpx

from ..client.endpoint import Endpoint
from ..engines.known import adapter
from ..errors import ServerError
from ..values.plain import plain
from ..values.point import Arm, NodeJob, Recipe
from .command import Stopped
from .crew import CAUSE_S, Crew
from .server import ANY_KEY, HEALTH_S, POLL_S, PORTS, Server, accepts_any_key, new_key, wait_until_ready

START_S = 300.0  # for a node to start a process: it may wait a minute for GPUs of an earlier job
AGREE = ("page_size", "kv_cache_dtype", "served_model_name")  # settings that must be the same for all roles
CANARY_S = 5.0  # between two attempts to get a token through the router


@dataclass(frozen=True)
class Worker:
    """One worker: its name and role, the node of its rank 0, and its address."""

    name: str
    role: str
    node: int
    endpoint: Endpoint


@dataclass
class Deployment(Server):
    """The servers as one. Its process and log are those of rank 0, or of the router."""

    crew: Crew | None = None
    job: NodeJob | None = None
    workers: Sequence[Worker] = field(default_factory=list)

    def alive_or_raise(self) -> None:
        """Raises ServerError if any process has ended, Stopped if the job must stop."""
        if self.place.is_stopped():
            raise Stopped
        assert self.crew is not None
        self.crew.alive_or_raise()

    def said(self, error: Exception) -> Exception:
        """The cause of the load client's error: the node or process that failed, if one is found within seconds."""
        until = time.monotonic() + CAUSE_S
        while isinstance(error, ServerError) and time.monotonic() < until:
            try:
                self.alive_or_raise()
            except ServerError as cause:
                return cause
            time.sleep(POLL_S)
        return super().said(error)

    def listens_or_raise(self) -> bool:
        """Whether all of them listen. Raises ServerError if somebody else does on one of their ports."""
        assert self.crew is not None
        return super().listens_or_raise() and all(_listens(self.crew, worker) for worker in self.workers)

    def parts(self) -> Iterator[tuple[Arm, Recipe, dict[str, Any]]]:
        """The arm, recipe and information of each worker. Raises ServerError if roles disagree in a setting that must be the same."""
        if not self.workers:
            yield from super().parts()
            return
        arms = {servers.role: servers.arm for servers in self.arm.servers}
        recipes = {part.role: part.recipe for part in self.recipe.roles}
        infos = [(worker, worker.endpoint.info()) for worker in self.workers]
        for name in AGREE:
            told = {worker.name: str(info[name]) for worker, info in infos if info.get(name) is not None}
            if len(set(told.values())) > 1:
                pairs = ", ".join(f"{worker} {value}" for worker, value in told.items())
                raise self.error(f"has workers that differ in {name}: {pairs}", "server_settings")
        for worker, info in infos:
            yield arms[worker.role], recipes[worker.role], info

    def endpoints(self) -> list[Endpoint]:
        """The workers, because not every router passes such requests on."""
        return [worker.endpoint for worker in self.workers] or [self]

    def info(self) -> dict[str, Any]:
        """The information of the decode workers, with the states of all their ranks; and that of each worker under `workers`."""
        if not self.workers:
            return super().info()
        told = {worker.name: worker.endpoint.info() for worker in self.workers}
        decoding = [told[worker.name] for worker in self.workers if worker.role == self.arm.servers[-1].role]
        states = [state for info in decoding for state in info.get("internal_states") or []]
        return {**decoding[0], "internal_states": states, "workers": told}

    def logs(self, n_bytes: int) -> str:
        """The ends of all logs, each with a heading. Nodes that do not answer are left out."""
        assert self.crew is not None
        parts = []
        for node in range(1 + len(self.crew.far)):
            with contextlib.suppress(ServerError, Stopped):
                for name, log in self.crew.ask(node, "logs", HEALTH_S)["logs"].items():
                    parts.append(f"==== {name} on {self.crew.name(node)} ====\n{log}")
        return "\n".join(parts)[-n_bytes:]


@contextlib.contextmanager
def deployed(crew: Crew, job: NodeJob, recipe: Recipe, number: int) -> Iterator[Deployment]:
    """The ready system of this recipe until the block ends; then all its processes are ended. `number`: of the server start.

    Raises ServerError with its class and node if it does not start, Stopped if the job must stop meanwhile.
    """
    try:
        yield _on_free_ports(crew, job, recipe, number)
    finally:
        crew.end_servers(START_S)


def _on_free_ports(crew: Crew, job: NodeJob, recipe: Recipe, number: int) -> Deployment:
    """The ready system. It is started again if somebody else has taken one of its ports."""
    for attempt in range(1, PORTS + 1):
        began = time.monotonic()
        try:
            server = _started(crew, job, recipe, number, began + job.arm.engine.start_timeout_s)
        except ServerError as error:
            if error.failure_class != "foreign_listener" or attempt == PORTS:
                raise
            print(f"{error.message} Other ports are tried.", file=sys.stderr, flush=True)
            crew.end_servers(START_S)
        else:
            server.start_s = time.monotonic() - began
            return server
    raise AssertionError


def _started(crew: Crew, job: NodeJob, recipe: Recipe, number: int, deadline: float) -> Deployment:
    arm, key = job.arm, new_key()
    workers = _start_workers(crew, arm, recipe, number, key)
    if not recipe.roles:
        return _ready(crew, job, "server-0.0", [], deadline)
    for worker in workers:
        _wait_for(crew, arm, worker, deadline)
    argv = [*recipe.argv]
    for worker in workers:
        argv += [f"--{worker.role}", worker.endpoint.base_url]
        argv += [worker.bootstrap] if isinstance(worker, _Prefill) else []
    port, metrics = crew.ask(0, "ports", HEALTH_S, n=2)["ports"]
    argv += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)]
    routing = replace(recipe, argv=(*argv, "--host", "$HOST", "--port", "$PORT"))
    crew.ask(0, "route", START_S, name="router", number=number, recipe=plain(routing), port=port, key=key)
    return _ready(crew, job, "router", workers, deadline)


def _ready(crew: Crew, job: NodeJob, name: str, workers: Sequence[Worker], deadline: float) -> Deployment:
    own = crew.hands.servers[name]
    same = {f.name: getattr(own, f.name) for f in fields(Server)}
    server = Deployment(**{**same, "arm": job.arm}, crew=crew, job=job, workers=workers)
    if workers:
        _wait_for_router(server, deadline)
    else:
        wait_until_ready(server, deadline)
    return server


@dataclass(frozen=True)
class _Prefill(Worker):
    bootstrap: str = ""


def _start_workers(crew: Crew, arm: Arm, recipe: Recipe, number: int, key: str) -> list[Worker]:
    """Starts every rank of every worker, on all nodes at the same time."""
    placements, recipes = arm.placements, {part.role: plain(part.recipe) for part in recipe.roles}
    ranks = {(p.role, p.worker): sum(o.role == p.role and o.worker == p.worker for o in placements) for p in placements}
    free = [crew.ask(p.node, "ports", HEALTH_S, n=1 if p.rank else 3)["ports"] for p in placements]  # every rank of SGLang listens
    heads = {(p.role, p.worker): (p.node, ports) for p, ports in zip(placements, free, strict=True) if p.rank == 0}
    asked: dict[int, list[dict[str, Any]]] = {}
    workers: list[Worker] = []
    for i, p in enumerate(placements):
        head, (port, meeting, bootstrap) = heads[p.role, p.worker]
        address = crew.address(head)
        words = {
            "$HEAD": f"{address}:{meeting}",
            "$NNODES": str(ranks[p.role, p.worker]),
            "$RANK": str(p.rank),
            "$BOOTSTRAP": str(bootstrap),
        }
        name = f"{p.role or 'server'}-{p.worker}.{p.rank}"
        started = {"number": number, "recipe": recipes.get(p.role) or plain(recipe), "placement": i}
        asked.setdefault(p.node, []).append({"name": name, **started, "port": free[i][0], "key": key, "words": words})
        if p.rank == 0 and p.role:
            endpoint = Endpoint(f"http://{address}:{port}", key)
            made = (
                _Prefill(name, p.role, p.node, endpoint, str(bootstrap)) if p.role == "prefill" else Worker(name, p.role, p.node, endpoint)
            )
            workers.append(made)
    crew.ask_all("start", START_S, asked)
    return workers


def _listens(crew: Crew, worker: Worker) -> bool:
    return bool(crew.ask(worker.node, "look", HEALTH_S, name=worker.name)["listens"])


def _wait_for(crew: Crew, arm: Arm, worker: Worker, deadline: float) -> None:
    """Returns when the worker answers its health route. Its key is sent only after its own node has confirmed who listens."""
    said, health, is_ours = "no answer yet", adapter(arm.engine).health_path, False
    while True:
        crew.alive_or_raise()
        if crew.progress.is_stopped():
            raise Stopped
        with contextlib.suppress(httpx.HTTPError):
            is_ours = is_ours or _listens(crew, worker)
            if is_ours:
                answer = worker.endpoint.ask("GET", health, within_s=HEALTH_S)
                if answer.status == 200:
                    _refuse_any_key(crew, arm, worker)
                    return
                said = f"GET {health}: {answer.status}"
        crew.hands.tell("loading", f"{worker.name} on {crew.name(worker.node)}: {_doing(crew, worker)}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"{worker.name} on node {crew.name(worker.node)} was not ready after {arm.engine.start_timeout_s:g} s ({said}).",
                failure_class="server_start_timeout",
                node=crew.name(worker.node),
            )
        time.sleep(POLL_S)


def _refuse_any_key(crew: Crew, arm: Arm, worker: Worker) -> None:
    with worker.endpoint.asking() as side:
        if adapter(arm.engine).takes_key and accepts_any_key(side):
            name = crew.name(worker.node)
            raise ServerError(f"{worker.name} on node {name} {ANY_KEY}.", failure_class="server_crash", node=name)


def _doing(crew: Crew, worker: Worker) -> str:
    report = crew.far[worker.node].report if worker.node else crew.hands.report()
    return str((report.get("doing") or {}).get(worker.name) or "starting")


def _wait_for_router(server: Deployment, deadline: float) -> None:
    """Returns when the router sees all workers as healthy and a token has come through it."""
    said, expected = "no answer yet", len(server.workers)
    while True:
        server.alive_or_raise()
        try:
            if server.listens_or_raise():
                answer = server.ask("GET", "/readiness", within_s=HEALTH_S)
                told = answer.json() if answer.status == 200 else {}
                healthy = told.get("healthy_workers") if isinstance(told, dict) else None
                said = f"GET /readiness: {answer.status}, {healthy} of {expected} workers are healthy"
                if answer.status == 200 and healthy == expected:
                    with server.asking() as side:  # the router answers other paths without a key
                        if accepts_any_key(side, "/workers"):
                            raise server.error(ANY_KEY, "server_crash")
                    said = _token_through(server)
                    if not said:
                        return
                    time.sleep(min(CANARY_S, max(0.0, deadline - time.monotonic())))
        except (httpx.HTTPError, ValueError) as error:
            said = f"GET /readiness: {error}"
        if time.monotonic() > deadline:
            raise server.error(f"was not ready after {server.arm.engine.start_timeout_s:g} s ({said})", "server_start_timeout")
        time.sleep(POLL_S)


def _token_through(server: Deployment) -> str:
    """Why no token came through the router; empty if one did."""
    body = {"input_ids": [1000, 1001, 1002], "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    try:
        answer = server.ask("POST", "/generate", body, within_s=60.0)
    except httpx.HTTPError as error:
        return f"a request of one token through the router: {error}"
    return "" if answer.status == 200 else f"a request of one token through the router: {answer.status} {answer.text[:200]}"


def hosts(crew: Crew) -> list[dict[str, Any]]:
    """The nodes of the job, for the record of a point."""
    return [{"node": crew.name(node), "address": crew.address(node)} for node in range(1 + len(crew.far))]


def placed(arm: Arm, crew: Crew) -> list[dict[str, Any]]:
    """Where each rank ran, for the record of a point."""
    return [{**plain(p), "host": crew.name(p.node)} for p in arm.placements]
