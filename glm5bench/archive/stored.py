"""The positions of the stored bytes of points in their file, and whether the bytes are those that were written.

Enters: the positions that a point file (JSON) or an archive (HDF5) states. Leaves: positions inside the file, whose bytes are checked
against digests on request. Nothing is decoded.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from ..errors import FileError
from .index import Numbers, array, numbers
from .layout import EARLY, RAW, child, chunk_places, tables
from .raw import TABLES, RawTable
from .sealed import DAMAGED

XXH3 = re.compile(r"[0-9a-f]{32}")
MAX_ROWS = 2**40  # per table and point
ABSENT = {
    name: {"rows": 0, "xxh3_128": xxhash.xxh3_128().hexdigest(), "chunks": []} for name, table in TABLES.items() if table.is_optional
}  # of tables that a file may lack
READ_AT_ONCE_BYTES = 64 * 2**20
Pieces = list[tuple[int, int]]  # offset and size of chunks, bytes of the file
Check = tuple[str, Pieces, str]  # a table (empty for a whole file), the positions of its bytes, and their digest
Bytes = Callable[[int, int], Any]  # arguments: offset and number of bytes


@dataclass(frozen=True)
class Stored:
    """The positions of the stored bytes of P points in their file."""

    first: Mapping[str, Sequence[int]]  # table -> P rows
    rows: Mapping[str, Sequence[int]]  # table -> how many rows
    xxh3_128: Mapping[str, Sequence[str]]  # table -> P digests of stored bytes
    chunks: Mapping[str, Pieces | Numbers]  # table -> offset and size in bytes of each chunk

    def pieces(self, i: int, table: str) -> Pieces:
        """Offset and size of the table's chunks for point `i`."""
        t = TABLES[table]
        begin = self.first[table][i] // t.chunk_rows
        found = self.chunks[table][begin : begin + t.n_chunks(self.rows[table][i])]
        return found if isinstance(found, list) else [(int(at), int(size)) for at, size in found.tolist()]

    def of_first(self, n: int) -> Stored:
        """The same for the first `n` points only."""
        first, rows = ({t: column[:n] for t, column in of.items()} for of in (self.first, self.rows))
        return Stored(first, rows, {t: column[:n] for t, column in self.xxh3_128.items()}, self.chunks)

    def checks(self, i: int, *, is_whole: bool = True) -> tuple[Check, ...]:
        """The checks of point `i` for `verify`, with or without its raw rows."""
        return tuple((t, self.pieces(i, t), self.xxh3_128[t][i]) for t in TABLES if self.rows[t][i] and (is_whole or t not in RAW))


def told(places: Mapping[str, Any], n_bytes: int) -> Stored:
    """The positions that a point file of `n_bytes` states for its tables. Raises ValueError for impossible positions."""
    if "telemetry" not in places:
        raise ValueError(EARLY)
    chunks: dict[str, Pieces | Numbers] = {}
    total = 0
    places = {**ABSENT, **places}
    for name, table in TABLES.items():
        rows, digest, flat = places[name]["rows"], places[name]["xxh3_128"], places[name]["chunks"]
        if type(rows) is not int or not 0 <= rows <= MAX_ROWS or not XXH3.fullmatch(digest):
            raise ValueError(f"{name} has an invalid digest or number of rows: {rows!r}")
        offsets, sizes = flat[::2], flat[1::2]
        if len(offsets) != table.n_chunks(rows) or len(sizes) != len(offsets) or not _is_inside(offsets, sizes, n_bytes, table.most_bytes):
            raise ValueError(f"{name} has missing chunks, or chunks outside the file or larger than their rows")
        chunks[name] = list(zip(offsets, sizes, strict=True))
        total += sum(sizes)
    if total > n_bytes:
        raise ValueError("its chunks are larger than the file")
    first = dict.fromkeys(TABLES, (0,))
    return Stored(first, {n: (places[n]["rows"],) for n in TABLES}, {n: (places[n]["xxh3_128"],) for n in TABLES}, chunks)


def _is_inside(offsets: list[Any], sizes: list[Any], n_bytes: int, most: int) -> bool:
    """Whether all are integers, and describe ranges of at most `most` bytes inside a file of `n_bytes`."""
    if {*map(type, offsets), *map(type, sizes)} - {int}:
        return False
    return not offsets or (min(offsets) > 0 and 0 < min(sizes) <= max(sizes) <= most and max(map(operator.add, offsets, sizes)) <= n_bytes)


def of_point(file: h5py.File, path: Path, places: Mapping[str, Any]) -> Stored:
    """The positions of an open point file. Only the digests of `places`, which the file states, are used. Raises ValueError for damage."""
    at, places = list(tables(file)), {**ABSENT, **places}
    return Stored(
        dict.fromkeys(TABLES, (0,)),
        {**dict.fromkeys(TABLES, (0,)), **{table.name: (dataset.shape[0],) for table, dataset in at}},
        {name: (str(places[name]["xxh3_128"]),) for name in TABLES},
        _chunks(at, path),
    )


def of_archive(file: h5py.File, path: Path, n: int) -> Stored:
    """The positions of an open archive with `n` points. Raises ValueError if its index refers to missing data."""
    index, at = child(file, "index"), list(tables(file))
    groups = {table.name: child(index, table.name) for table, _ in at}
    xxh3 = {name: array(child(g, "xxh3_128"), n) for name, g in groups.items()}
    if any(s.shape != (n, 16) or s.dtype != np.uint8 for s in xxh3.values()):
        raise ValueError("its index contains invalid digests")
    spans = {name: (numbers(child(g, "first"), n), numbers(child(g, "rows"), n)) for name, g in groups.items()}
    for table, dataset in at:
        first, rows = spans[table.name]
        if n and ((first < 0) | (rows < 0) | (first % table.chunk_rows != 0) | (first + rows > dataset.shape[0])).any():
            raise ValueError(f"its index refers to rows of {table.name} that do not exist")
        _refuse_shared(first, rows, table.name)
    none: dict[str, list[int]] = {name: [0] * n for name in TABLES}
    return Stored(
        none | {name: first.tolist() for name, (first, _) in spans.items()},
        none | {name: rows.tolist() for name, (_, rows) in spans.items()},
        {name: [ABSENT[name]["xxh3_128"]] * n for name in ABSENT} | {name: [row.tobytes().hex() for row in s] for name, s in xxh3.items()},
        _chunks(at, path),
    )


def _refuse_shared(first: Numbers, rows: Numbers, what: str) -> None:
    """Raises ValueError if two points share rows: copying them would turn a small file into a large one."""
    order = np.argsort(first[rows > 0], kind="stable")
    begin, n = first[rows > 0][order], rows[rows > 0][order]
    if (begin[:-1] + n[:-1] > begin[1:]).any():
        raise ValueError(f"its index gives the same {what} to two points")


def _chunks(at: Sequence[tuple[RawTable, h5py.h5d.DatasetID]], path: Path) -> dict[str, Pieces | Numbers]:
    """The positions of all chunks of each table. Raises ValueError for a chunk outside the file."""
    found: dict[str, Pieces | Numbers] = {name: [] for name in ABSENT}
    size, n_bytes = path.stat().st_size, 0
    for table, dataset in at:
        n = table.n_chunks(dataset.shape[0])
        if n > size:
            raise ValueError(f"{table.name} declares {n:,} chunks in a file of {size:,} bytes")
        begins, masks, offsets, sizes = np.array(chunk_places(dataset), dtype=np.int64).reshape(-1, 4).T
        if len(begins) != n or (begins != np.arange(n) * table.chunk_rows).any():
            raise ValueError(f"{table.name} has missing chunks")
        if masks.any() or (offsets <= 0).any() or (sizes <= 0).any() or (sizes > size - offsets).any() or (sizes > table.most_bytes).any():
            raise ValueError(f"{table.name} has chunks outside the file, larger than their rows, or without their filters")
        n_bytes += int(sizes.sum())
        found[table.name] = np.stack([offsets, sizes], axis=1)
    if n_bytes > size:
        raise ValueError("its chunks are larger than the file")
    return found


def verify(path: Path, checks: Sequence[Check], where: str) -> None:
    """Raises FileError if the stored bytes do not match their digests."""
    try:
        with path.open("rb") as file:
            verified(file.fileno(), checks, where, bytearray())
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=where) from error


def verified(descriptor: int, checks: Sequence[Check], where: str, room: bytearray) -> Bytes:
    """The stored bytes, checked against their digests. They are read into `room` if they fit. Raises FileError, OSError."""
    bytes_ = _stretch(descriptor, checks, room)
    for table, pieces, digest in checks:
        if _xxh3(bytes_, pieces) != digest:
            raise FileError(f"Its {table} are damaged: their bytes are not those that were written." if table else DAMAGED, path=where)
    return bytes_


def _stretch(descriptor: int, checks: Sequence[Check], room: bytearray) -> Bytes:
    """A function that returns bytes of a point. If the point's bytes are close together, as writers store them, all are read at once."""
    every = [piece for _, pieces, _ in checks for piece in pieces]
    begin = min((at for at, _ in every), default=0)
    n = max((at + size for at, size in every), default=0) - begin
    if n > READ_AT_ONCE_BYTES or n > 2 * sum(size for _, size in every):
        return lambda at, size: os.pread(descriptor, size, at)
    whole = memoryview(room if n <= len(room) else bytearray(n))[:n]
    whole = whole[: os.preadv(descriptor, [whole], begin)] if n else whole
    return lambda at, size: whole[at - begin : at - begin + size] if 0 <= at - begin < n else os.pread(descriptor, size, at)


def _xxh3(bytes_: Bytes, pieces: Pieces) -> str:
    h = xxhash.xxh3_128()
    for at, size in pieces:
        h.update(bytes_(at, size))
    return h.hexdigest()
