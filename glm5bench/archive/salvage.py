"""Points of archives whose structure is damaged. Each point must be decoded.

Each point is checked against its digest and written again as a current point file. The survey contains the path of that file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import h5py

from ..errors import FileError
from ..values.plain import digest_of, from_plain
from .columns import COLUMNS, Summaries
from .contents import SourceTable, Survey
from .decoding import Each, measurements
from .layout import child
from .pointfile import DAMAGED, opened, text_of, what_is, write_point
from .summary import summary


def salvaged(empty: Survey, scratch: Path | None, damage: FileError) -> Survey:
    """The survey of a damaged archive: the points that still match their digests. Raises `damage` if there are none."""
    path = empty.path
    try:
        with opened(path, is_verified=False) as file:
            is_archive = what_is(file, path) == "archive"
            tables = _whole_tables(file)
        found = _read_again(empty, measurements(path), scratch) if is_archive else None
    except FileError:
        found = None
    if found is None or not (found.n or found.rewritten):
        raise damage
    n = found.n or len(found.rewritten)
    told = FileError(
        "The archive is damaged: its bytes are not those that were written. "
        f"Only the undamaged part was read: {n} points, {len(tables)} tables.",
        path=str(path),
        next_step="merge its sources again, or replace it with the output of this merge",
    )
    return dataclasses.replace(found, tables=tables, bad=(told, *found.bad))


def _whole_tables(file: h5py.File) -> tuple[SourceTable, ...]:
    """The source tables of a damaged archive whose content matches their names."""
    whole = []
    with contextlib.suppress(*DAMAGED):
        group = child(file, "tables")
        for name in sorted(group):
            with contextlib.suppress(*DAMAGED):
                table = source_table(child(group, name))
                whole += [table] * (digest_of(table) == name)
    return tuple(whole)


def source_table(dataset: h5py.Dataset) -> SourceTable:
    """One source table from an archive's /tables. Raises what json and h5py raise for damaged data."""
    table: SourceTable = from_plain(SourceTable, json.loads(text_of(dataset)))
    return table


def _read_again(empty: Survey, found: Iterator[Each | FileError], scratch: Path | None) -> Survey:
    """The survey of decoded points. They are written to the scratch folder; without one, only their summaries are returned."""
    summaries: Summaries = {c.name: [] for c in COLUMNS}
    bad: list[FileError] = []
    rewritten: list[Path] = []
    for each in found:
        try:
            if isinstance(each, FileError):
                raise each
            m, _, digest = each
            if m is None:
                raise FileError("Its raw times were left out when it was merged, so it cannot be verified.", path=str(empty.path))
            told = summary(m, digest, where=str(empty.path))
            if scratch is None:
                for name, value in told.items():
                    summaries[name].append(value)
            else:
                rewritten.append(scratch / f"{hashlib.sha256(str(empty.path).encode()).hexdigest()[:16]}.{len(rewritten)}.h5")
                write_point(rewritten[-1], m)
        except FileError as error:
            bad.append(error)
    n = len(summaries["key"])
    return Survey(empty.path, empty.identity, summaries, (True,) * n, bad=tuple(bad), rewritten=tuple(rewritten))
