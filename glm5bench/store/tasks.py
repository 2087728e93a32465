"""What a merge gives its readers to do, and how it is cut: files to survey, stored bytes to hold against their digests, a rehearsal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from .addition import rehearse
from .contents import Survey
from .reading import size_of
from .stored import Check, verify
from .survey import survey

BATCH_BYTES = 32 * 2**20
GROUP_BYTES = 8 * 2**20
FILES_AT_ONCE = 16
ROOM_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Task:
    """What a reader is to do: survey files, or hold the stored bytes of some of one's points against their digests."""

    paths: tuple[Path, ...]
    scratch: Path
    checks: tuple[tuple[str, list[Check]], ...] = ()  # of each point: its name, what to hold against what
    wanted: tuple[int, ...] = ()  # which points of the file they are
    is_rehearsal: bool = False


def read(task: Task) -> list[Any]:
    """Does it: a survey or why there is none for each file, or for each point why it is damaged, None where it is not."""
    if task.is_rehearsal:
        rehearse(task.paths[0], task.scratch)
        return []
    if not task.checks:
        return [_surveyed(path, task.scratch) for path in task.paths]
    room = bytearray(ROOM_BYTES)  # used again and again: fresh memory costs more than reading
    return [_verified(task.paths[0], name, checks, room) for name, checks in task.checks]


def _surveyed(path: Path, scratch: Path) -> Survey | FileError:
    try:
        return survey(path, scratch=scratch)
    except FileError as error:
        return error


def _verified(path: Path, name: str, checks: list[Check], room: bytearray) -> FileError | None:
    try:
        verify(path, checks, f"{path}:{name}", room)
    except FileError as error:
        return error
    return None


def surveys(paths: Sequence[Path], scratch: Path) -> Iterator[Task]:
    """Small files in groups: a task costs as much as reading one of them."""
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


def batches(archive: Survey, points: Iterable[int], scratch: Path, *, is_raw_kept: bool) -> Iterator[Task]:
    """Points of an archive in groups of some megabytes, each with the bytes that are to be verified."""
    assert archive.stored is not None
    batch: list[tuple[str, list[Check]]] = []
    wanted: list[int] = []
    n_bytes = 0
    for i in points:
        checks = archive.stored.checks(i, is_whole=is_raw_kept and archive.is_whole[i])
        batch.append((archive.name(i), checks))
        wanted.append(i)
        n_bytes += sum(size for _, pieces, _ in checks for _, size in pieces)
        if n_bytes > BATCH_BYTES:
            yield Task((archive.path,), scratch, tuple(batch), tuple(wanted))
            batch, wanted, n_bytes = [], [], 0
    if batch:
        yield Task((archive.path,), scratch, tuple(batch), tuple(wanted))
