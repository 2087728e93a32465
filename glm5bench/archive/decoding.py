"""The points of a file, decoded one after another and checked against their digests. Runs in a reader process (`reading`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from ..errors import FileError
from .columns import Summaries, plain
from .index import read_columns, spans_of, wholeness
from .layout import Spans, decoded, read_rows
from .measurement import Measurement
from .pointfile import checked, measurement_of, opened, read_summary, undamaged, what_is

Each = tuple[Measurement | None, "dict[str, Any] | None", str]  # decoded (None: left out); its stored summary, if it has one; its digest


def measurements(path: Path, which: Sequence[int] | None = None) -> Iterator[Each | FileError]:
    """Decoded points of the file, checked against their digests. A point that cannot be read is returned as its FileError.

    `which`: positions of the points; None for all. Raises FileError if the file is not a readable glm5bench file.
    """
    with opened(path, is_verified=False) as file:
        if what_is(file, path) == "point":
            m, digest = measurement_of(file, str(path))
            yield m, undamaged(lambda: read_summary(file), "Its summary is damaged", str(path)), digest
        else:
            yield from _of_archive(file, path, which)


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
    """Point `i` of an open archive, and its digest. Raises FileError if the content does not match the digest."""
    key, source, digest = (plain(summaries[name][i]) for name in ("key", "source", "digest"))
    return checked(lambda: decoded(read_rows(file, spans), key=key, source=source), lambda: digest, f"{path}:{key}")


def _places(which: Sequence[int] | None, n: int) -> Sequence[int]:
    return range(n) if which is None else [i for i in which if i < n]
