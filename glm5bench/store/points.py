"""Points of files one by one: their summaries at once, their raw times when they are asked for, each in a reader's process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileError
from .archive import name_of
from .collection import files
from .decoding import measurements
from .measurement import Measurement
from .reading import Readers
from .survey import survey

Point = tuple[dict[str, Any], Callable[[], "Measurement | None"]]


def each_point(paths: Sequence[str], bad: list[FileError]) -> list[Point]:
    """Every measurement of the paths once: its summary, and how it is read. What is left out is added to `bad`."""
    found: dict[str, tuple[bool, Point]] = {}
    with Readers(survey, lambda path: path) as readers:
        for path, result in readers.map(files(paths)):
            if isinstance(result, FileError):
                bad.append(result)
                continue
            bad += result.bad
            for i in range(result.n):
                values, is_whole = result.values(i), result.is_whole[i]
                name = name_of(values)
                if name not in found or (is_whole and not found[name][0]):
                    read = functools.partial(measurement_at, path, i) if is_whole else _nothing
                    found[name] = (is_whole, (values, read))
    return [point for _, point in found.values()]


def _nothing() -> None:
    """Its raw times were left out."""


def measurement_at(path: Path, i: int) -> Measurement:
    """Point `i` of a file, decoded and held against its digest. Raises FileError when it cannot be had."""
    with Readers(_one, lambda task: task[0]) as readers:
        ((_, m),) = readers.map([(path, i)])
    if isinstance(m, FileError):
        raise m
    return m


def _one(task: tuple[Path, int]) -> Measurement:
    path, i = task
    (each,) = measurements(path, i, i + 1)
    if isinstance(each, FileError):
        raise each
    if each[0] is None:
        raise FileError("Its raw times were left out when it was merged.", path=f"{path}:{each[2][:16]}")
    return each[0]
