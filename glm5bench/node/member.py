"""A node of a job that another node leads: it does what the leader asks, until the leader says goodbye or is gone.

Enters: a node job, the rank of this node, and the leader's address from a file. Leaves nothing but the records of its servers: the leader
writes all results. When the connection ends, for whatever reason, this node's servers end within seconds.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..directory import Campaign
from ..errors import EnvironmentLacks, FileError
from ..files import read_json
from ..values.point import NodeJob
from .crew import address_file
from .hands import Hands
from .heartbeat import Heartbeat, node_name
from .progress import Progress
from .wire import BEAT_S, Gone, Wire, connected, own_address

JOIN_S = 600.0  # how long to look for the leader
AGAIN_S = 0.5


def follow(campaign: Campaign, job: NodeJob, job_id: str, rank: int, heart: Heartbeat, progress: Progress, run: str = "") -> None:
    """Serves the leader of this node job until it ends. `run`: the run of this job, see say_over."""
    hello = {"rank": rank, "node": node_name(), "address": ""}
    try:
        hello["address"] = address = own_address(job.interface or None)
    except EnvironmentLacks as error:  # the leader reports it
        hello["lacks"], address = error.message, ""
    wire = _joined(campaign, job, job_id, hello, progress, run)
    if wire is not None and hello.get("lacks"):
        wire.close()
        print(f"{node_name()}: {hello['lacks']}", flush=True)
    elif wire is not None:
        member = _Member(campaign, job, job_id, address, wire, heart, progress)
        print(f"{node_name()}: {member.serve()}", flush=True)


def _joined(campaign: Campaign, job: NodeJob, job_id: str, hello: dict[str, Any], progress: Progress, run: str) -> Wire | None:
    """A wire to the leader. None if the job must stop before there is one, or if the leader has ended."""
    deadline, said = time.monotonic() + JOIN_S, "it has not written its address"
    while not progress.is_stopped() and time.monotonic() < deadline:
        try:
            told = read_json(address_file(campaign, job_id, job))  # of an earlier run of this job, until the leader has written its own
            if told.get("over") == run:
                return None
            return connected(told["address"], told["port"], told["secret"], hello)
        except (FileError, OSError, KeyError):
            pass
        except Gone as gone:
            said = str(gone)
        time.sleep(AGAIN_S)
    print(f"{node_name()}: no connection to the first node of this job: {said}", flush=True)
    return None


@dataclass
class _Member:
    campaign: Campaign
    job: NodeJob
    job_id: str
    address: str
    wire: Wire
    heart: Heartbeat
    progress: Progress
    _asked: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    _is_over: bool = False

    def serve(self) -> str:
        """Answers the leader until the end, and says why it ended."""
        self.heart.beat.node_job = self.job.id
        hands = Hands(self.campaign, self.job, self.job_id, self.address, self._must_stop, self.heart.tell)
        working = threading.Thread(target=self._work, args=(hands,), daemon=True)
        working.start()
        why = "the leader has ended"
        try:
            self._talk(hands)
        except Gone as gone:
            why = f"the leader is gone: {gone}"
        finally:
            self._is_over = True  # ends what the worker waits for
            self._asked.put(None)
            self.wire.close()
            working.join()
            hands.close()
        return why

    def _must_stop(self) -> bool:
        return self._is_over or self.progress.is_stopped()

    def _talk(self, hands: Hands) -> None:
        next_beat, has_told = 0.0, False
        while True:
            message = self.wire.receive(0.2)
            if message is not None and message.get("bye"):
                return
            if message is not None and "do" in message:
                self._asked.put(message)
            if self.progress.is_stopped() and not has_told:
                self.wire.send({"stopped": self.progress.why})
                has_told = True
            if time.monotonic() >= next_beat:
                self.wire.send({"report": hands.report()})
                next_beat = time.monotonic() + BEAT_S

    def _work(self, hands: Hands) -> None:
        """Does one request after another, so that a long one does not keep this node from reporting."""
        while (asked := self._asked.get()) is not None:
            answer = hands.do(asked)
            if answer.get("stopped") and self._is_over:
                return
            try:
                self.wire.send({"re": asked["id"], **answer})
            except Gone:
                return
