"""Where a running job says that it lives, and what it is doing.

One small JSON file, replaced every two seconds by a thread of its own, so that a job that hangs in a system call still beats and
one that was killed stops. Who reads it needs no scheduler: on the same host the process is looked up, elsewhere its age tells.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import EnvironmentLacks, FileError
from ..files import read_json, write_json

BEAT_S = 2.0
SILENT_S = 60.0


@dataclass
class Beat:
    """The content of the file. `host`, `pid` and `started_ticks` name one process on one machine; `node` is the scheduler's name of it."""

    host: str
    pid: int
    started_ticks: int
    time_utc_s: float
    phase: str = "starting"
    doing: str = ""  # within the phase, as the engine's log or the copy of the checkpoint tells it
    since_utc_s: float = 0.0  # of the phase
    node: str = ""
    node_job: str = ""
    key: str = ""
    requests_done: int = 0
    requests: int = 0
    points_done: int = 0
    points: int = 0
    left_s: float = -1.0  # about how long its points will still take; -1: it does not know
    said: str = ""  # what whoever looks should know: another version's code
    keys: list[str] = field(default_factory=list)  # of every point in this job's charge


class Heartbeat:
    """A thread that writes the beat until it is told to stop."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self._path = path
        self._stop, self._writing = threading.Event(), threading.Lock()
        pid = os.getpid()
        now = time.time()
        self.beat = Beat(socket.gethostname(), pid, process_started_ticks(pid), now, since_utc_s=now, node=node_name(), keys=keys)
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self.phase("done")

    def phase(self, phase: str, doing: str = "") -> None:
        """What the job does from now on, on disk when this returns."""
        self.beat.phase, self.beat.doing, self.beat.since_utc_s = phase, doing, time.time()
        self._write()

    def tell(self, phase: str, doing: str) -> None:
        """How far the phase is; of a phase that goes on, with the next beat: it may be told thousands of times."""
        if phase != self.beat.phase:
            self.phase(phase, doing)
        self.beat.doing = doing

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        with self._writing, suppress(EnvironmentLacks):  # a full disk must not end a measurement; the point's own write will say so
            self.beat.time_utc_s = time.time()
            write_json(self._path, asdict(self.beat))


def node_name() -> str:
    """The scheduler's name of this node, which it takes in --exclude; the host's where there is no scheduler."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def read_beat(path: Path) -> Beat | None:
    """The last beat, or None where there is none."""
    try:
        return Beat(**read_json(path))
    except (FileError, TypeError):
        return None


def is_running(path: Path) -> bool:
    """Whether the job with this heartbeat still runs."""
    beat = read_beat(path)
    return beat is not None and is_alive(beat, time.time())


def is_alive(beat: Beat, now_utc_s: float) -> bool:
    """Whether the job behind this beat still runs."""
    if beat.phase == "done":
        return False
    if beat.host == socket.gethostname():
        return process_started_ticks(beat.pid) == beat.started_ticks
    return now_utc_s - beat.time_utc_s < SILENT_S


def process_started_ticks(pid: int) -> int:
    """When this process started, in kernel ticks; -1 for one that is gone or a zombie. Source: proc(5), field 22 of stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def end_process(host: str, pid: int) -> None:
    """Asks a job's process to end, if it runs on this machine."""
    if host == os.uname().nodename:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
