"""The survey of a file: the summaries of its points, and the positions of their stored bytes. Runs in a reader process (`reading`).

A file that matches its seal is trusted, and is not decoded. Other files are handled by `salvage`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from ..errors import FileError
from . import stored
from .columns import DEFINITIONS, Summaries, listed
from .contents import Glance, Identity, Survey, identity_of, refuse_untold
from .decoding import decoded_point
from .index import read_columns, spans_of, wholeness
from .layout import child
from .pointfile import columns_of, measurement_of, opened, refuse_impossible, text_of, undamaged, what_is
from .salvage import salvaged, source_table
from .sealed import BLOCK, place_in, quickly, seal_of, verify_seal
from .summary import summary

AT_ONCE_BYTES = 64 * 2**20


def survey(path: Path, *, scratch: Path | None = None) -> Survey:
    """What the file contains. With `scratch` also the positions of the stored bytes; those of a point file are verified.

    `scratch`: a folder for points that must be written again. Raises FileError if nothing in the file can be read.
    """
    quick = at_once(path)
    if quick is not None:
        return quick
    identity = _identity(path)
    try:
        verify_seal(path)
    except FileError as damage:
        return salvaged(Survey(path, identity), scratch, damage)
    with opened(path, is_verified=False) as file:
        kind = what_is(file, path)
        if seal_of(path) is None:
            raise FileError("The file is damaged: it has no seal.", path=str(path))
        read = _point if kind == "point" else _archive
        found = undamaged(lambda: read(file, path, identity, is_stored=scratch is not None), "The file is damaged", str(path))
    if kind == "point" and found.stored is not None:
        stored.verify(path, found.stored.checks(0), str(path))
    return found


def at_once(path: Path) -> Survey | None:
    """The survey of a point file whose seal states all positions and matches its bytes. HDF5 is not used.

    None for any other file, and for a large file. Raises FileError for damage.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb", buffering=0) as file:
            identity = identity_of(file.fileno())
            if not 0 < identity[1] <= AT_ONCE_BYTES:
                return None
            content = memoryview(os.read(file.fileno(), identity[1]))
    except OSError:
        return None  # the full survey reports it
    told = quickly(content, path)
    if told is None or len(content) != identity[1]:
        return None
    values, where = undamaged(lambda: _by_place(bytes(told), path, identity[1]), "The file is damaged", str(path))
    if values["definitions"] != DEFINITIONS:
        with opened(path, is_verified=False) as file:
            values = summary(*measurement_of(file, str(path)), where=str(path))
    return Survey(path, identity, {name: [v] for name, v in values.items()}, (True,), where, is_verified=True)


def glance(path: Path) -> Glance | None:
    """What a point file states about itself, from two reads of some kilobytes.

    None for any other file, and for a file that needs a full survey.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb", buffering=0) as file:
            identity = identity_of(file.fileno())
            place = place_in(os.pread(file.fileno(), BLOCK, 0)) if 0 < identity[1] <= AT_ONCE_BYTES else None
            if place is None or place.begin + place.size > identity[1]:
                return None
            told = os.pread(file.fileno(), place.size, place.begin)
        values, where = undamaged(lambda: _by_place(told, path, identity[1]), "The file is damaged", str(path))
    except (FileError, OSError):
        return None
    if values["definitions"] != DEFINITIONS:
        return None
    whole = ("", [(BLOCK, identity[1] - BLOCK)], place.xxh3_128)
    return Glance(path, identity, is_whole=(True,), stored=where, columns=values, whole=whole)


def _by_place(told: bytes, path: Path, n_bytes: int) -> tuple[dict[str, Any], stored.Stored]:
    """The summary of an unchanged point file, and the positions of its bytes. `told` contains both, so HDF5 is not used."""
    values, places = columns_of(told)
    refuse_untold(values, path)
    return values, stored.told(places, n_bytes)


def _identity(path: Path) -> Identity:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):  # readable folders are searched
            raise FileError("The folder cannot be read.", path=str(path))
        if not stat.S_ISREG(mode):  # reading a pipe would block
            raise FileError("This is not a regular file.", path=str(path))
        with path.open("rb") as file:
            return identity_of(file.fileno())
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=str(path)) from error


def _point(file: h5py.File, path: Path, identity: Identity, *, is_stored: bool) -> Survey:
    values, places = columns_of(text_of(child(file, "summary")))
    refuse_untold(values, path)
    if values["definitions"] != DEFINITIONS:
        values = summary(*measurement_of(file, str(path)), where=str(path))
    where = stored.of_point(file, path, places)
    summaries = {name: [value] for name, value in values.items()}
    return Survey(path, identity, summaries, (True,), where if is_stored else None, is_verified=is_stored)


def _archive(file: h5py.File, path: Path, identity: Identity, *, is_stored: bool) -> Survey:
    summaries = read_columns(file)
    for key, source, digest in zip(*(listed(summaries[name]) for name in ("key", "source", "digest")), strict=True):
        refuse_impossible(key, source, digest, str(path))
    is_whole = tuple(wholeness(file, len(summaries["key"])))
    bad = _recomputed(file, path, summaries, is_whole)
    where = stored.of_archive(file, path, len(is_whole)) if is_stored else None
    tables = child(file, "tables")
    found = tuple(source_table(child(tables, name)) for name in sorted(tables))
    return Survey(path, identity, summaries, is_whole, where, tables=found, bad=tuple(bad))


def _recomputed(file: h5py.File, path: Path, summaries: Summaries, is_whole: Sequence[bool]) -> list[FileError]:
    """Recomputes figures that follow another version of the definitions, if the raw rows are present. Returns the errors."""
    old = [i for i, version in enumerate(summaries["definitions"]) if version != DEFINITIONS and is_whole[i]]
    if not old:
        return []
    summaries |= {name: listed(column) for name, column in summaries.items()}
    spans, bad = list(spans_of(file)), []
    for i in old:
        try:
            told = summary(*decoded_point(file, path, summaries, spans[i], i), where=str(path))
        except FileError as error:
            bad.append(error)
            continue
        for name, value in told.items():
            summaries[name][i] = value
    return bad
