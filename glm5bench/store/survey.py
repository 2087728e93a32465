"""What a file holds: its points' summaries, and where in it their stored bytes lie. Runs in a reader's process (`reading`).

Enters: a path. Leaves: a survey, plain values and arrays. Nothing is decoded but what is checked here: a file whose seal holds is
believed to be what its writer made; the points of an archive whose structure is damaged, and files of earlier formats, are decoded,
held against their digests, and written again as point files, of which the survey then gives the paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import operator
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..errors import FileError
from ..point import digest_of, from_plain
from . import format1
from .layout import MAX_DEFLATE, RAW, TABLES, RawTable, Spans, child, columns, decoded, read_rows, spans_of_lengths
from .measurement import Measurement
from .pointfile import (
    DAMAGED,
    checked,
    columns_of,
    measurement_of,
    opened,
    read_summary,
    refuse_impossible,
    short,
    text_of,
    undamaged,
    what_is,
    write_point,
)
from .sealed import quickly, seal_of, verify_seal
from .summary import ABSENT, COLUMNS, DEFINITIONS, MAX_TEXT, Kind, listed, summary

Numbers = NDArray[np.int64]
AT_ONCE_BYTES = 64 * 2**20
XXH3 = re.compile(r"[0-9a-f]{32}")
MAX_ROWS = 2**40  # of a table, of one point
Identity = tuple[int, int, int, int]
Pieces = list[tuple[int, int]]
Check = tuple[str, list[Pieces], str]  # a table, where its bytes lie, and their digest
Summaries = dict[str, Any]  # column -> P values: a list, or an array (texts as bytes) where there may be many


@dataclass(frozen=True)
class SourceTable:
    """A table of a source that holds no points: interpolated or aggregate values, as text."""

    name: str
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Stored:
    """Where the stored bytes of P points lie in their file."""

    first: Mapping[str, Sequence[int]]  # table -> P rows
    rows: Mapping[str, Sequence[int]]  # table -> how many rows
    xxh3_128: Mapping[str, Sequence[str]]  # table -> P digests of stored bytes
    chunks: Mapping[tuple[str, str], Pieces | Numbers]  # table and column -> offset and size in bytes of each chunk

    def pieces(self, i: int, table: str) -> list[Pieces]:
        """Of point `i`: for each column of the table the offset and size of its chunks."""
        t = TABLES[table]
        begin = self.first[table][i] // t.chunk_rows
        end = begin + t.n_chunks(self.rows[table][i])
        found = (self.chunks[table, c.name][begin:end] for c in t.columns)
        return [piece if isinstance(piece, list) else piece.tolist() for piece in found]

    def checks(self, i: int, *, is_whole: bool = True) -> list[Check]:
        """Of point `i`: what `verify` holds against what; with its raw rows or without."""
        return [(t, self.pieces(i, t), self.xxh3_128[t][i]) for t in TABLES if self.rows[t][i] and (is_whole or t not in RAW)]


@dataclass(frozen=True)
class Survey:
    """What one file holds. `stored` is None where its points must be read to be had."""

    path: Path
    identity: Identity
    summaries: Summaries = field(default_factory=dict)
    is_whole: tuple[bool, ...] = ()  # whether the raw rows came along, of each point
    stored: Stored | None = None
    is_verified: bool = False  # whether the stored bytes were held against their digests
    tables: tuple[SourceTable, ...] = ()
    bad: tuple[FileError, ...] = ()
    rewritten: tuple[Path, ...] = ()

    @property
    def n(self) -> int:
        """How many points it has."""
        return len(self.is_whole)

    def name(self, i: int) -> str:
        """The name of one point in archives: its key, and the beginning of its digest."""
        return f"{_plain(self.summaries['key'][i])}-{_plain(self.summaries['digest'][i])[:16]}"

    def values(self, i: int) -> dict[str, Any]:
        """The summary of one point."""
        return {name: column[i] if type(column) is list else _plain(column[i]) for name, column in self.summaries.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if isinstance(value, np.generic) else value


def identity_of(descriptor: int) -> Identity:
    """What tells this file, as it is now, from another and from itself after a change."""
    s = os.fstat(descriptor)
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def survey(path: Path, *, scratch: Path | None = None) -> Survey:
    """What the file holds. With `scratch`: where its bytes lie, too, those of a point file held against their digests.

    `scratch` is a folder for points that have to be written again. Raises FileError when nothing in the file can be had.
    """
    quick = at_once(path)
    if quick is not None:
        return quick[0]
    identity = _identity(path)
    try:
        verify_seal(path)
    except FileError as damage:
        return _salvaged(path, identity, scratch, damage)
    with opened(path, is_verified=False) as file:
        format_, kind = what_is(file, path)
        if format_ > 1 and seal_of(path) is None:
            raise FileError("The file is damaged: it has no seal.", path=str(path))
        if format_ == 1:
            return _migrated(file, kind, Survey(path, identity), scratch)
        read = _point if kind == "point" else _archive
        found = undamaged(lambda: read(file, path, identity, is_stored=scratch is not None), "The file is damaged", str(path))
    if kind == "point" and found.stored is not None:
        verify(path, found.stored.checks(0), str(path))
    return found


def at_once(path: Path) -> tuple[Survey, memoryview] | None:
    """The survey of a point file whose seal tells where everything lies, and its bytes, which are those that were written.

    HDF5 is not asked, so that this needs no reader of its own. None for any other file, and one that is large. Raises FileError for damage.
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
        return None  # said by who asks more closely
    told = quickly(content, path)
    if told is None or len(content) != identity[1]:
        return None
    return undamaged(lambda: _by_place(bytes(told), path, identity), "The file is damaged", str(path)), content


def _by_place(told: bytes, path: Path, identity: Identity) -> Survey:
    """Of a point file as it was written: what stands where is in one place, and HDF5 is not asked. Its seal holds for all of it."""
    values, places = columns_of(told)
    _refuse_untold(values, path)
    stored = _told_stored(places, identity[1])
    if values["definitions"] == DEFINITIONS:
        return Survey(path, identity, {name: [v] for name, v in values.items()}, (True,), stored, is_verified=True)
    with opened(path, is_verified=False) as file:
        values = summary(*measurement_of(file, what_is(file, path)[0], str(path)), where=str(path))
    return Survey(path, identity, {name: [v] for name, v in values.items()}, (True,), stored, is_verified=True)


def _told_stored(places: Mapping[str, Any], n_bytes: int) -> Stored:
    """Where a point file of so many bytes says that its tables lie. Raises ValueError for what cannot be."""
    chunks: dict[tuple[str, str], Pieces | Numbers] = {}
    total = 0
    for name, table in TABLES.items():
        rows, digest = places[name]["rows"], places[name]["xxh3_128"]
        if type(rows) is not int or not 0 <= rows <= MAX_ROWS or not XXH3.fullmatch(digest):
            raise ValueError(f"it says that {name} has {rows!r} rows")
        for c, flat in zip(table.columns, places[name]["chunks"], strict=True):
            offsets, sizes = flat[::2], flat[1::2]
            if len(offsets) != table.n_chunks(rows) or len(sizes) != len(offsets) or not _is_inside(offsets, sizes, n_bytes):
                raise ValueError(f"{name}/{c.name} lacks chunks, or has some outside of the file")
            chunks[name, c.name] = list(zip(offsets, sizes, strict=True))
            total += sum(sizes)
    if total > n_bytes:
        raise ValueError("its chunks are more bytes than the file has")
    first = dict.fromkeys(TABLES, (0,))
    return Stored(first, {n: (places[n]["rows"],) for n in TABLES}, {n: (places[n]["xxh3_128"],) for n in TABLES}, chunks)


def _is_inside(offsets: list[Any], sizes: list[Any], n_bytes: int) -> bool:
    """Whether these are numbers, and stretches of a file of so many bytes."""
    if {*map(type, offsets), *map(type, sizes)} - {int}:
        return False
    return not offsets or (min(offsets) > 0 and min(sizes) > 0 and max(map(operator.add, offsets, sizes)) <= n_bytes)


def _refuse_untold(told: Mapping[str, Any], path: Path) -> None:
    refuse_impossible(told["key"], told["source"], told["digest"], str(path))
    if told["n_requests"] < 0 and told["source"] != "published" and not told["client"]:
        raise FileError(f"It says {told['source']} and holds no times.", path=str(path))


def _identity(path: Path) -> Identity:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):  # those that can be are searched
            raise FileError("The folder cannot be read.", path=str(path))
        if not stat.S_ISREG(mode):  # a pipe would keep its reader waiting
            raise FileError("This is no file of bytes.", path=str(path))
        with path.open("rb") as file:
            return identity_of(file.fileno())
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=str(path)) from error


def verify(path: Path, checks: Sequence[Check], where: str) -> None:
    """Raises FileError when the stored bytes are not those that the digests are of."""
    try:
        with path.open("rb") as file:
            bytes_ = _stretch(file.fileno(), checks)
            damaged = [table for table, pieces, digest in checks if _xxh3(bytes_, pieces) != digest]
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=where) from error
    if damaged:
        raise FileError(f"Its {damaged[0]} are damaged: their bytes are not those that were written.", path=where)


def _stretch(descriptor: int, checks: Sequence[Check]) -> Callable[[int, int], Any]:
    """How the bytes of a point are had: of one that lies together, as writers leave it, all are read at once."""
    every = [piece for _, pieces, _ in checks for column in pieces for piece in column]
    begin = min((at for at, _ in every), default=0)
    n = max((at + size for at, size in every), default=0) - begin
    if n > AT_ONCE_BYTES or n > 2 * sum(size for _, size in every):
        return lambda at, size: os.pread(descriptor, size, at)
    whole = memoryview(os.pread(descriptor, n, begin))
    return lambda at, size: whole[at - begin : at - begin + size]


def _xxh3(bytes_: Callable[[int, int], Any], pieces: Sequence[Pieces]) -> str:
    h = xxhash.xxh3_128()
    for column in pieces:
        for at, size in column:
            h.update(bytes_(at, size))
    return h.hexdigest()


def _point(file: h5py.File, path: Path, identity: Identity, *, is_stored: bool) -> Survey:
    told, places = columns_of(text_of(child(file, "summary")))
    at = list(columns(file))
    spans = spans_of_lengths((table.name, dataset.shape[0]) for table, _, dataset in at)
    _refuse_untold(told, path)
    if told["definitions"] != DEFINITIONS:
        told = summary(*measurement_of(file, 2, str(path)), where=str(path))
    return Survey(
        path,
        identity,
        {name: [value] for name, value in told.items()},
        (True,),
        Stored(
            dict.fromkeys(TABLES, (0,)),
            {name: (n,) for name, (_, n) in spans.items()},
            {name: (str(places[name]["xxh3_128"]),) for name in TABLES},
            _chunks(at, path),
        )
        if is_stored
        else None,
        is_verified=is_stored,
    )


def _archive(file: h5py.File, path: Path, identity: Identity, *, is_stored: bool) -> Survey:
    summaries = read_columns(file)
    for key, source, digest in zip(*(listed(summaries[name]) for name in ("key", "source", "digest")), strict=True):
        refuse_impossible(key, source, digest, str(path))
    index = child(file, "index")
    is_whole = tuple((_numbers(child(index, "is_whole"), len(summaries["key"])) != 0).tolist())
    bad = _recomputed(file, path, summaries, is_whole)
    tables = child(file, "tables")
    return Survey(
        path,
        identity,
        summaries,
        is_whole,
        _stored(file, path, len(is_whole)) if is_stored else None,
        tables=tuple(_source_table(child(tables, name)) for name in sorted(tables)),
        bad=tuple(bad),
    )


def read_columns(file: h5py.File) -> Summaries:
    """The summaries of an archive, every column of today. Raises ValueError for what is no table of points."""
    group = child(file, "points")
    n = len(child(group, "key"))
    return {c.name: _column(group, c.name, c.kind, n) for c in COLUMNS}


def _column(group: h5py.Group, name: str, kind: Kind, n: int) -> Any:
    if name not in group:  # a column of later than this archive
        return [ABSENT[kind]] * n
    values = _array(child(group, name), n)
    stored = values.dtype.kind if kind == "text" else values.dtype.str
    if values.ndim != 1 or stored != {"text": "S", "count": "<i8", "figure": "<f8"}[kind]:
        raise ValueError(f"{name} is no column of {kind}s")
    if kind == "text" and values.dtype.itemsize > MAX_TEXT:
        raise ValueError(f"{name} is a column of texts of {values.dtype.itemsize:,} bytes")
    listed(values)  # texts are UTF-8
    return values


def _array(dataset: h5py.Dataset, n: int) -> NDArray[Any]:
    if dataset.shape[:1] != (n,) or dataset.ndim > 2 or dataset.nbytes > MAX_DEFLATE * max(1, dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} declares {dataset.shape}, which {n:,} points and its stored bytes do not have")
    return np.asarray(dataset[()])


def _numbers(dataset: h5py.Dataset, n: int) -> Numbers:
    return _array(dataset, n).astype(np.int64)


def _stored(file: h5py.File, path: Path, n: int) -> Stored:
    index, at = child(file, "index"), list(columns(file))
    groups = {name: child(index, name) for name in TABLES}
    xxh3 = {name: _array(child(g, "xxh3_128"), n) for name, g in groups.items()}
    if any(s.shape != (n, 16) or s.dtype != np.uint8 for s in xxh3.values()):
        raise ValueError("the digests in its index are none")
    spans = {name: (_numbers(child(g, "first"), n), _numbers(child(g, "rows"), n)) for name, g in groups.items()}
    for table, name, dataset in at:
        first, rows = spans[table.name]
        if n and ((first < 0) | (rows < 0) | (first % table.chunk_rows != 0) | (first + rows > dataset.shape[0])).any():
            raise ValueError(f"its index names rows of {table.name}/{name} that are not there")
    for name, (first, rows) in spans.items():
        _refuse_shared(first, rows, name)
    return Stored(
        {name: first.tolist() for name, (first, _) in spans.items()},
        {name: rows.tolist() for name, (_, rows) in spans.items()},
        {name: [row.tobytes().hex() for row in s] for name, s in xxh3.items()},
        _chunks(at, path),
    )


def _refuse_shared(first: Numbers, rows: Numbers, what: str) -> None:
    """Raises ValueError where two points have rows in common: copied, a small file would become a large one."""
    order = np.argsort(first[rows > 0], kind="stable")
    begin, n = first[rows > 0][order], rows[rows > 0][order]
    if (begin[:-1] + n[:-1] > begin[1:]).any():
        raise ValueError(f"its index gives the same {what} to two points")


def _chunks(at: Sequence[tuple[RawTable, str, h5py.h5d.DatasetID]], path: Path) -> dict[tuple[str, str], Pieces | Numbers]:
    """Where each chunk of each column lies. Raises ValueError for one outside of the file."""
    found: dict[tuple[str, str], Pieces | Numbers] = {}
    size, n_bytes = path.stat().st_size, 0
    for table, name, dataset in at:
        n = table.n_chunks(dataset.shape[0])
        if n > size:
            raise ValueError(f"{table.name}/{name} declares {n:,} chunks in a file of {size:,} bytes")
        told: list[Any] = []
        dataset.chunk_iter(told.append)
        places = [(chunk.byte_offset, chunk.size) for chunk in told]
        if [chunk.chunk_offset[0] for chunk in told] != list(range(0, n * table.chunk_rows, table.chunk_rows)):
            raise ValueError(f"{table.name}/{name} lacks chunks")
        if any(chunk.filter_mask for chunk in told) or any(not 0 < begin <= begin + length <= size for begin, length in places):
            raise ValueError(f"{table.name}/{name} has chunks outside of the file, or without their filters")
        n_bytes += sum(length for _, length in places)
        found[table.name, name] = np.array(places, dtype=np.int64).reshape(n, 2)
    if n_bytes > size:
        raise ValueError("its chunks are more bytes than the file has")
    return found


def _source_table(dataset: h5py.Dataset) -> SourceTable:
    table: SourceTable = from_plain(SourceTable, json.loads(text_of(dataset)))
    return table


def spans_of(file: h5py.File) -> Iterator[Spans]:
    """The rows of each point of an archive, in its order."""
    index = child(file, "index")
    n = len(child(index, "is_whole"))
    edges = {name: [_numbers(child(child(index, name), what), n).tolist() for what in ("first", "rows")] for name in TABLES}
    for i in range(n):
        yield {name: (first[i], rows[i]) for name, (first, rows) in edges.items()}


def _recomputed(file: h5py.File, path: Path, summaries: Summaries, is_whole: Sequence[bool]) -> list[FileError]:
    """Figures by definitions of another version are computed again, where the raw rows came along."""
    old = [i for i, version in enumerate(summaries["definitions"]) if version != DEFINITIONS and is_whole[i]]
    if not old:
        return []
    summaries |= {name: listed(column) for name, column in summaries.items()}
    spans, bad = list(spans_of(file)), []
    for i in old:
        try:
            told = summary(*_measured(file, path, summaries, spans[i], i), where=str(path))
        except FileError as error:
            bad.append(error)
            continue
        for name, value in told.items():
            summaries[name][i] = value
    return bad


def _measured(file: h5py.File, path: Path, summaries: Summaries, spans: Spans, i: int) -> tuple[Measurement, str]:
    key, source, digest = (_plain(summaries[name][i]) for name in ("key", "source", "digest"))
    return checked(lambda: decoded(read_rows(file, spans), key=key, source=source), lambda: digest, f"{path}:{key}")


Each = tuple[Measurement | None, "dict[str, Any] | None", str]  # decoded, None: left out; its stored summary, if it has one; its digest


def measurements(path: Path, begin: int = 0, end: int | None = None) -> Iterator[Each | FileError]:
    """Points `begin` to `end` of the file, decoded and held against their digests, or why one cannot be had.

    Raises FileError for a file that is none.
    """
    with opened(path, is_verified=False) as file:
        format_, kind = what_is(file, path)
        if kind == "point":
            m, digest = measurement_of(file, format_, str(path))
            stored = undamaged(lambda: read_summary(file), "Its summary is damaged", str(path)) if format_ > 1 else None
            yield m, stored, digest
        else:
            yield from (_of_format1 if format_ == 1 else _of_archive)(file, path, begin, end)


def _of_format1(file: h5py.File, path: Path, begin: int, end: int | None) -> Iterator[Each | FileError]:
    points = undamaged(lambda: child(file, "points"), "The file is damaged", str(path))
    for name in undamaged(lambda: sorted(points), "The file is damaged", str(path))[begin:end]:
        where = f"{path}:/points/{name}"
        try:
            m, digest = _group_of_format1(points, name, where)
            yield m, None, digest
        except FileError as error:
            yield error


def _group_of_format1(points: h5py.Group, name: str, where: str) -> tuple[Measurement, str]:
    group = undamaged(lambda: child(points, name), "The point is damaged", where)
    return checked(lambda: format1.read(group), lambda: str(group.attrs["content_digest"]), where)


def _of_archive(file: h5py.File, path: Path, begin: int, end: int | None) -> Iterator[Each | FileError]:
    def read() -> tuple[Summaries, list[Spans], list[int]]:
        summaries = read_columns(file)
        return summaries, list(spans_of(file)), _numbers(child(child(file, "index"), "is_whole"), len(summaries["key"])).tolist()

    summaries, spans, is_whole = undamaged(read, "The file is damaged", str(path))
    for i in range(len(is_whole))[begin:end]:
        try:
            m, digest = _measured(file, path, summaries, spans[i], i) if is_whole[i] else (None, _plain(summaries["digest"][i]))
            yield m, {name: _plain(column[i]) for name, column in summaries.items()}, digest
        except FileError as error:
            yield error


def _salvaged(path: Path, identity: Identity, scratch: Path | None, damage: FileError) -> Survey:
    """An archive whose structure is damaged: what of it still has its digest is whole."""
    try:
        with opened(path, is_verified=False) as file:
            is_archive = what_is(file, path)[1] == "archive"
            tables = _whole_tables(file)
        found = _read_again(Survey(path, identity), measurements(path), scratch) if is_archive else None
    except FileError:
        found = None
    if found is None or not (found.n or found.rewritten):
        raise damage
    n = found.n or len(found.rewritten)
    told = FileError(
        f"The archive is damaged: its bytes are not those that were written. What is whole was taken: {n} points, {len(tables)} tables.",
        path=str(path),
        next_step="merge its sources again, or keep what the merge has made of it in its place",
    )
    return dataclasses.replace(found, tables=tables, bad=(told, *found.bad))


def _whole_tables(file: h5py.File) -> tuple[SourceTable, ...]:
    """The source tables of a damaged archive that are what their names say."""
    whole = []
    with contextlib.suppress(*DAMAGED):
        group = child(file, "tables")
        for name in sorted(group):
            with contextlib.suppress(*DAMAGED):
                table = _source_table(child(group, name))
                whole += [table] * (digest_of(table) == name)
    return tuple(whole)


def _migrated(file: h5py.File, kind: str, empty: Survey, scratch: Path | None) -> Survey:
    if kind == "point":
        m, digest = measurement_of(file, 1, str(empty.path))
        return _read_again(empty, iter([(m, None, digest)]), scratch)
    found = _read_again(empty, _of_format1(file, empty.path, 0, None), scratch)
    tables, bad = [], list(found.bad)
    try:
        group = child(file, "tables")
        tables = [from_plain(SourceTable, json.loads(format1.json_bytes(child(group, name)))) for name in sorted(group)]
    except DAMAGED as error:
        bad.append(FileError(f"Its tables are damaged: {short(error)}.", path=str(empty.path)))
    return dataclasses.replace(found, tables=tuple(tables), bad=tuple(bad))


def _read_again(empty: Survey, found: Iterator[Each | FileError], scratch: Path | None) -> Survey:
    """The survey of decoded points: with a scratch folder they are written there, else summed up."""
    summaries: Summaries = {c.name: [] for c in COLUMNS}
    bad: list[FileError] = []
    rewritten: list[Path] = []
    for each in found:
        try:
            if isinstance(each, FileError):
                raise each
            m, _, digest = each
            if m is None:
                raise FileError("Its raw times were left out when it was merged: what is left cannot be verified.", path=str(empty.path))
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
