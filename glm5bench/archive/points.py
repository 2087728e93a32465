"""The points of files, one by one: summaries at once, raw times on request. Files are read in reader processes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FileError
from .collection import Found, surveys
from .columns import plain
from .decoding import measurements
from .measurement import Measurement
from .reading import Readers
from .writer import name_of

AT_ONCE = 32  # points
Made = TypeVar("Made")
Point = tuple[dict[str, Any], Callable[[], "Measurement | None"]]


def each_point(paths: Sequence[str], bad: list[FileError]) -> list[Point]:
    """Every measurement of the paths once: its summary, and a function that reads it. Errors are added to `bad`."""
    found: dict[str, tuple[bool, Point]] = {}
    for each in surveys(paths, Found(bad=bad)):
        for i in range(each.n):
            values, is_whole = each.values(i), each.is_whole[i]
            name = name_of(values)
            if name not in found or (is_whole and not found[name][0]):
                read = functools.partial(measurement_at, each.path, i) if is_whole else _nothing
                found[name] = (is_whole, (values, read))
    return [point for _, point in found.values()]


def each_made(paths: Sequence[str], wanted: Collection[str], make: Callable[[Measurement], Made]) -> Iterator[tuple[str, Made | FileError]]:
    """The results of `make` for the measurements with these digests, each digest once. Only measurements with raw times are used.

    `make` runs in the reader processes. A point that cannot be read is returned as its error.
    """
    places: dict[Path, list[int]] = {}
    seen: set[str] = set()
    for each in surveys(paths, Found()):  # the caller has already reported the errors
        for i in range(each.n):
            digest = str(plain(each.summaries["digest"][i]))
            if digest in wanted and digest not in seen and each.is_whole[i]:
                seen.add(digest)
                places.setdefault(each.path, []).append(i)

    def made(task: tuple[Path, list[int]]) -> list[tuple[str, Made | FileError]]:
        results: list[tuple[str, Made | FileError]] = []
        for point in measurements(*task):
            if isinstance(point, FileError):
                results.append(("", point))
            elif point[0] is not None:
                results.append((point[2], make(point[0])))
        return results

    tasks = [(path, at[k : k + AT_ONCE]) for path, at in places.items() for k in range(0, len(at), AT_ONCE)]
    with Readers(made, lambda task: task[0]) as readers_of_points:
        for _, found in readers_of_points.map(tasks):
            yield from [("", found)] if isinstance(found, FileError) else found


def _nothing() -> None:
    """Nothing: the raw times were left out."""


def measurement_at(path: Path, i: int) -> Measurement:
    """Point `i` of a file, decoded and checked against its digest. Raises FileError if it cannot be read."""
    with Readers(_one, lambda task: task[0]) as readers:
        ((_, m),) = readers.map([(path, i)])
    if isinstance(m, FileError):
        raise m
    return m


def _one(task: tuple[Path, int]) -> Measurement:
    path, i = task
    (each,) = measurements(path, [i])
    if isinstance(each, FileError):
        raise each
    if each[0] is None:
        raise FileError("Its raw times were left out when it was merged.", path=f"{path}:{each[2][:16]}")
    return each[0]
