"""The nodes of one job as its leader sees them: gathers them, asks them to do things, and notices at once when one is gone.

Enters: a node job whose servers need several processes or nodes. Leaves: answers of nodes, and errors that name the node.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..directory import Campaign
from ..errors import EnvironmentLacks, ServerError
from ..values.point import NodeJob
from .command import NEXT_STEPS, Stopped
from .hands import Hands
from .heartbeat import Heartbeat, node_name
from .progress import Progress
from .wire import BEAT_S, Gone, Message, Wire, accepted, own_address

GATHER_S = 300.0  # for all nodes of a job to start
PREPARE_S = 6 * 3600.0  # for the other nodes to copy the checkpoint
POLL_S = 0.1
ANSWER_S = 30.0
STRANGERS = 64  # connections that may prove at the same time that they know the secret
CLOCKS_S = 1.0  # allowed difference between the wall clocks of two nodes
CAUSE_S = 2.5 * BEAT_S  # for all nodes to report after a failure


def address_file(campaign: Campaign, job_id: str, job: NodeJob) -> Path:
    """Where the leader of a job writes its address and the job's secret."""
    return campaign.job(job_id) / f"crew-{job.id}.json"


def say_over(campaign: Campaign, job_id: str, job: NodeJob, run: str) -> None:
    """Tells nodes that wait for the leader that there is nothing to wait for. `run`: the run of this job, which may be requeued."""
    with contextlib.suppress(OSError):
        _write_secretly(address_file(campaign, job_id, job), {"over": run})


class NodeGone(ServerError):
    """A node of the job is gone, so the job cannot continue."""


@dataclass
class Far:
    """Another node of the job."""

    name: str
    address: str
    wire: Wire
    gone: str = ""
    stopped: str = ""
    report: Message = field(default_factory=dict)
    generation: int = 0  # of its servers, see Hands
    answers: dict[int, Message] = field(default_factory=dict)


@dataclass
class Crew:
    """All nodes of the job. `hands` is the leader's own node, number 0."""

    hands: Hands
    names: Sequence[str]
    progress: Progress
    far: dict[int, Far] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)  # node -> why it cannot take part
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _n_asked: int = 0
    _is_closed: bool = False

    def address(self, node: int) -> str:
        """The address at which other nodes reach this one."""
        return self.far[node].address if node else self.hands.address

    def name(self, node: int) -> str:
        """The scheduler's name of this node."""
        known = self.far[node].name if node in self.far else self.names[node] if node < len(self.names) else f"number {node}"
        return known if node else node_name()

    def ask(self, node: int, what: str, within_s: float, **arguments: Any) -> Message:
        """A node's answer. Raises ServerError with the node's name, or Stopped."""
        return self._ask(node, what, within_s, arguments, threading.Event())

    def _ask(self, node: int, what: str, within_s: float, arguments: Mapping[str, Any], is_given_up: threading.Event) -> Message:
        message = {"do": what, "with": dict(arguments)}
        answer = self._asked(node, message, within_s, is_given_up) if node else self.hands.do(message)
        if node and "generation" in answer:
            self.far[node].generation = int(answer["generation"])
        if answer.get("stopped"):
            raise Stopped
        if "error" in answer:
            raise ServerError(**answer["error"], node=self.name(node))
        return answer

    def ask_all(self, what: str, within_s: float, each: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[int, list[Message]]:
        """The answers of several nodes, which work at the same time. `each`: the arguments of the requests to each node."""
        has_failed = threading.Event()  # then nobody waits for the other nodes, which may copy a checkpoint for an hour

        def asked(node: int) -> list[Message]:
            try:
                return [self._ask(node, what, within_s, arguments, has_failed) for arguments in each[node]]
            except BaseException:
                has_failed.set()
                raise

        with ThreadPoolExecutor(len(each)) as pool:
            futures = {node: pool.submit(asked, node) for node in each}
        errors = [error for future in futures.values() if (error := future.exception()) is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        return {node: future.result() for node, future in futures.items()}

    def end_servers(self, within_s: float) -> None:
        """Ends the servers of all nodes. Nodes that do not answer end theirs when their connection ends."""
        with contextlib.suppress(ServerError, Stopped):
            self.ask_all("end", within_s, {node: [{}] for node in range(1 + len(self.far))})
        self.hands.do({"do": "end", "with": {}})

    def prepare(self, model_path: str) -> list[str]:
        """Notes of the other nodes' checks; the leader has checked its own. Raises ServerError with the node's name if one cannot run."""
        self.hands.model_path = model_path
        if not self.far:
            return []
        self.hands.tell("preflight", f"{len(self.far)} other nodes")
        prepared = self.ask_all("prepare", PREPARE_S, {node: [{}] for node in self.far})
        notes = [
            f"{self.name(node)}: {f['what']}: {f['said']}"
            for node, (told,) in prepared.items()
            for f in told["findings"]
            if f["is_well"] is None
        ]
        return notes + [note for node in self.far if (note := self._clock_note(node))]

    def _clock_note(self, node: int) -> str:
        """A note if a node's wall clock differs from the leader's by more than a second."""
        before = time.time()
        theirs = float(self.ask(node, "clock", ANSWER_S)["utc_s"])
        off_s = theirs - (before + time.time()) / 2
        return f"{self.name(node)}: clock: {off_s:+.1f} s compared with {self.name(0)}" if abs(off_s) > CLOCKS_S else ""

    def alive_or_raise(self) -> None:
        """Raises NodeGone or ServerError with the node's name if a node is gone or one of its servers has failed, Stopped at an end."""
        for node, far in self.far.items():
            self._refuse_gone(node, far)
        if not self.failures():
            return
        time.sleep(CAUSE_S if self.far else 0.0)  # when one rank dies, the others fail too: which was the cause?
        if self.progress.is_stopped():
            raise Stopped
        for node, far in self.far.items():
            self._refuse_gone(node, far)
        for _, node, error in sorted(self.failures(), key=lambda failure: failure[0])[:1]:
            raise ServerError(**error, node=self.name(node) if node else "")

    def failures(self) -> list[tuple[int, int, dict[str, Any]]]:
        """(rank of likelihood to be the cause, node, error) of every failed server."""
        current = {node: far.report for node, far in self.far.items() if far.report.get("generation", -1) >= far.generation}
        reports = {0: self.hands.report(), **current}
        return [
            (0 if told["error"]["failure_class"] == "server_oom" else 1 if told["is_killed"] else 2, node, told["error"])
            for node, report in reports.items()
            for told in dict(report.get("failed") or {}).values()
        ]

    def _refuse_gone(self, node: int, far: Far) -> None:
        if far.stopped:
            self.progress.stopped(far.stopped)
            raise Stopped
        if far.gone:
            if self.progress.is_soon_stopped():  # a signal that ends the whole job may reach the other node first
                raise Stopped
            raise NodeGone(
                f"Node {self.name(node)} of this job is gone: {far.gone}.",
                failure_class="node_fault",
                next_step=NEXT_STEPS["node_fault"],
                node=self.name(node),
            )

    def _asked(self, node: int, message: Message, within_s: float, is_given_up: threading.Event) -> Message:
        far = self.far[node]
        with self._changed:
            self._n_asked += 1
            number = self._n_asked
        self._refuse_gone(node, far)
        with contextlib.suppress(Gone):  # its reader finds out
            far.wire.send({**message, "id": number})
        deadline = time.monotonic() + within_s
        with self._changed:
            while number not in far.answers and not far.gone and not far.stopped and time.monotonic() < deadline:
                if self.progress.is_stopped() or is_given_up.is_set():
                    raise Stopped
                self._changed.wait(POLL_S)
            answer = far.answers.pop(number, None)
        if answer is None:
            self._refuse_gone(node, far)
            raise ServerError(
                f"Node {self.name(node)} did not answer within {within_s:g} s.", failure_class="node_fault", node=self.name(node)
            )
        return answer

    def take(self, node: int, far: Far) -> bool:
        """Adds a node. False if there is one of this number, or if the job has ended."""
        with self._changed:
            is_new = node not in self.far and not self._is_closed
            if is_new:
                self.far[node] = far
        return is_new

    def close(self) -> None:
        """Ends the servers of all nodes, and then their connections."""
        with self._changed:
            self._is_closed = True
        for far in self.far.values():
            with contextlib.suppress(Gone):
                far.wire.send({"bye": True})
        self.hands.close()
        for far in self.far.values():
            far.gone = far.gone or "the job has ended"
            far.wire.close()

    def read(self, node: int) -> None:
        """Takes what a node sends, until it is gone. Runs in a thread for each node."""
        far, next_beat = self.far[node], 0.0
        while not far.gone:
            try:
                message = far.wire.receive(POLL_S)
                if time.monotonic() >= next_beat:
                    far.wire.send({"beat": True})
                    next_beat = time.monotonic() + BEAT_S
            except Gone as gone:
                message = {"gone": str(gone)}
            if message is None:
                continue
            with self._changed:
                far.report = message.get("report", far.report)
                far.stopped = far.stopped or ("" if "re" in message else str(message.get("stopped") or ""))
                far.gone = far.gone or str(message.get("gone") or "")
                if "re" in message:
                    far.answers[int(message["re"])] = message
                self._changed.notify_all()


@contextlib.contextmanager
def gathered(
    campaign: Campaign,
    job: NodeJob,
    job_id: str,
    names: Sequence[str],
    heart: Heartbeat,
    progress: Progress,
) -> Iterator[Crew]:
    """All nodes of the job, until the block ends; then all of them end their servers.

    Raises NodeGone if a node does not come, Stopped if the job must stop meanwhile.
    """
    try:
        address = own_address(job.interface or None)
    except EnvironmentLacks as error:
        raise NodeGone(error.message, failure_class="node_fault", next_step=error.next_step, node=node_name()) from error
    crew = Crew(Hands(campaign, job, job_id, address, progress.is_stopped, heart.tell), names, progress)
    try:
        if job.arm.nodes > 1:
            _gather(crew, campaign, job, job_id, heart)
        yield crew
    finally:
        crew.close()


def _gather(crew: Crew, campaign: Campaign, job: NodeJob, job_id: str, heart: Heartbeat) -> None:
    secret, path = secrets.token_urlsafe(32), address_file(campaign, job_id, job)
    deadline, strangers = time.monotonic() + GATHER_S, list[threading.Thread]()
    with socket.create_server((crew.hands.address, 0)) as listening:
        listening.settimeout(POLL_S)
        _write_secretly(path, {"address": crew.hands.address, "port": listening.getsockname()[1], "secret": secret})
        try:
            while len(crew.far) < job.arm.nodes - 1:
                heart.tell("gathering", f"{len(crew.far) + 1} of {job.arm.nodes} nodes")
                _refuse_missing(crew, job, deadline)
                with contextlib.suppress(TimeoutError):
                    connection, _ = listening.accept()
                    strangers = [thread for thread in strangers if thread.is_alive()]
                    if len(strangers) == STRANGERS:
                        connection.close()
                        continue
                    strangers.append(threading.Thread(target=_let_in, args=(crew, connection, secret, job.arm.nodes), daemon=True))
                    strangers[-1].start()  # a connection that says nothing must not keep the others waiting
        finally:
            path.unlink(missing_ok=True)


def _let_in(crew: Crew, connection: socket.socket, secret: str, n_nodes: int) -> None:
    try:
        came = accepted(connection, secret)
    except OSError:  # it has closed the connection
        return
    if came is None:
        return
    wire, hello = came
    rank, node = int(hello["rank"]), str(hello["node"])
    if hello.get("lacks"):
        crew.lacks[node] = str(hello["lacks"])
    if hello.get("lacks") or not 0 < rank < n_nodes or not crew.take(rank, Far(node, str(hello["address"]), wire)):
        wire.close()
        return
    threading.Thread(target=crew.read, args=(rank,), daemon=True, name=f"node {rank}").start()


def _refuse_missing(crew: Crew, job: NodeJob, deadline: float) -> None:
    if crew.progress.is_stopped():
        raise Stopped
    for node, far in [*crew.far.items()]:
        crew._refuse_gone(node, far)
    for name, lacks in crew.lacks.items():
        raise NodeGone(lacks, failure_class="node_fault", next_step="set cluster.interface", node=name)
    if time.monotonic() > deadline:
        node = min(set(range(1, job.arm.nodes)) - crew.far.keys())
        raise NodeGone(
            f"Node {crew.name(node)} of this job did not start within {GATHER_S:g} s.",
            failure_class="node_fault",
            next_step=NEXT_STEPS["node_fault"],
            node=crew.name(node),
        )


def _write_secretly(path: Path, value: Message) -> None:
    """Writes a file that only this user can read, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file)
    beside.replace(path)
