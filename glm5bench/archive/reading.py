"""Strangers' files are read in processes of their own: what libhdf5 does over a hostile one costs that file and nothing else.

Enters: tasks, each with the file that it is about. Leaves: what the function makes of each, or a FileError where its process fell,
hung, or wanted more memory than its file can need. What the machine lacks is no file's fault, and is raised; what one file has done to
a process is not laid to the next. The processes are forks, so that starting one costs milliseconds.
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
MEMORY_PER_BYTE = 64  # of a file: ten times the bytes when decoded, and copies at work
SECONDS = 120.0  # a disk may be slow
PROCESSOR_S = 10.0  # and libhdf5 goes round in circles over some damaged files
BYTES_PER_S = 2e6  # a file has this much longer to be read
TOO_LONG = "Reading it did not end in time: it is damaged, or hostile."
NICENESS = 5  # whoever gives it work goes first
GRACE_S = 1.0  # before a reader ends by itself that nobody ends


@dataclass
class _Reader(Generic[Task]):
    process: Any
    pipe: Connection
    task: Task | None = None
    path: Path = Path()
    until: float = 0.0
    n_read: int = 0


class _Ahead(Generic[Task]):
    """Tasks, of which one may be looked at before it is taken: making one takes time, too."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks, self._seen = tasks, deque[Task]()

    def look(self) -> None:
        """Has the next one made."""
        if not self._seen:
            self._seen.extend(itertools.islice(self._tasks, 1))

    def next(self) -> Task | None:
        """The next one, None after the last."""
        self.look()
        return self._seen.popleft() if self._seen else None


class Readers(Generic[Task, Result]):
    """`jobs` processes in which `read` reads the files of tasks; `path_of` says which file a task is about."""

    def __init__(self, read: Callable[[Task], Result], path_of: Callable[[Task], Path], *, jobs: int = 1) -> None:
        self._read, self._path_of, self._jobs = read, path_of, jobs
        self._readers: list[_Reader[Task]] = []

    def __enter__(self) -> Readers[Task, Result]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for reader in self._readers:
            _end(reader)

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | FileError]]:
        """Each task with what came of it, as they are done; one more is asked for than there are processes to take them."""
        for reader in [r for r in self._readers if r.task is not None]:  # of a map that nobody followed to its end
            _end(reader)
            self._readers.remove(reader)
        waiting = _Ahead(iter(tasks))
        done: list[tuple[Task, Result | FileError]] = []
        while True:
            self._give_all(waiting)  # before what is done is handed on: the readers work while that is looked at
            yield from done
            busy = [r for r in self._readers if r.task is not None]
            if not busy:
                return
            waiting.look()  # while they are at work
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
        with warnings.catch_warnings():  # a fork beside threads: the child touches nothing that they could hold
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
        with contextlib.suppress(OSError):  # it has fallen meanwhile, which `_taken` finds
            reader.pipe.send(task)

    def _taken(self, reader: _Reader[Task]) -> Iterator[tuple[Task, Result | FileError]]:
        """What has come of its task; nothing yet where the process fell over it and had read others before: it is read once more."""
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
    return f"The process that read it ended {how}: it is damaged, or hostile."


def _end(reader: _Reader[Task]) -> None:
    reader.pipe.close()
    reader.process.kill()
    reader.process.join()
    reader.process.close()


def size_of(path: Path) -> int:
    """Bytes of the file, 0 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _serve(read: Callable[[Task], Any], path_of: Callable[[Task], Path], pipe: Connection, parent: int) -> None:
    """A reader's whole life: it ends with the process that it reads for, or, where that is gone, when its task's time is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libc's last words over a broken heap
    faulthandler.disable()  # and Python's
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
        with _memory(MEMORY_BYTES + MEMORY_PER_BYTE * size_of(path)):
            return read(task)
    except (FileError, EnvironmentLacks) as error:
        return error
    except MemoryError:
        return FileError("Reading it takes more memory than a file of its size can need: it is damaged, or hostile.", path=str(path))


@contextlib.contextmanager
def _memory(limit: int) -> Iterator[None]:
    """At most so many bytes more than there are now."""
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = now + limit if hard == resource.RLIM_INFINITY else min(now + limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
