"""How raw data are stored in HDF5 (format 2): one chunked dataset per table, ragged over points, in point files and archives alike.

A point has some rows of each table. In an archive the points follow one another in each table, and each begins on a chunk boundary.
The stored bytes of a point's chunks can therefore be copied without decoding. docs/archive-format.md describes the content of the
chunks and the reason for their order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from .. import __version__
from ..analysis.metrics import Plays, Requests, stated
from ..analysis.telemetry import Telemetry, Track
from ..errors import EnvironmentLacks
from ..values.plain import canonical_json
from .measurement import COUNTS, TIMES, Measurement, with_answers
from .raw import ASKED, TABLES, VERIFIED, RawTable
from .sealed import BLOCK, LIBVER

ABOUT = {"writer": f"glm5bench {__version__}", "documentation": "docs/archive-format.md of glm5bench"}  # at the root of every file
Array = NDArray[Any]
Spans = Mapping[str, tuple[int, int]]  # of one point: table -> its first row, and its number of rows
PIPELINE = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
FILTERS = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
MAX_DEFLATE = 1100  # gzip compresses at most about 1,032 to 1
EARLY = "it was written in a development version of format 2, without telemetry: read it with the glm5bench that wrote it"

RAW = ("requests", "chunks", "sessions", "telemetry")  # left out by `--raw summary`
PARTS = ("point", "provenance", "server", "stated")


def optional_columns(r: Requests) -> dict[str, Array | None]:
    """Columns that some sources of requests do not have."""
    return {ASKED: r.asked_prompt_tokens, VERIFIED: r.verify_steps}


def encoded(m: Measurement) -> dict[str, Array]:
    """The measurement as rows of the tables. Raises ValueError for a number that does not fit its column."""
    r = m.requests
    errors = list(dict.fromkeys(filter(None, r.error))) if r is not None else None
    tracks = [[t.device, t.name, t.unit] for t in m.telemetry.tracks] if m.telemetry is not None else None
    record = canonical_json({**{name: getattr(m, name) for name in PARTS}, "errors": errors, "tracks": tracks}).encode()
    rows = {name: np.empty(0, table.dtype) for name, table in TABLES.items()}
    rows |= {"records": np.frombuffer(record, np.uint8), "logs": np.frombuffer(m.log.encode("utf-8", "replace"), np.uint8)}
    if r is not None and errors is not None:
        number = {text: i for i, text in enumerate(errors, 1)}
        requests = {name: getattr(r, name) for name in (*TIMES, *COUNTS)}
        optional = {name: values if values is not None else np.full(len(r.error), -1) for name, values in optional_columns(r).items()}
        rows["requests"] = _typed("requests", {**requests, **optional, "error": [number.get(e, 0) for e in r.error]})
        rows["chunks"] = _typed("chunks", _by_arrival(r))
        if r.plays is not None:
            rows["sessions"] = _typed("sessions", {name: getattr(r.plays, name) for name in TABLES["sessions"].dtype.names or ()})
    if m.telemetry is not None:
        rows["telemetry"] = np.empty(len(m.telemetry.value), TABLES["telemetry"].dtype)
        for name in TABLES["telemetry"].dtype.names or ():
            rows["telemetry"][name] = getattr(m.telemetry, name)
    return rows


def _typed(table: str, columns: Mapping[str, Any]) -> Array:
    """The columns as rows of the table."""
    dtype = TABLES[table].dtype
    rows = np.empty(len(columns[TABLES[table].columns[0].name]), dtype)
    for name, values in columns.items():
        given = np.asarray(values, dtype=np.int64)
        rows[name] = given
        if (rows[name] != given).any():
            raise ValueError(f"{name} {int(given[rows[name] != given][0])} does not fit in 32 bits")
    return rows


def _by_arrival(r: Requests) -> dict[str, Array]:
    """Chunks in order of arrival. This order compresses best: the chunks of a batch arrive together, and its requests repeat at each step.

    A file may use any order: readers collect the chunks of each request in the order in which they find them.
    """
    request = np.repeat(np.arange(len(r.error)), np.diff(r.chunk_offsets))
    order = np.argsort(r.chunk_ns, kind="stable")
    restored = order[np.argsort(request[order], kind="stable")]
    if (np.diff(restored) < 0).any():  # the chunk times of a request decrease: keep the given order
        order = np.arange(len(order))
    return {"gap_ns": np.diff(r.chunk_ns[order], prepend=0), "request": request[order], "tokens": r.chunk_tokens[order]}


def decoded(rows: Mapping[str, Array], *, key: str, source: str) -> Measurement:
    """The measurement in a point's rows. Raises ValueError if they contradict each other."""
    record = json.loads(rows["records"].tobytes())
    if not isinstance(record, dict) or not all(isinstance(record[name], dict) for name in PARTS):
        raise ValueError("its record does not have the required fields")
    return Measurement(
        key=key,
        source=source,
        requests=with_answers(_requests(rows, record["errors"]), record["server"]) if record["errors"] is not None else None,
        telemetry=_telemetry(rows["telemetry"], record["tracks"]) if record["tracks"] is not None else None,
        log=rows["logs"].tobytes().decode("utf-8"),
        **{name: record[name] for name in PARTS},
    )


def _requests(rows: Mapping[str, Array], errors: list[str]) -> Requests:
    columns = {c.name: rows["requests"][c.name].astype(np.int64) for c in TABLES["requests"].columns}
    number, asked, verified, chunks = columns.pop("error"), columns.pop(ASKED), columns.pop(VERIFIED), rows["chunks"]
    n, owner = len(number), chunks["request"]
    if len(number) and not 0 <= number.min() <= number.max() <= len(errors):
        raise ValueError("a request refers to an error text that does not exist")
    if len(owner) and not 0 <= owner.min() <= owner.max() < n:
        raise ValueError("a chunk refers to a request that does not exist")
    small = owner.astype(np.uint16) if n <= 65536 else owner  # numpy sorts these by radix
    order = np.argsort(small, kind="stable")
    texts = ("", *map(str, errors))
    return Requests(
        **columns,
        error=tuple(texts[i] for i in number.tolist()),
        chunk_ns=np.cumsum(chunks["gap_ns"])[order],
        chunk_tokens=chunks["tokens"].astype(np.int64)[order],
        chunk_offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))]),
        asked_prompt_tokens=stated(asked),
        verify_steps=stated(verified),
        plays=_plays(rows["sessions"], n),
    )


def _plays(rows: Array, n_requests: int) -> Plays | None:
    """The requests of agent sessions; None if there are none. Raises ValueError if they do not fit the requests."""
    if not len(rows):
        return None
    made = Plays(**{name: rows[name].astype(np.int64) for name in rows.dtype.names or ()})
    if made.is_measured.sum() != n_requests or not made.is_measured[:n_requests].all():
        raise ValueError("the rows of its sessions do not fit its requests")
    return made


def _telemetry(rows: Array, tracks: list[list[str]]) -> Telemetry:
    made = Telemetry(
        tuple(Track(*map(str, track)) for track in tracks),
        rows["track"].astype(np.int64),
        rows["at_ns"].astype(np.int64),
        rows["value"].astype(np.float64),
    )
    if len(rows) and not 0 <= made.track.min() <= made.track.max() < len(tracks):
        raise ValueError("a reading refers to a track that does not exist")
    if not np.isfinite(made.value).all() or (np.diff(made.track) < 0).any() or _runs_backwards(made):
        raise ValueError("its readings are not finite, or not in order")
    return made


def _runs_backwards(t: Telemetry) -> bool:
    """Whether the times of a track decrease."""
    return bool(((np.diff(t.at_ns) < 0) & (np.diff(t.track) == 0)).any())


def make_tables(file: h5py.Group, rows: Mapping[str, Array] | None = None) -> None:
    """Creates the tables, with the rows of a point or empty."""
    for table in TABLES.values():
        data = rows[table.name] if rows is not None else np.empty(0, table.dtype)
        dataset = file.create_dataset(table.name, data=data, dtype=table.dtype, maxshape=(None,), chunks=(table.chunk_rows,), **FILTERS)
        dataset.attrs.update(unit=[c.unit for c in table.columns], axes=table.axis)


def tables(file: h5py.Group) -> Iterator[tuple[RawTable, h5py.h5d.DatasetID]]:
    """The dataset of every table of the file, in the order of the format. Raises ValueError if one is missing or of another form."""
    if "telemetry" not in file and "chunks" in file:
        raise ValueError(EARLY)
    for table in TABLES.values():
        if table.is_optional and table.name not in file:
            continue
        _refuse_link(file.id, table.name)
        dataset = h5py.h5o.open(file.id, table.name.encode())
        if not isinstance(dataset, h5py.h5d.DatasetID) or not _is_stored_so(dataset, table):
            raise ValueError(f"{table.name} is not stored as this format requires")
        yield table, dataset


def _is_stored_so(dataset: h5py.h5d.DatasetID, table: RawTable) -> bool:
    """Whether the dataset is stored in chunks in this file, with the filters of this format."""
    how = dataset.get_create_plist()
    if how.get_layout() != h5py.h5d.CHUNKED or dataset.rank != 1 or how.get_chunk() != (table.chunk_rows,):
        return False
    filters = tuple(how.get_filter(i)[0] for i in range(how.get_nfilters()))
    return filters == PIPELINE and bool(dataset.get_type() == table.stored_type)


def read_rows(file: h5py.Group, spans: Spans) -> dict[str, Array]:
    """The decoded rows of one point. Raises ValueError for rows that are not in the file."""
    rows: dict[str, Array] = {name: np.empty(0, table.dtype) for name, table in TABLES.items()}
    for table, dataset in tables(file):
        first, n = spans[table.name]
        if not 0 <= first <= first + n <= dataset.shape[0]:
            raise ValueError(f"{table.name} has {dataset.shape[0]:,} rows, but the point has rows {first:,} to {first + n:,}")
        if n * table.dtype.itemsize > MAX_DEFLATE * max(1, dataset.get_storage_size()):
            raise ValueError(f"{table.name} declares {n:,} rows, more than its stored bytes can hold")
        rows[table.name] = h5py.Dataset(dataset)[first : first + n]
    return rows


def whole_spans(file: h5py.Group) -> dict[str, tuple[int, int]]:
    """The spans of a point file: all rows of each table."""
    return dict.fromkeys(TABLES, (0, 0)) | {table.name: (0, dataset.shape[0]) for table, dataset in tables(file)}


@functools.cache
def place_shift() -> int:
    """Bytes to add to the chunk positions that this HDF5 reports. Measured once, on a small file in memory.

    HDF5 1.14.2 counts from the end of the user block; all other versions count from the beginning of the file.
    Raises EnvironmentLacks if the positions are wrong in another way.
    """
    content = np.arange(3 * 64, dtype="<i8")
    with h5py.File("places", "w", driver="core", backing_store=False, userblock_size=BLOCK, libver=LIBVER) as file:
        dataset = file.create_dataset("rows", data=content, maxshape=(None,), chunks=(64,), **FILTERS).id
        file.flush()
        body = file.id.get_file_image()  # without the user block
        told: list[tuple[int, int]] = []
        dataset.chunk_iter(lambda chunk: told.append((chunk.byte_offset, chunk.size)))
        stored = [dataset.read_direct_chunk((i * 64,))[1] for i in range(3)]
    for shift in (0, BLOCK):
        found = [body[at + shift - BLOCK : at + shift - BLOCK + size] for at, size in told]
        if found == stored:
            return shift
    raise EnvironmentLacks(
        f"HDF5 {h5py.version.hdf5_version} reports wrong chunk positions, so files cannot be merged.",
        next_step="install h5py from PyPI: pip install --force-reinstall --only-binary h5py h5py",
    )


def chunk_places(dataset: h5py.h5d.DatasetID) -> list[tuple[int, int, int, int]]:
    """For each chunk of a one-dimensional dataset: its first row, the mask of skipped filters, its offset and its size in bytes."""
    found: list[tuple[int, int, int, int]] = []
    shift = place_shift()
    dataset.chunk_iter(lambda chunk: found.append((*chunk.chunk_offset, chunk.filter_mask, chunk.byte_offset + shift, chunk.size)))
    return found


def stored_places(file: h5py.File) -> dict[str, Any]:
    """For each table of a point file in progress: its rows, the XXH3 of its stored bytes, and the positions of its chunks.

    The digest covers the chunks in order. `chunks` alternates offset and size, in bytes of the file.
    """
    found: dict[str, Any] = {}
    for table, dataset in tables(file):
        places = [number for _, _, at, size in chunk_places(dataset) for number in (at, size)]
        digest = xxhash.xxh3_128()
        for i in range(table.n_chunks(dataset.shape[0])):
            digest.update(dataset.read_direct_chunk((i * table.chunk_rows,))[1])
        found[table.name] = {"rows": dataset.shape[0], "chunks": places, "xxh3_128": digest.hexdigest()}
    return found


def child(group: h5py.Group, name: str) -> Any:
    """A member of the group that is stored in this file. Raises ValueError for a link, and for data in another file."""
    _refuse_link(group.id, name)
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise ValueError(f"{name} keeps its data in another file")
    return member


def _refuse_link(group: h5py.h5g.GroupID, name: str) -> None:
    """Raises ValueError if the name is missing or is a link."""
    try:
        kind = group.links.get_info(name.encode()).type
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is missing") from error
    if kind != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to another place")
