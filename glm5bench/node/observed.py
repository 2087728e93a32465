"""Telemetry of all nodes of a job as one: every server is observed on its own node, and the times are those of the leader's clock.

Enters: the nodes of a running system. Leaves: the same as a single observer. A device is named by its server, because GPUs of two nodes may
have the same name. The clocks are compared by short messages; half of the shortest round trip is the uncertainty.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..analysis.telemetry import OBSERVER, SERVER, Telemetry, Track
from ..errors import ServerError
from .command import Stopped
from .crew import Crew

ASK_S = 30.0
ROUNDS = 5  # messages to compare clocks


@dataclass
class Observers:
    """The observers of all servers. Nodes that do not answer are left out, and their GPUs count as unread."""

    crew: Crew
    is_split: bool  # whether there are several servers, so that none is `server`
    _seen: dict[int, tuple[int, int]] = field(default_factory=dict)  # node -> (round trip, its clock minus the leader's), in ns

    def poke(self) -> None:
        """Requests an immediate reading on all nodes."""
        self._all("poke")

    def account(self) -> dict[str, Any]:
        """The record that is stored with a point: all GPUs, the period, and why GPUs were not read."""
        told = [account for answer in self._all("account").values() for account in answer["accounts"]]
        devices = [{**d, "uuid": f"{account['name']} {d['uuid']}"} for account in told for d in account["devices"]]
        why = "; ".join(dict.fromkeys(account["why_none"] for account in told if account["why_none"]))
        clocks_s = max((trip / 2e9 for trip, _ in self._seen.values()), default=0.0)
        return {"devices": devices, "period_s": told[0]["period_s"] if told else 0.0, "why_none": why, "clock_uncertainty_s": clocks_s}

    def told(self, start_ns: int, end_ns: int) -> Telemetry | None:
        """The telemetry of the window, as `Observer.told` gives it."""
        curves = []
        for node in self._nodes():
            offset_ns = self._offset_ns(node)
            with contextlib.suppress(ServerError, Stopped):
                told = self.crew.ask(node, "observed", ASK_S, start_ns=start_ns + offset_ns, end_ns=end_ns + offset_ns)["tracks"]
                for name, device, quantity, unit, at_ns, values in told:
                    curves.append((Track(self._device(name, device), quantity, unit), at_ns, values))
        made = Telemetry.of(curves)
        return made if made.tracks else None

    def foreign(self, start_ns: int, end_ns: int) -> list[int]:
        """Ids of other processes on the servers' GPUs at an edge of the window. Call `told` first."""
        found: set[int] = set()
        for node in self._nodes():
            offset_ns = self._offset_ns(node)
            with contextlib.suppress(ServerError, Stopped):
                found |= set(self.crew.ask(node, "foreign", ASK_S, start_ns=start_ns + offset_ns, end_ns=end_ns + offset_ns)["pids"])
        return sorted(found)

    def _device(self, name: str, device: str) -> str:
        if device == SERVER and not self.is_split:
            return SERVER
        return f"{OBSERVER} {name}" if device == OBSERVER else f"{name} {device}"

    def _nodes(self) -> range:
        return range(1 + len(self.crew.far))

    def _all(self, what: str) -> dict[int, dict[str, Any]]:
        found = {}
        for node in self._nodes():
            with contextlib.suppress(ServerError, Stopped):
                found[node] = self.crew.ask(node, what, ASK_S)
        return found

    def _offset_ns(self, node: int) -> int:
        """The monotonic clock of a node minus that of the leader."""
        if node == 0:
            return 0
        for _ in range(ROUNDS):
            before = time.monotonic_ns()
            with contextlib.suppress(ServerError, Stopped):
                theirs = int(self.crew.ask(node, "clock", ASK_S)["ns"])
                trip = time.monotonic_ns() - before
                seen = (trip, theirs - before - trip // 2)
                self._seen[node] = min(self._seen.get(node, seen), seen)
        return self._seen.get(node, (0, 0))[1]


@contextlib.contextmanager
def observing_all(crew: Crew, *, is_split: bool, period_s: float) -> Iterator[Observers]:
    """The observers of all servers that run now, until they end."""
    observers = Observers(crew, is_split)
    for node in range(1 + len(crew.far)):
        crew.ask(node, "observe", ASK_S, period_s=period_s)
    yield observers
