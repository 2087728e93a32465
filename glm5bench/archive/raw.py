"""The raw tables of point files and archives: their columns, units, and the rows of a chunk. docs/archive-format.md"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from .measurement import COUNTS, TIMES

ASKED, VERIFIED = "asked_prompt_tokens", "verify_steps"
NS = "ns since the run's start"
OF_PLAYS = {
    "phase": "0: warm-up, 1: measured",
    "play": "number of the play in the run",
    "session": "position of the session in the file",
    "request": "id of the request in its session",
    "thread": "thread of the request in its session",
}
TIMES_OF_PLAYS = ("ready_ns", "due_ns", "sent_ns")
TOKENS_OF_PLAYS = ("prompt_tokens", "cached_tokens", "device_tokens", "host_tokens", "storage_tokens", "ideal_tokens")


@dataclass(frozen=True)
class RawColumn:
    """A column of a raw table."""

    name: str
    dtype: str
    unit: str


@dataclass(frozen=True)
class RawTable:
    """A raw table: its columns, the meaning of a row (`axis`), and the rows per HDF5 chunk."""

    name: str
    axis: str
    chunk_rows: int
    columns: tuple[RawColumn, ...]
    is_optional: bool = False  # files that were written before it existed do not have it

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of a row: its columns in order, or a plain number if there is one column."""
        return np.dtype([(c.name, c.dtype) for c in self.columns] if len(self.columns) > 1 else self.columns[0].dtype)

    @functools.cached_property
    def stored_type(self) -> h5py.h5t.TypeID:
        """The same type in HDF5."""
        return h5py.h5t.py_create(self.dtype)

    @functools.cached_property
    def most_bytes(self) -> int:
        """Largest size of a stored chunk: rows that gzip cannot compress, and a checksum."""
        n = self.dtype.itemsize * self.chunk_rows
        return n + n // 1000 + 1024

    def n_chunks(self, rows: int) -> int:
        """Number of chunks for this number of rows."""
        return -(-rows // self.chunk_rows)


TABLES: dict[str, RawTable] = {
    t.name: t
    for t in (
        RawTable("requests", "request", 1024, (
            *(RawColumn(name, "<i8", f"{NS}, -1: never") for name in TIMES),
            *(RawColumn(name, "<i4", "HTTP status" if name == "status" else "tokens") for name in COUNTS),
            RawColumn(ASKED, "<i4", "tokens, 0: nobody knew, -1: not kept"),
            RawColumn(VERIFIED, "<i4", "verify steps of speculative decoding, -1: the server did not say"),
            RawColumn("error", "<i4", "0: a whole answer, else the n-th text of the record's `errors`, from 1"),
        )),
        RawTable("chunks", "streamed chunk, in order of arrival", 65536, (
            RawColumn("gap_ns", "<i8", "ns since the chunk before; of the first: since the run's start"),
            RawColumn("request", "<i4", "index of the request in its point"),
            RawColumn("tokens", "<i4", "tokens, -1: the server did not say"),
        )),
        RawTable("sessions", "request of an agent session: the measured ones as in `requests`, then those of the warm-up", 1024, (
            *(RawColumn(name, "<i4", unit) for name, unit in OF_PLAYS.items()),
            *(RawColumn(name, "<i8", f"{NS}, negative in the warm-up") for name in TIMES_OF_PLAYS),
            *(RawColumn(name, "<i4", "tokens, -1: unknown") for name in TOKENS_OF_PLAYS),
        ), is_optional=True),
        RawTable("telemetry", "reading", 8192, (
            RawColumn("at_ns", "<i8", "ns since the run's start"),
            RawColumn("track", "<i4", "index of the record's `tracks`, which name device, quantity and unit"),
            RawColumn("value", "<f8", "the track's unit"),
        )),
        RawTable("records", "byte", 32768, (
            RawColumn("json", "|u1", "JSON: point, provenance, server, stated, errors (null: no times), tracks (null: no telemetry)"),
        )),
        RawTable("logs", "byte", 32768, (RawColumn("text", "|u1", "UTF-8 text: the server's log"),)),
    )
}  # fmt: skip
