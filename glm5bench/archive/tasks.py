"""The tasks of a merge's readers: survey files, or verify stored bytes and copy them into the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from .contents import Survey
from .moving import Destination, Move, moved
from .reading import size_of
from .survey import survey

BATCH_BYTES = 16 * 2**20
MOVES_AT_ONCE = 64
GROUP_BYTES = 8 * 2**20
FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Task:
    """A task of a reader: survey files, or make moves."""

    paths: tuple[Path, ...]
    scratch: Path
    moves: tuple[Move, ...] = ()
    to: Destination | None = None


def read(task: Task) -> list[Any]:
    """Runs the task. For each file its survey or its error; for each move None or its error."""
    if task.to is not None:
        return moved(task.moves, task.to)
    return [_surveyed(path, task.scratch) for path in task.paths]


def _surveyed(path: Path, scratch: Path) -> Survey | FileError:
    try:
        return survey(path, scratch=scratch)
    except FileError as error:
        return error


def surveys(paths: Sequence[Path], scratch: Path) -> Iterator[Task]:
    """Tasks that survey files. Small files are grouped, because a task costs as much as reading one of them."""
    most = max(1, min(FILES_AT_ONCE, len(paths) // 16))
    group: list[Path] = []
    n_bytes = 0
    for path in paths:
        size = size_of(path)
        if group and (n_bytes + size > GROUP_BYTES or len(group) == most):
            yield Task(tuple(group), scratch)
            group, n_bytes = [], 0
        group.append(path)
        n_bytes += size
    if group:
        yield Task(tuple(group), scratch)


def batches(moves: Iterable[Move], scratch: Path, to: Destination) -> Iterator[Task]:
    """Tasks that make moves, in groups of some megabytes."""
    batch: list[Move] = []
    n_bytes = 0
    for move in moves:
        batch.append(move)
        n_bytes += move.n_bytes
        if n_bytes > BATCH_BYTES or len(batch) == MOVES_AT_ONCE:
            yield Task((batch[0].path,), scratch, tuple(batch), to)
            batch, n_bytes = [], 0
    if batch:
        yield Task((batch[0].path,), scratch, tuple(batch), to)
