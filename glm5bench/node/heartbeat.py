"""The heartbeat file of a running job: that the job is alive, and what it is doing.

One small JSON file, replaced every two seconds by a separate thread. It is updated even if the job hangs in a system call, and no longer
if the job was killed. Readers need no scheduler: on the same host they check the process, elsewhere the age of the file.
"""

from __future__ import annotations

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
JOB_COMMANDS = (b"submitit.core._submit", b"glm5bench")  # in the command line of a job, or of a sweep that runs its jobs itself
SILENT_S = 60.0


@dataclass
class Beat:
    """The content of the file. `host`, `pid` and `started_ticks` identify a process; `node` is the scheduler's name for the machine."""

    host: str
    pid: int
    started_ticks: int
    time_utc_s: float
    phase: str = "starting"
    doing: str = ""  # step within the phase, from the engine's log or the copy of the checkpoint
    since_utc_s: float = 0.0  # start of the phase
    node: str = ""
    node_job: str = ""
    key: str = ""
    requests_done: int = 0
    requests: int = 0
    points_done: int = 0
    points: int = 0
    left_s: float = -1.0  # estimated time for the remaining points; -1: unknown
    said: str = ""  # a note for whoever reads the status, e.g. that the code is of another version
    keys: list[str] = field(default_factory=list)  # of every point assigned to this job
    name: str = ""  # of the job: an id alone may belong to another one


class Heartbeat:
    """A thread that writes the beat until it is stopped."""

    def __init__(self, path: Path, keys: list[str], name: str = "") -> None:
        self._path = path
        self._stop, self._writing = threading.Event(), threading.Lock()
        pid = os.getpid()
        now = time.time()
        ticks, node = process_started_ticks(pid), node_name()
        self.beat = Beat(socket.gethostname(), pid, ticks, now, since_utc_s=now, node=node, keys=keys, name=name)
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
        """Sets the phase of the job, and writes it to disk before it returns."""
        self.beat.phase, self.beat.doing, self.beat.since_utc_s = phase, doing, time.time()
        self._write()

    def tell(self, phase: str, doing: str) -> None:
        """Sets the step within the phase. In an unchanged phase the next beat writes it, so frequent calls are cheap."""
        if phase != self.beat.phase:
            self.phase(phase, doing)
        self.beat.doing = doing

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        with self._writing, suppress(EnvironmentLacks):  # a full disk must not end a measurement; writing the point will report it
            self.beat.time_utc_s = time.time()
            write_json(self._path, asdict(self.beat))


def node_name() -> str:
    """The scheduler's name of this node, as used in --exclude; without a scheduler, the host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def read_beat(path: Path) -> Beat | None:
    """The last beat, or None if the file is missing or cannot be read."""
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
    """When this process started, in kernel ticks; -1 if it has ended or is a zombie. Source: proc(5), field 22 of stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def end_process(host: str, pid: int, started_ticks: int) -> bool:
    """Asks a job's process to end. False if it is not on this machine, has ended, or is not provably a job of this user.

    A process id in a file proves nothing: it is compared with the start time, the owner and the command line of the process.
    """
    if host != os.uname().nodename or pid < 2 or process_started_ticks(pid) != started_ticks:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid() and any(sign in word for word in command for sign in JOB_COMMANDS)
        if is_ours:
            os.kill(pid, signal.SIGTERM)
        return is_ours
    except OSError:
        return False
