"""Archives: many measurements in one HDF5 file, written by copying stored bytes.

An archive contains:

- the raw tables of all points, one after another (`layout`);
- /points, with one dataset per column and one row per point (`summary`);
- /index, with the rows of each point in the raw tables;
- /tables, with source tables as JSON.

Everything except the raw data is written at the end, followed by the seal. An archive is complete or absent.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import math
import operator
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..errors import FileError, UsageError
from ..files import whole
from ..values.plain import canonical_json
from .columns import COLUMNS, Column, Kind
from .contents import SourceTable, measurement_name
from .layout import ABOUT, FILTERS, RAW, chunk_places, make_tables, tables
from .moving import Piece, joined
from .pointfile import FORMAT, opened, what_is, write_text
from .raw import TABLES, RawTable
from .sealed import BLOCK, LIBVER, write_seal
from .sink import Sink
from .stored import Pieces, Stored

PUBLISHED = Path(__file__).resolve().parent.parent / "published" / "published.h5"
GROWTH = 1.5
POINT_ROWS = 4096  # per chunk of /points and /index
DTYPE = {"count": np.dtype("<i8"), "figure": np.dtype("<f8")}
CODES = {"count": "q", "figure": "d"}
NAMES = {kind: tuple(c.name for c in COLUMNS if c.kind == kind) for kind in ("text", *CODES)}
OF = {kind: operator.itemgetter(*names) for kind, names in NAMES.items()}
NOTHING = xxhash.xxh3_128().digest()


def name_of(values: Mapping[str, Any]) -> str:
    """The name, in archives, of the point with this summary."""
    return measurement_name(values["key"], values["digest"])


def set_digest(points: Mapping[str, tuple[str, bool]], tables: Mapping[str, SourceTable]) -> str:
    """SHA-256 of a set of points (name -> digest, and whether the raw rows are present) and tables. Their order does not matter."""
    h = hashlib.sha256()
    for name in sorted(points):
        digest, is_whole = points[name]
        h.update(f"{name} {digest} {'whole' if is_whole else 'summary'}\n".encode())
    for name in sorted(tables):
        h.update(f"{name}\n".encode())
    return h.hexdigest()


class Writer:
    """An archive in progress. Points are added in any order. A point that is added again replaces the earlier copy."""

    def __init__(self, file: h5py.File, sink: Sink) -> None:
        self._file, self._sink = file, sink
        make_tables(file)
        self._datasets = {table.name: dataset for table, dataset in tables(file)}
        self._extent = {name: dataset.shape[0] for name, dataset in self._datasets.items()}  # rows allocated
        self._used = dict(self._extent)  # rows used, up to the end of a chunk
        self._place: dict[str, int] = {}  # name -> its row in the lists below
        self._names: list[str] = []
        self._texts: dict[str, str] = {}  # each distinct text once
        self._summary: dict[str, Any] = {"text": [], **{kind: array(code) for kind, code in CODES.items()}}  # point after point
        self._first = {name: array("q") for name in TABLES}
        self._rows = {name: array("q") for name in TABLES}
        self._xxh3: dict[str, list[bytes]] = {name: [] for name in TABLES}
        self._is_whole = array("b")
        self._before: dict[int, int] = {}  # row -> the row that it replaced
        self._dropped: set[int] = set()
        self.tables: dict[str, SourceTable] = {}

    @property
    def path(self) -> Path:
        """The temporary file of the archive, next to its final path."""
        return self._sink.path

    def __len__(self) -> int:
        return len(self._place)

    def row(self, values: Mapping[str, Any]) -> int:
        """The row of the point; -1 if it is not in the archive."""
        return self._place.get(name_of(values), -1)

    def is_better(self, values: Mapping[str, Any], *, is_whole: bool) -> bool:
        """Whether to add this copy of a point: the point is not stored yet, or stored without raw rows or with older definitions.

        If two copies differ only in their figures, they are not from one writer. The choice then does not depend on the order.
        """
        i = self.row(values)
        if i < 0:
            return True
        here = {name: v for kind, names in NAMES.items() for name, v in zip(names, self._summary[kind][i * len(names) :], strict=False)}
        return _rank(here, bool(self._is_whole[i])) < _rank(values, is_whole)

    def add(self, stored: Stored, i: int, values: Mapping[str, Any], *, is_whole: bool) -> tuple[int, tuple[Piece, ...]]:
        """Assigns the point a row, and positions to its stored bytes. Returns the row and the pieces that must be copied.

        `is_whole`: whether to include its raw rows. Raises OSError if the archive cannot be written.
        """
        begun = dict(self._used)
        placed: list[Piece] = []
        for table in TABLES.values():
            if is_whole or table.name not in RAW:
                placed += self._placed(stored.pieces(i, table.name), table)
        for table in TABLES.values():  # only after all pieces have positions
            rows = int(stored.rows[table.name][i]) if is_whole or table.name not in RAW else 0
            self._first[table.name].append(begun[table.name])
            self._rows[table.name].append(rows)
            self._xxh3[table.name].append(bytes.fromhex(stored.xxh3_128[table.name][i]) if rows else NOTHING)
        for kind in CODES:
            self._summary[kind].extend(OF[kind](values))
        self._summary["text"] += [self._texts.setdefault(text, text) for text in OF["text"](values)]
        row, name = len(self._is_whole), name_of(values)
        if name in self._place:
            self._before[row] = self._place[name]
        self._place[name] = row
        self._names.append(name)
        self._is_whole.append(is_whole)
        self._sink.raise_error()
        return row, joined(placed)

    def _placed(self, pieces: Pieces, table: RawTable) -> Iterator[Piece]:
        dataset, first = self._datasets[table.name], self._used[table.name]
        end = first + len(pieces) * table.chunk_rows
        if end > self._extent[table.name]:
            self._extent[table.name] = rows = max(end, math.ceil(self._extent[table.name] * GROWTH))
            dataset.set_extent((rows,))
        self._used[table.name] = end

        def write(i: int, promise: memoryview) -> None:
            dataset.write_direct_chunk((first + i * table.chunk_rows,), promise)

        sizes = [size for _, size in pieces]
        return zip([offset for offset, _ in pieces], self._sink.places_of(sizes, write), sizes, strict=True)

    def drop(self, row: int) -> None:
        """Removes a point whose bytes did not arrive, and restores the copy that it replaced."""
        self._dropped.add(row)
        name = self._names[row]
        here: int | None = self._place.pop(name)
        while here in self._dropped:
            here = self._before.get(here)
        if here is not None:
            self._place[name] = here

        for table, dataset in self._datasets.items():  # its rows must be decodable
            n, begin = TABLES[table].chunk_rows, self._first[table][row]
            for at in range(begin, begin + self._rows[table][row], n):
                h5py.Dataset(dataset)[at : at + n] = np.zeros(n, TABLES[table].dtype)

    def digest(self) -> str:
        """SHA-256 of the set."""
        digests = self._column("text", "digest")
        return set_digest({name: (digests[i], bool(self._is_whole[i])) for name, i in self._place.items()}, self.tables)

    def _column(self, kind: Kind, name: str) -> Any:
        """A column for all points: a list of texts, or an array."""
        names = NAMES[kind]
        if kind == "text":
            return self._summary[kind][names.index(name) :: len(names)]
        return np.frombuffer(self._summary[kind], DTYPE[kind])[names.index(name) :: len(names)]

    def finish(self) -> NDArray[np.int64]:
        """Writes everything except the raw data. Returns begin and end of each range of raw data, (n, 2), in bytes of the file."""
        for table, dataset in self._datasets.items():
            dataset.set_extent((self._used[table],))
        kept = np.array([self._place[name] for name in sorted(self._place)], dtype=np.int64)
        points, index = self._file.create_group("points"), self._file.create_group("index")
        for c in COLUMNS:
            values = self._column(c.kind, c.name)
            _write_column(points, c, (_encoded(values) if c.kind == "text" else values)[kept])
        _write(index, "is_whole", np.frombuffer(self._is_whole, np.int8)[kept], "1: with its raw rows, 0: they were left out")
        for name in TABLES:
            group = index.create_group(name)
            _write(group, "first", np.frombuffer(self._first[name], np.int64)[kept], "row of the table")
            _write(group, "rows", np.frombuffer(self._rows[name], np.int64)[kept], "rows")
            digests = np.frombuffer(b"".join(self._xxh3[name]), np.uint8).reshape(-1, 16)[kept]
            _write(group, "xxh3_128", digests, "XXH3 of the stored bytes", axes="point, byte")
        tables = self._file.create_group("tables")
        for name in sorted(self.tables):
            write_text(tables, name, canonical_json(self.tables[name]))
        self._file.attrs.update(format=FORMAT, kind="archive", content_digest=self.digest(), **ABOUT)
        for name in TABLES:
            self._file[name].attrs["rows_of_points"] = f"/index/{name}/first and /index/{name}/rows; rows between belong to no point"
        self._file.flush()
        return self._stretches()

    def _stretches(self) -> NDArray[np.int64]:
        found: list[tuple[int, int]] = []
        for dataset in self._datasets.values():
            found += [(at, at + size) for _, _, at, size in chunk_places(dataset)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)


def _rank(values: Mapping[str, Any], is_whole: bool) -> tuple[Any, ...]:
    return is_whole, values["definitions"], repr([values[c.name] for c in COLUMNS])


def _encoded(texts: list[str]) -> NDArray[Any]:
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def _write_column(group: h5py.Group, column: Column, values: NDArray[Any]) -> None:
    unit = column.unit or {"text": "UTF-8 text", "count": "number", "figure": "ratio"}[column.kind]
    _write(group, column.name, values, unit).attrs["description"] = column.what


def _write(group: h5py.Group, name: str, values: NDArray[Any], unit: str, *, axes: str = "point") -> h5py.Dataset:
    rows = (POINT_ROWS, *values.shape[1:])
    dataset = group.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=rows, **FILTERS)
    dataset.attrs.update(unit=unit, units=unit, axes=axes)
    return dataset


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A writer for the archive at `path`. The complete archive replaces `path` when the block ends. A failure leaves `path` unchanged.

    Raises EnvironmentLacks if the archive cannot be written or the disk is full.
    """
    with whole(path) as beside, contextlib.closing(Sink(beside)) as sink:
        try:
            with h5py.File(sink, "w", driver="fileobj", libver=LIBVER, userblock_size=BLOCK) as file:
                writer = Writer(file, sink)
                yield writer
                raw = writer.finish()
        except Exception:
            sink.raise_error()  # report the full disk, not the libhdf5 error that it caused
            raise
        write_seal(sink, raw)


def left_by_killed(path: Path) -> list[Path]:
    """Temporary files next to this archive, left by merges that were killed before they could clean up."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.part"))


def refuse_to_overwrite(path: Path) -> None:
    """Raises UsageError if the path exists and is not an undamaged archive of glm5bench."""
    if not path.exists():
        return
    with_what = "a directory" if path.is_dir() else "not a regular file" if not path.is_file() else ""
    if not with_what:
        try:
            with opened(path) as file:
                with_what = "" if what_is(file, path) == "archive" else "a point file"
        except FileError as error:
            with_what = f"not a readable archive ({error.message.rstrip('.')})"
    if with_what:
        raise UsageError(f"{path} is {with_what}, and is not overwritten.", next_step="give -o another name")
