"""The points of a file of any format decoded one after another, each held against its digest. Runs in a reader's process (`reading`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from ..errors import FileError
from . import format1
from .columns import Summaries, plain
from .index import read_columns, spans_of, wholeness
from .layout import Spans, child, decoded, read_rows
from .measurement import Measurement
from .pointfile import checked, measurement_of, opened, read_summary, undamaged, what_is

Each = tuple[Measurement | None, "dict[str, Any] | None", str]  # decoded, None: left out; its stored summary, if it has one; its digest


def measurements(path: Path, which: Sequence[int] | None = None) -> Iterator[Each | FileError]:
    """Points of the file, all or some of them by their places, decoded and held against their digests, or why one cannot be had.

    Raises FileError for a file that is none.
    """
    with opened(path, is_verified=False) as file:
        format_, kind = what_is(file, path)
        if kind == "point":
            m, digest = measurement_of(file, format_, str(path))
            stored = undamaged(lambda: read_summary(file), "Its summary is damaged", str(path)) if format_ > 1 else None
            yield m, stored, digest
        else:
            yield from (of_format1 if format_ == 1 else _of_archive)(file, path, which)


def of_format1(file: h5py.File, path: Path, which: Sequence[int] | None) -> Iterator[Each | FileError]:
    """The same of an archive of format 1 that is open."""
    points = undamaged(lambda: child(file, "points"), "The file is damaged", str(path))
    names = undamaged(lambda: sorted(points), "The file is damaged", str(path))
    for name in (names[i] for i in _places(which, len(names))):
        where = f"{path}:/points/{name}"
        try:
            m, digest = _group_of_format1(points, name, where)
            yield m, None, digest
        except FileError as error:
            yield error


def _group_of_format1(points: h5py.Group, name: str, where: str) -> tuple[Measurement, str]:
    group = undamaged(lambda: child(points, name), "The point is damaged", where)
    return checked(lambda: format1.read(group), lambda: str(group.attrs["content_digest"]), where)


def _of_archive(file: h5py.File, path: Path, which: Sequence[int] | None) -> Iterator[Each | FileError]:
    def read() -> tuple[Summaries, list[Spans], list[bool]]:
        summaries = read_columns(file)
        return summaries, list(spans_of(file)), wholeness(file, len(summaries["key"]))

    summaries, spans, is_whole = undamaged(read, "The file is damaged", str(path))
    for i in _places(which, len(is_whole)):
        try:
            m, digest = decoded_point(file, path, summaries, spans[i], i) if is_whole[i] else (None, plain(summaries["digest"][i]))
            yield m, {name: plain(column[i]) for name, column in summaries.items()}, digest
        except FileError as error:
            yield error


def decoded_point(file: h5py.File, path: Path, summaries: Summaries, spans: Spans, i: int) -> tuple[Measurement, str]:
    """Point `i` of an archive that is open, and its digest. Raises FileError where it is not what that says."""
    key, source, digest = (plain(summaries[name][i]) for name in ("key", "source", "digest"))
    return checked(lambda: decoded(read_rows(file, spans), key=key, source=source), lambda: digest, f"{path}:{key}")


def _places(which: Sequence[int] | None, n: int) -> Sequence[int]:
    return range(n) if which is None else [i for i in which if i < n]
