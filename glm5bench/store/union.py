"""The union of files: point files, campaign directories and archives, each measurement once.

Enters: paths. Leaves: the rows that tables are made of, or one archive. A measurement is (key, content digest): the same one found
twice is kept once, different ones of one key are both kept. Nothing bad is passed over in silence: each file or point left out comes
back with its reason.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.comparison import Row
from ..errors import FileError, UsageError
from ..point import digest_of
from .archive import PUBLISHED, Source, Writer, name_of, set_digest, writing
from .base import Copy, Refused, rehearse
from .files import writable
from .measurement import Measurement
from .pointfile import write_point
from .reading import Readers, size_of
from .sealed import Sink, is_archive
from .selection import Selection
from .summary import rows
from .survey import Check, SourceTable, Survey, at_once, identity_of, survey, verify

BASE_BYTES = 64 * 2**20  # of an archive that is copied as it lies
BATCH_BYTES = 32 * 2**20
GROUP_BYTES = 8 * 2**20
FILES_AT_ONCE = 16
AHEAD = 8  # files
Progress = Callable[[int, int], None]  # files or batches done, and how many there are so far


def no_progress(done: int, total: int) -> None:
    """Says nothing."""


@dataclass
class Found:
    """What is left out, with its reason; under `strict` the first one is raised."""

    is_strict: bool = False
    bad: list[FileError] = field(default_factory=list)

    def refuse(self, error: FileError) -> None:
        """One more bad file; under `strict` the error itself."""
        if self.is_strict:
            raise error
        if (error.path, error.message) not in {(e.path, e.message) for e in self.bad}:
            self.bad.append(error)


@dataclass
class Collected(Found):
    """The rows of tables, each measurement once."""

    rows: dict[str, Row] = field(default_factory=dict)
    tables: dict[str, SourceTable] = field(default_factory=dict)
    is_whole: dict[str, bool] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of the set: the same whatever the order, grouping and repetition of the sources."""
        return set_digest({name: (row.digest, self.is_whole[name]) for name, row in self.rows.items()}, self.tables)


def collect(paths: Sequence[str], *, strict: bool = False, jobs: int = 1) -> Collected:
    """Every measurement in the paths, from their summaries. `published` is the archive that ships with the package.

    Raises UsageError when a path does not exist; FileError at the first bad file under `strict`.
    """
    found = Collected(is_strict=strict)
    with Readers(survey, lambda path: path, jobs=jobs) as readers:
        for _, result in readers.map(files(paths)):
            if isinstance(result, FileError):
                found.refuse(result)
                continue
            for error in result.bad:
                found.refuse(error)
            for row, is_whole in zip(rows(result.summaries, str(result.path)), result.is_whole, strict=True):
                name = f"{row.key}-{row.digest[:16]}"
                found.rows.setdefault(name, row)
                found.is_whole[name] = found.is_whole.get(name, False) or is_whole
            found.tables |= source_tables(result)
    return found


def source_tables(found: Survey) -> dict[str, SourceTable]:
    """The tables of a file by their names in archives, which are digests of what they hold."""
    return {digest_of(table): table for table in found.tables}


def files(paths: Sequence[str]) -> Iterator[Path]:
    """The HDF5 files that the paths mean, each once: files, folders with all below them, patterns, `published`.

    Raises UsageError when a path does not exist.
    """
    seen: set[str] = set()
    for given in paths:
        for path in _meant(given):
            for file in _below(path) if path.is_dir() else [path]:
                real = os.path.realpath(file)  # of links in a circle, too
                if real not in seen:
                    seen.add(real)
                    yield file


def _meant(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    if given == "published":
        return [PUBLISHED]
    found = [Path(p) for p in sorted(glob.glob(given, recursive=True))]
    if not found:
        raise UsageError(f"There is no {given}.", next_step="name a point file, a campaign's directory, an archive, or `published`")
    return found


def _below(directory: Path) -> Iterator[Path]:
    """The HDF5 files of a directory tree, through links, each folder once, and folders that cannot be read.

    A campaign's archive.h5 is derived from its points; hidden files and folders are those of writers at work.
    """
    seen: set[str] = set()
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(directory, followlinks=True, onerror=unreadable.append):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        is_derived = "points" in folders
        for name in sorted(names):
            if name.endswith(".h5") and not name.startswith(".") and not (name == "archive.h5" and is_derived):
                yield Path(folder) / name
    yield from (Path(error.filename) for error in unreadable)


def _read_ahead(paths: Sequence[Path]) -> Iterator[tuple[Path, tuple[Survey, memoryview] | FileError | None]]:
    """What `at_once` makes of each file, in order, some of them read while the last one is copied."""

    def read(path: Path) -> tuple[Survey, memoryview] | FileError | None:
        try:
            return at_once(path)
        except FileError as error:
            return error

    with ThreadPoolExecutor(1) as ahead:  # reading leaves the interpreter to whoever copies
        waiting: deque[tuple[Path, Future[tuple[Survey, memoryview] | FileError | None]]] = deque()
        for path in paths:
            waiting.append((path, ahead.submit(read, path)))
            if len(waiting) > AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()


@dataclass(frozen=True)
class _Task:
    """What a reader is to do: survey files, or hold the stored bytes of some of one's points against their digests."""

    paths: tuple[Path, ...]
    scratch: Path
    checks: tuple[tuple[str, list[Check]], ...] = ()  # of each point: its name, what to hold against what
    wanted: tuple[int, ...] = ()  # which points of the file they are
    is_rehearsal: bool = False


def _read(task: _Task) -> list[Any]:
    if task.is_rehearsal:
        rehearse(task.paths[0], task.scratch)
        return []
    if not task.checks:
        return [_surveyed(path, task.scratch) for path in task.paths]
    return [_verified(task.paths[0], name, checks) for name, checks in task.checks]


def _surveyed(path: Path, scratch: Path) -> Survey | FileError:
    try:
        return survey(path, scratch=scratch)
    except FileError as error:
        return error


def _verified(path: Path, name: str, checks: list[Check]) -> FileError | None:
    try:
        verify(path, checks, f"{path}:{name}")
    except FileError as error:
        return error
    return None


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
    with _scratch(output) as scratch, Readers(_read, lambda task: task.paths[0], jobs=jobs) as readers:
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

    readers: Readers[_Task, Any]
    scratch: Path
    where: Selection
    is_raw_kept: bool
    progress: Progress
    merged: Merged
    done: int = 0
    total: int = 0
    writer: Writer = field(init=False)

    def base(self, sources: Sequence[Path]) -> Survey | None:
        """The largest archive of the sources, if it is worth copying as it lies: it is large, and all of it is meant."""
        sizes = {path: size_of(path) for path in sources}
        path = max(sources, key=lambda p: sizes[p], default=None)
        if path is None or sizes[path] < BASE_BYTES or not self.is_raw_kept or self.where.conditions or not is_archive(path):
            return None
        ((_, found),) = self.readers.map([_Task((path,), self.scratch)])
        survey = found if isinstance(found, FileError) else found[0]
        return survey if isinstance(survey, Survey) and survey.stored is not None and not survey.bad else None

    def write(self, output: Path, sources: Sequence[Path], tables: Sequence[SourceTable], base: Survey | None = None) -> Merged:
        """The archive of all sources. Raises Refused where the base is none."""
        bad: list[FileError] = []
        with writing(output, base, lambda sink: self._copy_base(sink, base, bad)) as self.writer:
            for error in bad:
                self.merged.refuse(error)
            self.writer.drop(error.path.rpartition(":")[2] for error in bad)
            self.writer.tables |= {digest_of(table): table for table in (*tables, *(base.tables if base is not None else ()))}
            self.take([path for path in sources if base is None or path != base.path])
            done = self.merged
            if not len(self.writer) and not self.writer.tables:
                for error in done.bad:
                    raise error
                where = ", ".join(map(str, sources))
                raise UsageError(f"No point was found in {where}.", next_step="`glm5bench status DIR` says what a campaign holds")
            done.n_points, done.n_tables, done.digest = len(self.writer), len(self.writer.tables), self.writer.digest()
        return done

    def _copy_base(self, sink: Sink, base: Survey | None, bad: list[FileError]) -> None:
        """Copies the base's bytes while readers hold them against their digests, and try what is going to be done to it."""
        if base is None:
            return
        batches = [_Task((base.path,), self.scratch, is_rehearsal=True), *self._batches(base, range(base.n))]
        self.total += len(batches)
        with contextlib.closing(Copy(base, sink, len(batches))) as copy:
            for _, result in self.readers.map(batches):
                if isinstance(result, FileError):
                    raise Refused
                bad += filter(None, result)
                copy.advance()
                self._tick()
            try:
                copy.finish(lambda descriptor: self._refuse_changed(base, descriptor))
            except ValueError as error:
                raise Refused from error

    def take(self, paths: Sequence[Path]) -> None:
        """Surveys the files and copies what they hold: points at once, while their bytes are at hand, then archives."""
        self.total += len(paths)
        archives: list[Survey] = []
        again: list[Path] = []
        alone: list[Path] = []
        for task, results in self.readers.map(self._surveys(self._at_once(paths))):
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
                self.writer.tables |= source_tables(result)
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

    def _surveys(self, paths: Sequence[Path]) -> Iterator[_Task]:
        """Small files in groups: a task costs as much as reading one of them."""
        most = max(1, min(FILES_AT_ONCE, len(paths) // 16))
        group: list[Path] = []
        n_bytes = 0
        for path in paths:
            size = size_of(path)
            if group and (n_bytes + size > GROUP_BYTES or len(group) == most):
                yield _Task(tuple(group), self.scratch)
                group, n_bytes = [], 0
            group.append(path)
            n_bytes += size
        if group:
            yield _Task(tuple(group), self.scratch)

    def _take_archive(self, archive: Survey) -> None:
        batches = list(self._batches(archive, self._meant(archive)))
        self.total += len(batches)
        for task, result in self.readers.map(batches):
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

    def _batches(self, archive: Survey, points: Iterable[int]) -> Iterator[_Task]:
        """The points in groups of some megabytes, each with the bytes that are to be verified."""
        assert archive.stored is not None
        batch: list[tuple[str, list[Check]]] = []
        wanted: list[int] = []
        n_bytes = 0
        for i in points:
            checks = archive.stored.checks(i, is_whole=self.is_raw_kept and archive.is_whole[i])
            batch.append((archive.name(i), checks))
            wanted.append(i)
            n_bytes += sum(size for _, columns, _ in checks for pieces in columns for _, size in pieces)
            if n_bytes > BATCH_BYTES:
                yield _Task((archive.path,), self.scratch, tuple(batch), tuple(wanted))
                batch, wanted, n_bytes = [], [], 0
        if batch:
            yield _Task((archive.path,), self.scratch, tuple(batch), tuple(wanted))

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
