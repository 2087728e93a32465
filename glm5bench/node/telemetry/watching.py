"""The job's side of the observer: starts it with a server, and returns its readings of a window.

Enters: a ready server. Leaves: Telemetry on the clock of the requests, and which GPUs are the server's. Missing readings raise no error:
they are absent, and the point's reasons report them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...analysis.telemetry import OBSERVER, SERVER, Telemetry, Track
from ...client import metrics
from ...client.endpoint import Endpoint
from ...machine.gpus import VARIABLES, visible
from ..command import PACKAGE_ROOT
from .quantities import UNITS

READY_S = 20.0  # for the observer to list the GPUs
POWER_LAG_NS = 500_000_000  # NVML's power is the mean of the second before
LATER_S = 3.0  # longest wait for a reading after the window
SIMULATED_S = 0.1  # shortest period for a simulation whose clock runs fast
POLL_S = 0.02
EDGE_S = 2.0  # a reading within this time of an edge of the window belongs to the edge


@dataclass(frozen=True)
class Wanted:
    """What to read: whose GPUs (nvidia, amd, simulated, none), how many the server uses, its session, and the period in seconds.

    `has_metrics`: whether the process answers requests. Only rank 0 of a server does; on other nodes its port may be somebody else's.
    """

    gpus: str
    n_gpus: int
    session: int
    period_s: float
    has_metrics: bool = True


class Observer:
    """A running observer. `devices`: the server's GPUs, by their UUIDs; `why_none`: why no GPU was read."""

    def __init__(self, process: subprocess.Popen[str], path: Path, wanted: Wanted, environment: Mapping[str, str] = os.environ) -> None:
        self._process, self._path, self._offset = process, path, 0
        self._period_s = wanted.period_s
        self._lag_ns = POWER_LAG_NS if wanted.gpus == "nvidia" else 0
        self._kept: list[dict[str, Any]] = []
        self._session = wanted.session
        self._edges: list[dict[str, Any]] = []
        head = self._head()
        self.why_none: str = head["why_none"]
        each = [d | {"place": i} for i, d in enumerate(head["devices"])]  # position in a reading; may differ from the number on the node
        self.devices = used(each, wanted, environment)
        if head["devices"] and not self.devices:
            told = next((f"{name}={environment[name]}" for name in VARIABLES if environment.get(name)), "no variable")
            self.why_none = f"none of the {len(head['devices'])} GPUs found is the server's: {told}"

    @property
    def pid(self) -> int:
        """The observer's process id."""
        return self._process.pid

    def _head(self) -> dict[str, Any]:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                line = file.readline()
                if line.endswith(b"\n"):
                    self._offset = len(line)
                    head: dict[str, Any] = json.loads(line)
                    return head
            time.sleep(POLL_S)
        return {"devices": [], "why_none": "the observer did not start"}

    def account(self) -> dict[str, Any]:
        """The record that is stored with a point: the server's GPUs, the period, and why no GPU was read."""
        devices = [{name: d[name] for name in ("uuid", "name", "driver")} for d in self.devices]
        return {"devices": devices, "period_s": self._period_s, "why_none": self.why_none}

    def told(self, start_ns: int, end_ns: int) -> Telemetry | None:
        """The telemetry of the window, from the last reading before it to the first one after it. Its clock begins at the window's start.

        Both times are on the machine's monotonic clock. None if nothing was read.
        """
        deadline, after_ns = time.monotonic() + LATER_S, end_ns + self._lag_ns
        lines = self._kept
        while True:
            lines += self._new()
            if (lines and lines[-1]["t"] >= after_ns) or time.monotonic() > deadline or self._process.poll() is not None:
                break
            time.sleep(POLL_S)
        first = max((i for i, line in enumerate(lines) if line["t"] <= start_ns), default=0)
        last = next((i for i, line in enumerate(lines) if line["t"] >= after_ns), len(lines))
        self._edges = [line for line in lines if "pids" in line]
        self._kept = lines[max(0, last - 1) :]  # the next window may begin before the next reading
        return telemetry(lines[max(0, first - 1) : last + 1], self.devices, start_ns, self._lag_ns)

    def foreign(self, start_ns: int, end_ns: int) -> list[int]:
        """Ids of other processes on the server's GPUs at an edge of the window. Call `told` for this window first.

        Considers only GPUs on which the server's own processes are visible. On others the process ids belong to another namespace.
        """
        found: set[int] = set()
        slack_ns = round(EDGE_S * 1e9)
        for line in self._kept + self._edges:
            if "pids" not in line or not start_ns - slack_ns <= line["t"] <= end_ns + slack_ns:
                continue
            for place in (d["place"] for d in self.devices):
                on = line["pids"][place] if place < len(line["pids"]) else []
                if any(session == self._session for _, session in on):
                    found |= {pid for pid, session in on if session != self._session}
        return sorted(found)

    def poke(self) -> None:
        """Requests an immediate reading with the processes on each GPU, in addition to the periodic ones."""
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(".")
            self._process.stdin.flush()

    def _new(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                with contextlib.suppress(ValueError):  # a partial line, written while the disk was full
                    yield json.loads(line)


def used(devices: Sequence[dict[str, Any]], wanted: Wanted, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The server's GPUs: those used by processes of its session. If that is unknown, the first ones of those visible to it."""
    own = [d for d in devices if any(_session(pid) == wanted.session for pid in d["pids"])]
    if len(own) == wanted.n_gpus:
        return own
    names, seen = visible(environment) if wanted.gpus != "simulated" else None, list(devices)
    if names is not None:
        found = [[d for d in devices if name == str(d["index"]) or (name and d["uuid"].startswith(name))] for name in names]
        seen = [each[0] for each in found if each]
    return seen[: wanted.n_gpus]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def telemetry(lines: Sequence[dict[str, Any]], devices: Sequence[dict[str, Any]], start_ns: int, lag_ns: int = 0) -> Telemetry | None:
    """The lines of an observer as tracks, for these GPUs only; None if nothing was read. `lag_ns`: age of a power value when it is read."""
    at = [line["t"] - start_ns for line in lines]
    earlier = [t - lag_ns for t in at]
    curves: list[tuple[Track, list[int], list[float | None]]] = []
    for d in devices:
        own = [line["gpus"][d["place"]] if d["place"] < len(line["gpus"]) else {} for line in lines]
        for name, unit in UNITS.items():
            curves.append((Track(d["uuid"], name, unit), earlier if name == "power" else at, [reading.get(name) for reading in own]))
    told = [line for line in lines if "server" in line]
    server_at = [line["server_t"] - start_ns for line in told]
    curves += [(Track(SERVER, name, unit), server_at, [line["server"].get(name) for line in told]) for name, unit in metrics.UNITS.items()]
    curves.append((Track(OBSERVER, "cpu", "s since its start"), at, [line["cpu_s"] for line in lines]))
    made = Telemetry.of(curves)
    return made if made.tracks else None


@contextlib.contextmanager
def observing(server: Endpoint, folder: Path, wanted: Wanted, environment: Mapping[str, str] = os.environ) -> Iterator[Observer]:
    """A running observer of this server until the block ends. `environment`: that of the server, which may show it only some GPUs."""
    path = folder / "observed.jsonl"
    with contextlib.suppress(OSError):
        path.unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "glm5bench.node.telemetry.observer", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])},
    )
    assert process.stdin is not None
    asked = {"gpus": wanted.gpus, "server": "", "key": "", "period_s": wanted.period_s}
    asked |= {"server": server.base_url, "key": server.api_key} if wanted.has_metrics else {}
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
        yield Observer(process, path, wanted, environment)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # the observer ends
        try:
            process.wait(timeout=2 * LATER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
