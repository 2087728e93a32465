"""Reads untrusted files in separate processes. If libhdf5 crashes on a file, only that file is affected.

Enters: tasks, each about one file. Leaves: the result of each task, or a FileError if its process crashed, hung, or needed more memory
than its file can need. An EnvironmentLacks of the machine is raised. If a process crashes that has read other files before, the task is
repeated in a new process. The processes are forks, so starting one takes milliseconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import EnvironmentLacks, FileError

Task = TypeVar("Task")
Result = TypeVar("Result")

MEMORY_BYTES = 3 << 28
MEMORY_PER_BYTE = 64  # of a file: decoded data are about ten times larger, and working copies are needed
SECONDS = 120.0  # a disk may be slow
PROCESSOR_S = 10.0  # libhdf5 loops forever on some damaged files
BYTES_PER_S = 2e6  # adds (size of the file) / BYTES_PER_S to both limits
TOO_LONG = "Reading the file took too long: it is damaged or hostile."
NICENESS = 5  # the process that assigns the work has priority
GRACE_S = 1.0  # after this extra time a reader ends itself


@dataclass
class _Reader(Generic[Task]):
    process: Any
    pipe: Connection
    task: Task | None = None
    path: Path = Path()
    until: float = 0.0
    n_read: int = 0


class _Ahead(Generic[Task]):
    """Tasks with a look-ahead of one, because making a task also takes time."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks, self._seen = tasks, deque[Task]()

    def look(self) -> None:
        """Makes the next task, if none is waiting."""
        if not self._seen:
            self._seen.extend(itertools.islice(self._tasks, 1))

    def next(self) -> Task | None:
        """The next task; None after the last."""
        self.look()
        return self._seen.popleft() if self._seen else None


class Readers(Generic[Task, Result]):
    """`jobs` processes that run `read` on tasks. `path_of` gives the file of a task."""

    def __init__(self, read: Callable[[Task], Result], path_of: Callable[[Task], Path], *, jobs: int = 1) -> None:
        self._read, self._path_of, self._jobs = read, path_of, jobs
        self._readers: list[_Reader[Task]] = []

    def __enter__(self) -> Readers[Task, Result]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for reader in self._readers:
            _end(reader)

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | FileError]]:
        """Each task with its result, in order of completion. One more task is made than there are processes."""
        for reader in [r for r in self._readers if r.task is not None]:  # left by a map that was not consumed to its end
            _end(reader)
            self._readers.remove(reader)
        waiting = _Ahead(iter(tasks))
        done: list[tuple[Task, Result | FileError]] = []
        while True:
            self._give_all(waiting)  # before results are yielded: readers work while the caller handles them
            yield from done
            busy = [r for r in self._readers if r.task is not None]
            if not busy:
                return
            waiting.look()  # while the readers work
            soonest = max(0.0, min(r.until for r in busy) - time.monotonic())
            ready = wait([r.pipe for r in busy], soonest)
            done = [each for r in busy if r.pipe in ready or time.monotonic() > r.until for each in self._taken(r)]

    def _give_all(self, waiting: _Ahead[Task]) -> None:
        while len([r for r in self._readers if r.task is not None]) < self._jobs:
            task = waiting.next()
            if task is None:
                return
            idle = next((r for r in self._readers if r.task is None), None)
            self._give(idle or self._started(), task)

    def _started(self) -> _Reader[Task]:
        ours, theirs = multiprocessing.Pipe()
        with warnings.catch_warnings():  # a fork while threads run: the child uses nothing that they may have locked
            warnings.simplefilter("ignore", DeprecationWarning)
            process = multiprocessing.get_context("fork").Process(
                target=_serve, args=(self._read, self._path_of, theirs, os.getpid()), daemon=True
            )
            process.start()
        theirs.close()
        reader: _Reader[Task] = _Reader(process, ours)
        self._readers.append(reader)
        return reader

    def _give(self, reader: _Reader[Task], task: Task) -> None:
        reader.task, reader.path = task, self._path_of(task)
        reader.until = time.monotonic() + SECONDS + size_of(reader.path) / BYTES_PER_S
        with contextlib.suppress(OSError):  # the reader has crashed meanwhile: `_taken` handles it
            reader.pipe.send(task)

    def _taken(self, reader: _Reader[Task]) -> Iterator[tuple[Task, Result | FileError]]:
        """The result of the reader's task. Nothing if the process crashed after it had read other files: the task is run once more."""
        task, reader.task = reader.task, None
        assert task is not None
        try:
            if not reader.pipe.poll():
                raise FileError(TOO_LONG, path=str(reader.path))
            result = reader.pipe.recv()
        except (EOFError, OSError):
            reader.process.join(10)
            error = self._fallen(reader, _died(reader.process.exitcode))
            if reader.n_read and error.message != TOO_LONG:
                self._give(self._started(), task)
            else:
                yield task, error
        except FileError as error:
            yield task, self._fallen(reader, error.message)
        else:
            reader.n_read += 1
            if isinstance(result, EnvironmentLacks):
                raise result
            yield task, result

    def _fallen(self, reader: _Reader[Task], why: str) -> FileError:
        _end(reader)
        self._readers.remove(reader)
        return FileError(why, path=str(reader.path))


def _died(exitcode: int | None) -> str:
    if exitcode in (-signal.SIGPROF, -signal.SIGALRM):
        return TOO_LONG
    how = f"by {signal.Signals(-exitcode).name}" if exitcode is not None and exitcode < 0 else f"with exit code {exitcode}"
    return f"The process that read the file ended {how}: the file is damaged or hostile."


def _end(reader: _Reader[Task]) -> None:
    reader.pipe.close()
    reader.process.kill()
    reader.process.join()
    reader.process.close()


def size_of(path: Path) -> int:
    """Size of the file in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _serve(read: Callable[[Task], Any], path_of: Callable[[Task], Path], pipe: Connection, parent: int) -> None:
    """The main loop of a reader. It ends when its parent process is gone, at the latest when the time of its task is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hides what libc prints about a corrupted heap
    faulthandler.disable()  # and what Python prints
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not pipe.poll(1.0):
                if os.getppid() != parent:
                    return
            task = pipe.recv()
            allowed = size_of(path_of(task)) / BYTES_PER_S
            signal.setitimer(signal.ITIMER_PROF, PROCESSOR_S + allowed)
            signal.setitimer(signal.ITIMER_REAL, SECONDS + allowed + GRACE_S)
            answer = _answer(read, task, path_of(task))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(answer)


def _answer(read: Callable[[Task], Any], task: Task, path: Path) -> Any:
    try:
        with limited_memory(MEMORY_BYTES + MEMORY_PER_BYTE * size_of(path)):
            return read(task)
    except (FileError, EnvironmentLacks) as error:
        return error
    except MemoryError:
        return FileError("Reading the file takes more memory than a file of its size can need: it is damaged or hostile.", path=str(path))


@contextlib.contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Limits the process to `limit` bytes more than it uses now."""
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = now + limit if hard == resource.RLIM_INFINITY else min(now + limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
