"""The process that records telemetry during the load: GPUs and the server's metrics, one line of JSON per period.

`python -m glm5bench.node.telemetry.observer FILE`. The first line of its standard input says what to read. Each further byte requests an
immediate reading with the processes on each GPU. The observer ends when its standard input ends, however the job ended. It is a separate
process, so that readings do not delay the load client's clock. Fields of a line: `t`, the time in ns of the machine's monotonic clock;
`gpus`, the readings of each GPU; `server`, its metrics; `pids`, the processes; `cpu_s`, the CPU time of the observer so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import httpx

from ...client.metrics import values
from ...client.side import Side
from .amd import amd
from .double import Library
from .nvml import Nvml
from .quantities import Reader

MOST_S = 1.0  # longest wait for the server's answer: a hung server must not stop the readings of the GPUs


class Asked:
    """The job's request. `gpus`: nvidia, amd, simulated or none; `server`: its base URL, empty: only GPUs; `key`: its API key."""

    def __init__(self, line: str) -> None:
        told: dict[str, Any] = json.loads(line)
        self.gpus: str = told["gpus"]
        self.server: str = told["server"]
        self.key: str = told["key"]
        self.period_s: float = told["period_s"]


class Connection:
    """One connection to the server, which is reopened when it breaks."""

    def __init__(self, base_url: str, key: str) -> None:
        self._side = Side(base_url, {"authorization": f"Bearer {key}"}.items() if key else ()).__enter__()  # until this process ends

    def get(self, path: str) -> str:
        """The text at the path. Raises OSError if there is none within a second."""
        try:
            said = self._side.ask("GET", path, within_s=MOST_S)
        except httpx.HTTPError as error:
            raise OSError(f"GET {path}: {error}") from error
        if said.status != 200:
            raise OSError(f"GET {path}: {said.status}")
        return said.text


def reader(asked: Asked) -> Reader | None:
    """The reader of the GPUs; None if no GPUs are requested. Raises OSError if they cannot be read."""
    if asked.gpus == "simulated":
        connection = Connection(asked.server, asked.key)
        return Nvml(Library(lambda: json.loads(connection.get("/simulated_gpus")), driver="simulated"))
    if asked.gpus == "nvidia":
        import pynvml

        return Nvml(pynvml)
    if asked.gpus == "amd":
        return amd()
    return None


def main(argv: Sequence[str]) -> int:
    """Reads until its standard input ends."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):  # Slurm signals all processes of a job, but the job ends this one
        signal.signal(signum, signal.SIG_IGN)
    try:
        return _observe(Asked(_first_line()), argv[0])
    except OSError as error:  # a full disk: the points are measured anyway, and report missing telemetry
        print(f"telemetry stopped: {error}", file=sys.stderr)
        return 3


def _observe(asked: Asked, path: str) -> int:
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        try:
            gpus, why = reader(asked), ""
        except Exception as error:  # vendors' libraries raise many types; the server's metrics are still read
            gpus, why = None, f"{type(error).__name__}: {error}"
        _write(file, _head(gpus, why))
        server = Connection(asked.server, asked.key) if asked.server else None
        due = time.monotonic()
        while True:
            is_told = select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]
            if is_told and not os.read(sys.stdin.fileno(), 64):
                return 0
            _write(file, _reading(gpus, server) | ({"pids": _processes(gpus)} if is_told and gpus else {}))
            due = due if is_told else max(due + asked.period_s, time.monotonic())


def _first_line() -> str:
    """The first line of standard input. Read byte by byte, because `select` waits for what follows and does not see buffered bytes."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    return line.decode()


def _head(gpus: Reader | None, why: str) -> dict[str, Any]:
    devices = [vars(d) | {"pids": list(gpus.processes(d))} for d in gpus.devices] if gpus else []
    return {"devices": devices, "why_none": why}


def _processes(gpus: Reader) -> list[list[list[int]]]:
    """[process id, its session] of the processes on each GPU, without those that have ended or are not visible from here."""
    found = []
    for device in gpus.devices:
        sessions = []
        for pid in gpus.processes(device):
            with contextlib.suppress(OSError):
                sessions.append([pid, os.getsid(pid)])
        found.append(sessions)
    return found


def _reading(gpus: Reader | None, server: Connection | None) -> dict[str, Any]:
    before = time.monotonic_ns()
    try:
        read = [dict(values_) for values_ in gpus.read()] if gpus else []
    except Exception:  # a failed reading is a missing reading
        read = []
    made: dict[str, Any] = {"t": (before + time.monotonic_ns()) // 2, "gpus": read}
    with contextlib.suppress(OSError, ValueError):  # no metrics, or the server is busy: the line has no `server`
        if server is not None:
            asked_at = time.monotonic_ns()
            made |= {"server": values(server.get("/metrics")), "server_t": (asked_at + time.monotonic_ns()) // 2}
    used = os.times()  # including its children: AMD's tools
    return {**made, "cpu_s": sum(used[:4])}


def _write(file: IO[str], line: dict[str, Any]) -> None:
    file.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
