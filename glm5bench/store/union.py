"""The union of files: point files, campaign directories and archives made one archive, each measurement once.

Enters: paths. Leaves: an archive. A measurement is (key, content digest): the same one found
twice is kept once, different ones of one key are both kept. Nothing bad is passed over in silence: each file or point left out comes
back with its reason.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..point import digest_of
from .addition import Copy, Refused
from .archive import Source, Writer, name_of, writing
from .collection import Found, files, no_point
from .contents import SourceTable, Survey, identity_of
from .files import writable
from .measurement import Measurement
from .pointfile import write_point
from .reading import Readers, size_of
from .sealed import Sink, is_archive
from .selection import Selection
from .survey import at_once
from .tasks import Task, batches, read, surveys

BASE_BYTES = 64 * 2**20  # of an archive that is copied as it lies
AHEAD = 8  # files
TURN_S = 5e-4
Progress = Callable[[int, int], None]  # files or batches done, and how many there are so far


def no_progress(done: int, total: int) -> None:
    """Says nothing."""


def _read_ahead(paths: Sequence[Path]) -> Iterator[tuple[Path, tuple[Survey, memoryview] | FileError | None]]:
    """What `at_once` makes of each file, in order, some of them read while the last one is copied."""

    def read(path: Path) -> tuple[Survey, memoryview] | FileError | None:
        try:
            return at_once(path)
        except FileError as error:
            return error

    with _quick_turns(), ThreadPoolExecutor(1) as ahead:  # reading leaves the interpreter to whoever copies
        waiting: deque[tuple[Path, Future[tuple[Survey, memoryview] | FileError | None]]] = deque()
        for path in paths:
            waiting.append((path, ahead.submit(read, path)))
            if len(waiting) > AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()


@contextlib.contextmanager
def _quick_turns() -> Iterator[None]:
    """Python's threads wait less for each other: two that mostly read and write would otherwise take turns of 5 ms."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@dataclass
class Merged(Found):
    """What a merge has made."""

    n_points: int = 0
    n_tables: int = 0
    digest: str = ""


def merge(
    paths: Sequence[str],
    output: Path,
    *,
    is_raw_kept: bool = True,
    where: Selection | None = None,
    jobs: int = 1,
    strict: bool = False,
    progress: Progress = no_progress,
    tables: Sequence[SourceTable] = (),
) -> Merged:
    """Writes the union of the paths to `output`, whole or not at all; its own points count only where it is one of the paths.

    Stored bytes are copied, held against their digests before. Without `is_raw_kept` per-request and per-chunk rows are left out.
    Raises UsageError when there is nothing to merge, EnvironmentLacks when it cannot be written.
    """
    sources = list(files(paths))
    with _scratch(output) as scratch, Readers(read, lambda task: task.paths[0], jobs=jobs) as readers:
        union = _Union(readers, scratch, where or Selection(), is_raw_kept, progress, Merged(strict))
        base = union.base(sources)
        if base is not None:
            with contextlib.suppress(Refused):
                return union.write(output, sources, tables, base)
        return union.write(output, sources, tables)


def write_measurements(
    output: Path, measurements: Iterable[Measurement], tables: Sequence[SourceTable] = (), paths: Sequence[str] = ()
) -> Merged:
    """Writes an archive of measurements that stand in no file yet, and of what the paths hold."""
    with _scratch(output) as folder:
        for i, m in enumerate(measurements):
            write_point(folder / f"{i}.h5", m)
        return merge([str(folder), *paths], output, tables=tables)


@contextlib.contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder beside the output, for as long as the block runs."""
    with contextlib.ExitStack() as stack:
        with writable(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent, ignore_cleanup_errors=True)
        yield Path(stack.enter_context(folder))


@dataclass
class _Union:
    """A merge at work."""

    readers: Readers[Task, Any]
    scratch: Path
    where: Selection
    is_raw_kept: bool
    progress: Progress
    merged: Merged
    done: int = 0
    total: int = 0
    writer: Writer = field(init=False)

    def base(self, sources: Sequence[Path]) -> Path | None:
        """The largest archive of the sources, if it may be worth copying as it lies: it is large, and all of it is meant."""
        sizes = {path: size_of(path) for path in sources}
        path = max(sources, key=lambda p: sizes[p], default=None)
        if path is None or sizes[path] < BASE_BYTES or not self.is_raw_kept or self.where.conditions:
            return None
        return path if is_archive(path) else None

    def write(self, output: Path, sources: Sequence[Path], tables: Sequence[SourceTable], base: Path | None = None) -> Merged:
        """The archive of all sources. Raises Refused where the base is none."""
        bad: list[FileError] = []
        with writing(output, lambda sink: self._copied(sink, base, bad)) as self.writer:
            for error in bad:
                self.merged.refuse(error)
            self.writer.drop(error.path.rpartition(":")[2] for error in bad)
            self.writer.tables |= {digest_of(table): table for table in tables}
            self.take([path for path in sources if path != base])
            done = self.merged
            if not len(self.writer) and not self.writer.tables:
                for error in done.bad:
                    raise error
                where = ", ".join(map(str, sources))
                raise no_point(where)
            done.n_points, done.n_tables, done.digest = len(self.writer), len(self.writer.tables), self.writer.digest()
        return done

    def _copied(self, sink: Sink, base: Path | None, bad: list[FileError]) -> Survey | None:
        """Copies the base's bytes while readers survey it, hold them against their digests, and try what is going to be done to it."""
        if base is None:
            return None
        try:
            with contextlib.closing(Copy(base, sink)) as copy:
                ((_, found),) = self.readers.map([Task((base,), self.scratch)])
                surveyed: Survey | FileError = found if isinstance(found, FileError) else found[0]
                if isinstance(surveyed, FileError) or surveyed.stored is None or surveyed.bad:
                    raise Refused
                bad += self._damaged(surveyed)
                copy.finish(lambda descriptor: self._refuse_changed(surveyed, descriptor))
        except ValueError as error:
            raise Refused from error
        return surveyed

    def _damaged(self, base: Survey) -> list[FileError]:
        """The points of the base whose bytes are not those that were written. Raises Refused where HDF5 could not add to it."""
        work = [Task((base.path,), self.scratch, is_rehearsal=True), *batches(base, range(base.n), self.scratch, is_raw_kept=True)]
        self.total += len(work)
        damaged: list[FileError] = []
        for _, result in self.readers.map(work):
            if isinstance(result, FileError):
                raise Refused
            damaged += filter(None, result)
            self._tick()
        return damaged

    def take(self, paths: Sequence[Path]) -> None:
        """Surveys the files and copies what they hold: points at once, while their bytes are at hand, then archives."""
        self.total += len(paths)
        archives: list[Survey] = []
        again: list[Path] = []
        alone: list[Path] = []
        for task, results in self.readers.map(surveys(self._at_once(paths), self.scratch)):
            if isinstance(results, FileError) and len(task.paths) > 1:  # which of them it was, each has to say for itself
                alone += task.paths
                continue
            for result in [results] if isinstance(results, FileError) else results:
                self._tick()
                if isinstance(result, FileError):
                    self.merged.refuse(result)
                    continue
                for error in result.bad:
                    self.merged.refuse(error)
                self.writer.tables |= result.source_tables()
                again += result.rewritten
                if result.is_verified:
                    self._copy(result, [0])
                elif result.n:
                    archives.append(result)
        for path in alone:
            self.total -= 1
            self.take([path])
        for archive in archives:
            self._take_archive(archive)
        if again:
            self.take(again)
            for path in again:
                path.unlink(missing_ok=True)

    def _take_archive(self, archive: Survey) -> None:
        work = list(batches(archive, self._meant(archive), self.scratch, is_raw_kept=self.is_raw_kept))
        self.total += len(work)
        for task, result in self.readers.map(work):
            self._tick()
            if isinstance(result, FileError):
                self.merged.refuse(result)
                continue
            for error in filter(None, result):
                self.merged.refuse(error)
            self._copy(archive, [i for i, error in zip(task.wanted, result, strict=True) if error is None])

    def _meant(self, archive: Survey) -> Iterator[int]:
        for i in range(archive.n):
            values = archive.values(i)
            if self.where.matches(values) and self.writer.is_better(values, is_whole=self.is_raw_kept and archive.is_whole[i]):
                yield i

    def _copy(self, source: Survey, wanted: Iterable[int]) -> None:
        """Copies points whose bytes were verified. A file that is another one than was surveyed, or changes meanwhile, is bad."""
        assert source.stored is not None
        added = []
        try:
            with _opened(source.path) as file:
                self._refuse_changed(source, file.fileno())
                bytes_ = Source(file.fileno())
                for i in wanted:
                    added += self._add(source, i, bytes_)
                self._refuse_changed(source, file.fileno())
        except ValueError as error:
            self.writer.drop(added)
            self.merged.refuse(FileError(f"{error}.", path=str(source.path)))

    def _add(self, source: Survey, i: int, bytes_: Source) -> list[str]:
        """Copies one point, if it is meant and not here already: its name."""
        assert source.stored is not None
        values = source.values(i)
        is_whole = self.is_raw_kept and source.is_whole[i]
        if not self.where.matches(values) or not self.writer.is_better(values, is_whole=is_whole):
            return []
        self.writer.add(bytes_, source.stored, i, values, is_whole=is_whole)
        return [name_of(values)]

    def _at_once(self, paths: Sequence[Path]) -> list[Path]:
        """Copies point files whose seals tell where everything lies; the other files are left."""
        left = []
        for path, quick in _read_ahead(paths):
            if quick is None:
                left.append(path)
                continue
            self._tick()
            if isinstance(quick, FileError):
                self.merged.refuse(quick)
            else:
                self._add(quick[0], 0, Source(quick[1]))
        return left

    def _refuse_changed(self, source: Survey, descriptor: int) -> None:
        if identity_of(descriptor) != source.identity:
            raise ValueError("It was changed while it was read")

    def _tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _opened(path: Path) -> io.BufferedReader:
    """The file. Raises ValueError when it is there no more."""
    try:
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"It cannot be read any more: {error.strerror}") from error
