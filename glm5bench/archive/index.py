"""The summary and the index of an archive. Before a dataset is read, its declared size is compared with its stored bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .columns import ABSENT, COLUMNS, MAX_TEXT, Kind, Summaries, listed
from .layout import MAX_DEFLATE, Spans, child
from .raw import TABLES

Numbers = NDArray[np.int64]


def read_columns(file: h5py.File) -> Summaries:
    """The summaries of an archive, with every current column. Raises ValueError if they are not a valid table of points."""
    group = child(file, "points")
    n = len(child(group, "key"))
    return {c.name: _column(group, c.name, c.kind, n) for c in COLUMNS}


def _column(group: h5py.Group, name: str, kind: Kind, n: int) -> Any:
    if name not in group:  # the column was added after the archive was written
        return [ABSENT[kind]] * n
    values = array(child(group, name), n)
    stored = values.dtype.kind if kind == "text" else values.dtype.str
    if values.ndim != 1 or stored != {"text": "S", "count": "<i8", "figure": "<f8"}[kind]:
        raise ValueError(f"{name} is not a column of {kind}s")
    if kind == "text" and values.dtype.itemsize > MAX_TEXT:
        raise ValueError(f"{name} is a column of texts of {values.dtype.itemsize:,} bytes")
    listed(values)  # texts are UTF-8
    return values


def array(dataset: h5py.Dataset, n: int) -> NDArray[Any]:
    """Values of `n` points. Raises ValueError if the dataset declares more than its stored bytes can hold."""
    if dataset.shape[:1] != (n,) or dataset.ndim > 2 or dataset.nbytes > MAX_DEFLATE * max(1, dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} declares the shape {dataset.shape}, which does not fit {n:,} points and its stored bytes")
    return np.asarray(dataset[()])


def numbers(dataset: h5py.Dataset, n: int) -> Numbers:
    """The same as int64, (n,)."""
    return array(dataset, n).astype(np.int64)


def wholeness(file: h5py.File, n: int) -> list[bool]:
    """For each point, whether its raw rows are present."""
    return [flag != 0 for flag in numbers(child(child(file, "index"), "is_whole"), n).tolist()]


def spans_of(file: h5py.File) -> Iterator[Spans]:
    """The rows of each point of an archive, in its order."""
    index = child(file, "index")
    n = len(child(index, "is_whole"))
    named = [name for name, table in TABLES.items() if not table.is_optional or name in index]
    edges = {name: [numbers(child(child(index, name), what), n).tolist() for what in ("first", "rows")] for name in named}
    absent = {name: (0, 0) for name in TABLES if name not in edges}
    for i in range(n):
        yield {name: (first[i], rows[i]) for name, (first, rows) in edges.items()} | absent
