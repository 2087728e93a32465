"""The union of point files, campaign directories and archives as one archive, with each measurement once.

Enters: paths. Leaves: an archive. A measurement is identified by (key, content digest). Copies of one measurement are stored once;
different measurements of one key are all stored. Each file or point that is left out is reported with its reason.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files import writable
from ..values.plain import digest_of
from .collection import Found, files, no_point
from .contents import Glance, SourceTable, Survey
from .measurement import Measurement
from .moving import Destination, Move, Piece
from .pointfile import write_point
from .reading import Readers
from .selection import Selection
from .survey import glance
from .tasks import Task, batches, read, surveys
from .writer import Writer, writing

SURVEYS = 256  # kept in memory at once
Candidate = tuple[Survey, int]  # a point that may be added
NOWHERE: tuple[int, tuple[Piece, ...]] = (-1, ())
Progress = Callable[[int, int], None]  # files and points done; how many are known so far


def no_progress(done: int, total: int) -> None:
    """Reports nothing."""


@dataclass
class Merged(Found):
    """The result of a merge. Points of the paths are read, except those of the archive that is extended (`n_kept`)."""

    n_points: int = 0
    n_files: int = 0
    n_read: int = 0
    n_unselected: int = 0  # read, but excluded by `where`
    n_kept: int = 0
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
    """Writes the union of the paths to `output`, completely or not at all. An existing `output` is included only if it is one of the paths.

    Stored bytes are copied if they match their digests. Without `is_raw_kept`, per-request and per-chunk rows are left out.
    Raises UsageError if there is nothing to merge, EnvironmentLacks if the archive cannot be written.
    """
    sources = list(files(paths))
    with _scratch(output) as scratch, Readers(read, lambda task: task.paths[0], jobs=jobs) as readers:
        union = _Union(readers, scratch, where or Selection(), is_raw_kept, progress, Merged(strict), asked=", ".join(map(str, paths)))
        return union.write(output, sources, tables)


def write_measurements(
    output: Path, measurements: Iterable[Measurement], tables: Sequence[SourceTable] = (), paths: Sequence[str] = ()
) -> Merged:
    """Writes an archive of measurements that are not in a file yet, together with the content of the paths."""
    with _scratch(output) as folder:
        for i, m in enumerate(measurements):
            write_point(folder / f"{i}.h5", m)
        return merge([str(folder), *paths], output, tables=tables)


@contextlib.contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A temporary folder next to the output. It is removed when the block ends."""
    with contextlib.ExitStack() as stack:
        with writable(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent, ignore_cleanup_errors=True)
        yield Path(stack.enter_context(folder))


@dataclass
class _Union:
    """A merge in progress."""

    readers: Readers[Task, Any]
    scratch: Path
    where: Selection
    is_raw_kept: bool
    progress: Progress
    merged: Merged
    done: int = 0
    total: int = 0
    under_way: dict[int, list[Candidate]] = field(default_factory=dict)  # row whose bytes have not arrived -> other copies of its point
    writer: Writer = field(init=False)
    to: Destination = field(init=False)
    old: Path = field(init=False)
    asked: str = ""  # the paths as the user gave them

    def write(self, output: Path, sources: Sequence[Path], tables: Sequence[SourceTable]) -> Merged:
        """Writes the archive of all sources."""
        with writing(output) as self.writer:
            self.to = Destination(self.writer.path, output)
            self.old = output
            self.writer.tables |= {digest_of(table): table for table in tables}
            self.take(sources)
            done = self.merged
            if not len(self.writer) and not self.writer.tables:
                for error in done.bad:
                    raise error
                raise no_point(self.asked or ", ".join(map(str, sources)))
            done.n_points, done.n_tables, done.digest = len(self.writer), len(self.writer.tables), self.writer.digest()
        return done

    def take(self, paths: Sequence[Path]) -> None:
        """Adds the content of the files: first point files whose seals state all positions, then files that need a survey."""
        self.total += len(paths)
        self.merged.n_files += sum(path != self.old for path in paths)
        left: list[Path] = []
        self._move(self._counted(self._glanced(paths, left)))
        for begin in range(0, len(left), SURVEYS):
            self._take_surveyed(left[begin : begin + SURVEYS])

    def _counted(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        for survey, i in candidates:
            if survey.path == self.old:
                self.merged.n_kept += 1
            else:
                self.merged.n_read += 1
                self.merged.n_unselected += not self.where.matches(survey.values(i))
            yield survey, i

    def _glanced(self, paths: Sequence[Path], left: list[Path]) -> Iterator[Candidate]:
        for path in paths:
            found = glance(path)
            if found is None:
                left.append(path)
            else:
                yield found, 0

    def _take_surveyed(self, paths: Sequence[Path]) -> None:
        found: list[Survey] = []
        again: list[Path] = []
        alone: list[Path] = []
        for task, results in self.readers.map(surveys(paths, self.scratch)):
            if isinstance(results, FileError) and len(task.paths) > 1:  # each file is surveyed alone, to find the bad one
                alone += task.paths
                continue
            for result in [results] if isinstance(results, FileError) else results:
                if isinstance(result, FileError):
                    self._tick()
                    self.merged.refuse(result)
                    continue
                for error in result.bad:
                    self.merged.refuse(error)
                self.writer.tables |= result.source_tables()
                again += result.rewritten
                found.append(result)
                self.total += result.n - 1
        self._move(self._counted((survey, i) for survey in found if survey.stored is not None for i in range(survey.n)))
        for path in alone:
            self._take_surveyed([path])
        if again:
            self.take(again)
            self.merged.n_files -= len(again)
            for path in again:
                path.unlink(missing_ok=True)

    def _move(self, candidates: Iterable[Candidate]) -> None:
        """Adds points. libhdf5 assigns positions in this process; readers verify the bytes and write them there."""
        rivals: list[Candidate] = []
        alone: list[Move] = []
        for task, results in self.readers.map(batches(self._moves(candidates), self.scratch, self.to)):
            if isinstance(results, FileError) and len(task.moves) > 1:
                alone += task.moves
            else:
                rivals += self._settled(task, results)
        for task, results in self.readers.map(Task((move.path,), self.scratch, (move,), self.to) for move in alone):
            rivals += self._settled(task, results)
        if rivals:
            self._move(rivals)

    def _settled(self, task: Task, results: list[FileError | None] | FileError) -> list[Candidate]:
        """Drops the points whose bytes did not arrive. Returns the other copies of these points."""
        again: list[Candidate] = []
        for move, error in zip(task.moves, [results] if isinstance(results, FileError) else results, strict=True):
            self._tick()
            rivals = self.under_way.pop(move.row, [])
            if error is not None:
                self.merged.refuse(error)
                if move.row >= 0:
                    self.writer.drop(move.row)
                again += rivals
        return again

    def _moves(self, candidates: Iterable[Candidate]) -> Iterator[Move]:
        for survey, i in candidates:
            move = self._placed(survey, i)
            if move is not None:
                yield move
            else:
                self._tick()

    def _placed(self, survey: Survey, i: int) -> Move | None:
        """The move for a point; None if it is not selected or already in the archive.

        A point file always has a move, so that all its bytes are verified.
        """
        assert survey.stored is not None
        values = survey.values(i)
        is_whole = self.is_raw_kept and survey.is_whole[i]
        row, pieces = NOWHERE
        if self.where.matches(values):
            if self.writer.is_better(values, is_whole=is_whole):
                row, pieces = self.writer.add(survey.stored, i, values, is_whole=is_whole)
                self.under_way[row] = []
            else:
                self.under_way.get(self.writer.row(values), []).append((survey, i))
        if isinstance(survey, Glance):
            tables = survey.stored.checks(i, is_whole=is_whole) if row >= 0 else ()
            return Move(survey.path, survey.identity, str(survey.path), (survey.whole, *tables), pieces, row)
        if row < 0:
            return None
        where = f"{survey.path}:{survey.name(i)}" if not survey.is_verified else str(survey.path)
        return Move(survey.path, survey.identity, where, survey.stored.checks(i, is_whole=is_whole), pieces, row)

    def _tick(self, n: int = 1) -> None:
        self.done += n
        self.progress(self.done, self.total)
