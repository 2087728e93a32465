"""How raw data lie in HDF5, format 2: ragged tables, one chunked dataset a column, the same in a point file and in an archive.

A point has some rows of each table. In an archive the points of a column follow one another, each beginning on a chunk boundary, so
that the stored bytes of a point's chunks are copied as they are: nothing is decoded. What the chunks hold, and why in this order:
docs/archive-format.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..analysis.metrics import Requests
from ..point import canonical_json
from .measurement import COUNTS, TIMES, Measurement

Array = NDArray[Any]
Spans = Mapping[str, tuple[int, int]]  # of one point: table -> its first row, and how many it has
PIPELINE = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
DTYPES = {name: h5py.h5t.py_create(np.dtype(name)) for name in ("<i8", "<i4", "|u1")}
FILTERS = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
MAX_DEFLATE = 1100  # gzip packs at most about 1,032 to 1
ASKED = "asked_prompt_tokens"
NS = "ns since the run's start"


@dataclass(frozen=True)
class RawColumn:
    """A column of a raw table."""

    name: str
    dtype: str
    unit: str


@dataclass(frozen=True)
class RawTable:
    """A raw table: its columns, what a row is, and how many rows a chunk of HDF5 has."""

    name: str
    axis: str
    chunk_rows: int
    columns: tuple[RawColumn, ...]

    def n_chunks(self, rows: int) -> int:
        """How many chunks so many rows take."""
        return -(-rows // self.chunk_rows)


TABLES: dict[str, RawTable] = {
    t.name: t
    for t in (
        RawTable("requests", "request", 1024, (
            *(RawColumn(name, "<i8", f"{NS}, -1: never") for name in TIMES),
            *(RawColumn(name, "<i4", "HTTP status" if name == "status" else "tokens") for name in COUNTS),
            RawColumn(ASKED, "<i4", "tokens, 0: nobody knew, -1: not kept"),
            RawColumn("error", "<i4", "0: a whole answer, else the n-th text of the record's `errors`, from 1"),
        )),
        RawTable("chunks", "streamed chunk, in order of arrival", 65536, (
            RawColumn("gap_ns", "<i8", "ns since the chunk before; of the first: since the run's start"),
            RawColumn("request", "<i4", "index of the request in its point"),
            RawColumn("tokens", "<i4", "tokens, -1: the server did not say"),
        )),
        RawTable("records", "byte", 32768, (RawColumn("json", "|u1", "JSON: point, provenance, server, stated, errors (null: no times)"),)),
        RawTable("logs", "byte", 32768, (RawColumn("text", "|u1", "UTF-8 text: the server's log"),)),
    )
}  # fmt: skip
RAW = ("requests", "chunks")  # what `--raw summary` leaves out
PARTS = ("point", "provenance", "server", "stated")


def encoded(m: Measurement) -> dict[str, dict[str, Array]]:
    """The measurement as rows of the tables. Raises ValueError for a number that its column cannot hold."""
    r = m.requests
    errors = list(dict.fromkeys(filter(None, r.error))) if r is not None else None
    record = canonical_json({**{name: getattr(m, name) for name in PARTS}, "errors": errors}).encode()
    rows: dict[str, dict[str, Any]] = {
        "requests": {c.name: [] for c in TABLES["requests"].columns},
        "chunks": {c.name: [] for c in TABLES["chunks"].columns},
        "records": {"json": np.frombuffer(record, np.uint8)},
        "logs": {"text": np.frombuffer(m.log.encode("utf-8", "replace"), np.uint8)},
    }
    if r is not None and errors is not None:
        number = {text: i for i, text in enumerate(errors, 1)}
        asked = r.asked_prompt_tokens if r.asked_prompt_tokens is not None else np.full(len(r.error), -1)
        rows["requests"] = {name: getattr(r, name) for name in (*TIMES, *COUNTS)}
        rows["requests"] |= {ASKED: asked, "error": [number.get(e, 0) for e in r.error]}
        rows["chunks"] = _by_arrival(r)
    return {t.name: {c.name: _typed(c, rows[t.name][c.name]) for c in t.columns} for t in TABLES.values()}


def _typed(column: RawColumn, values: Any) -> Array:
    given = np.asarray(values, dtype=np.int64 if column.dtype != "|u1" else np.uint8)
    typed = given.astype(column.dtype)
    if column.dtype == "<i4" and (typed != given).any():
        raise ValueError(f"{column.name} {int(given[typed != given][0])} is no number of 32 bits")
    return typed


def _by_arrival(r: Requests) -> dict[str, Array]:
    """Chunks in order of arrival, which packs best: a batch's chunks come together, and their requests come round again and again.

    Any order may stand in a file: readers put the chunks of each request together in the order in which they find them.
    """
    request = np.repeat(np.arange(len(r.error)), np.diff(r.chunk_offsets))
    order = np.argsort(r.chunk_ns, kind="stable")
    restored = order[np.argsort(request[order], kind="stable")]
    if (np.diff(restored) < 0).any():  # a request whose chunks run backwards: its order is kept
        order = np.arange(len(order))
    return {"gap_ns": np.diff(r.chunk_ns[order], prepend=0), "request": request[order], "tokens": r.chunk_tokens[order]}


def decoded(rows: Mapping[str, Mapping[str, Array]], *, key: str, source: str) -> Measurement:
    """The measurement of a point's rows. Raises ValueError when they contradict each other."""
    record = json.loads(rows["records"]["json"].tobytes())
    if not isinstance(record, dict) or not all(isinstance(record[name], dict) for name in PARTS):
        raise ValueError("its record is no record")
    return Measurement(
        key=key,
        source=source,
        requests=_requests(rows, record["errors"]) if record["errors"] is not None else None,
        log=rows["logs"]["text"].tobytes().decode("utf-8"),
        **{name: record[name] for name in PARTS},
    )


def _requests(rows: Mapping[str, Mapping[str, Array]], errors: list[str]) -> Requests:
    columns = {name: values.astype(np.int64) for name, values in rows["requests"].items()}
    number, asked, chunks = columns.pop("error"), columns.pop(ASKED), rows["chunks"]
    n, owner = len(number), chunks["request"]
    if len(number) and not 0 <= number.min() <= number.max() <= len(errors):
        raise ValueError("an error has a number that no text has")
    if len(owner) and not 0 <= owner.min() <= owner.max() < n:
        raise ValueError("a chunk belongs to no request")
    small = owner.astype(np.uint16) if n <= 65536 else owner  # sorted by radix
    order = np.argsort(small, kind="stable")
    texts = ("", *map(str, errors))
    return Requests(
        **columns,
        error=tuple(texts[i] for i in number.tolist()),
        chunk_ns=np.cumsum(chunks["gap_ns"].astype(np.int64))[order],
        chunk_tokens=chunks["tokens"].astype(np.int64)[order],
        chunk_offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))]),
        asked_prompt_tokens=None if (asked < 0).all() else asked,
    )


def make_tables(file: h5py.Group, rows: Mapping[str, Mapping[str, Array]] | None = None) -> None:
    """The tables, with a point's rows, or empty."""
    for table in TABLES.values():
        group = file.create_group(table.name)
        for c in table.columns:
            data = rows[table.name][c.name] if rows is not None else np.empty(0, c.dtype)
            dataset = group.create_dataset(c.name, data=data, dtype=c.dtype, maxshape=(None,), chunks=(table.chunk_rows,), **FILTERS)
            dataset.attrs.update(unit=c.unit, axes=table.axis)


def columns(file: h5py.Group) -> Iterator[tuple[RawTable, str, h5py.h5d.DatasetID]]:
    """Every column's dataset, in the order of the format. Raises ValueError when one is missing or is not as this format has it."""
    for table in TABLES.values():
        _refuse_link(file.id, table.name)
        group = h5py.h5o.open(file.id, table.name.encode())
        if not isinstance(group, h5py.h5g.GroupID):
            raise ValueError(f"{table.name} is no group")
        for c in table.columns:
            _refuse_link(group, c.name)
            dataset = h5py.h5o.open(group, c.name.encode())
            if not isinstance(dataset, h5py.h5d.DatasetID) or not _is_stored_so(dataset, table.chunk_rows, DTYPES[c.dtype]):
                raise ValueError(f"{table.name}/{c.name} is stored in another way than this format's")
            yield table, c.name, dataset


def _is_stored_so(dataset: h5py.h5d.DatasetID, chunk_rows: int, dtype: h5py.h5t.TypeID) -> bool:
    """In chunks of this file, with this format's filters. One call of HDF5 each: merges ask it of every column of every file."""
    how = dataset.get_create_plist()
    if how.get_layout() != h5py.h5d.CHUNKED or dataset.rank != 1 or how.get_chunk() != (chunk_rows,):
        return False
    filters = tuple(how.get_filter(i)[0] for i in range(how.get_nfilters()))
    return filters == PIPELINE and bool(dataset.get_type() == dtype)


def read_rows(file: h5py.Group, spans: Spans) -> dict[str, dict[str, Array]]:
    """The rows of one point, decoded. Raises ValueError for rows that the file does not hold."""
    rows: dict[str, dict[str, Array]] = {}
    for table, name, dataset in columns(file):
        first, n = spans[table.name]
        if not 0 <= first <= first + n <= dataset.shape[0]:
            raise ValueError(f"{table.name}/{name} has {dataset.shape[0]:,} rows, and none at {first:,} to {first + n:,}")
        if n * dataset.dtype.itemsize > MAX_DEFLATE * max(1, dataset.get_storage_size()):
            raise ValueError(f"{table.name}/{name} declares {n:,} rows, more than its stored bytes can hold")
        rows.setdefault(table.name, {})[name] = h5py.Dataset(dataset)[first : first + n]
    return rows


def whole_spans(file: h5py.Group) -> dict[str, tuple[int, int]]:
    """Of a point file: all rows. Raises ValueError where columns of a table differ in length."""
    return spans_of_lengths((table.name, dataset.shape[0]) for table, _, dataset in columns(file))


def spans_of_lengths(lengths: Iterable[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Of tables and the lengths of their columns, one after another. Raises ValueError where those of a table differ."""
    found: dict[str, tuple[int, int]] = {}
    for name, n in lengths:
        if found.setdefault(name, (0, n)) != (0, n):
            raise ValueError("its columns do not have the same length")
    return found


def stored_places(file: h5py.File) -> dict[str, Any]:
    """Of a point file in the making: for each table its rows, the XXH3 of its stored bytes, and where each column's chunks lie.

    The digest is over column after column, chunk after chunk; `chunks` are offset and size by turns, bytes of the file.
    """
    found: dict[str, Any] = {}
    digests = {name: xxhash.xxh3_128() for name in TABLES}
    for table, _, dataset in columns(file):
        places: list[int] = []
        dataset.chunk_iter(lambda chunk, places=places: places.extend((chunk.byte_offset, chunk.size)))
        for i in range(table.n_chunks(dataset.shape[0])):
            digests[table.name].update(dataset.read_direct_chunk((i * table.chunk_rows,))[1])
        found.setdefault(table.name, {"rows": dataset.shape[0], "chunks": []})["chunks"].append(places)
    return {name: {**told, "xxh3_128": digests[name].hexdigest()} for name, told in found.items()}


def child(group: h5py.Group, name: str) -> Any:
    """A member of the group that stands in this file. Raises ValueError for links elsewhere and for data outside the file."""
    _refuse_link(group.id, name)
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise ValueError(f"{name} keeps its data in another file")
    return member


def _refuse_link(group: h5py.h5g.GroupID, name: str) -> None:
    """Raises ValueError where the name is none, or leads out of this file."""
    try:
        kind = group.links.get_info(name.encode()).type
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is missing") from error
    if kind != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to somewhere else")
