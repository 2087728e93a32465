"""Format 1 of point files and archives, which is read and not written any more.

A group a point: attributes `key`, `source`, `content_digest`; /point /provenance /server /stated /log as texts of bytes, /requests
one dataset a column, /chunks by request with offsets. An archive had such groups below /points. Only the times are decoded here:
a merge writes them in the format of today, under the same digest, which is over the values.
"""

from __future__ import annotations

import json
import zlib

import h5py
import numpy as np

from ..analysis.metrics import Requests
from .layout import ASKED, MAX_DEFLATE, PARTS, child
from .measurement import COUNTS, TIMES, Measurement

MAX_JSON_BYTES = 16 * 2**20
MAX_LOG_BYTES = 256 * 2**20
MAX_ELEMENTS = 2**31


def read(group: h5py.Group) -> Measurement:
    """The measurement of a group. Raises what h5py, json and zlib raise for damage, ValueError for contradictions."""
    parts = {name: json.loads(json_bytes(child(group, name))) for name in PARTS}
    log = zlib.decompressobj().decompress(json_bytes(child(group, "log")), MAX_LOG_BYTES).decode("utf-8")
    requests = _read_requests(child(group, "requests"), child(group, "chunks")) if "requests" in group else None
    return Measurement(key=str(group.attrs["key"]), source=str(group.attrs["source"]), requests=requests, log=log, **parts)


def json_bytes(dataset: h5py.Dataset) -> bytes:
    """The bytes of a text dataset. Raises ValueError for an absurd size."""
    if dataset.dtype != np.uint8 or dataset.size > MAX_JSON_BYTES:
        raise ValueError(f"{dataset.name} declares {dataset.size:,} elements of {dataset.dtype}, not a text of bytes")
    return bytes(_believed(dataset)[()].tobytes())


def _read_requests(requests: h5py.Group, chunks: h5py.Group) -> Requests:
    names = (*TIMES, *COUNTS, *([ASKED] if ASKED in requests else []))
    columns = {name: _array(child(requests, name)) for name in names}
    errors = tuple(e.decode("utf-8") if isinstance(e, bytes) else str(e) for e in _believed(child(requests, "error"))[()])
    n = {len(errors), *(len(v) for v in columns.values())}
    chunk_ns, tokens, offsets = (_array(child(chunks, name)) for name in ("arrival_ns", "tokens", "offsets"))
    if len(n) != 1 or len(offsets) != len(errors) + 1 or len(chunk_ns) != len(tokens) or offsets[-1] != len(chunk_ns):
        raise ValueError("its columns do not have the same length")
    if (np.diff(offsets) < 0).any():
        raise ValueError("its chunk offsets fall")
    return Requests(**columns, error=errors, chunk_ns=chunk_ns, chunk_tokens=tokens, chunk_offsets=offsets)


def _array(dataset: h5py.Dataset) -> np.ndarray:
    """One column as int64."""
    return np.asarray(_believed(dataset)[()]).astype(np.int64)


def _believed(dataset: h5py.Dataset) -> h5py.Dataset:
    """The dataset, if its stored bytes can hold what it declares."""
    if dataset.size > MAX_ELEMENTS or dataset.nbytes > MAX_DEFLATE * max(1, dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} declares {dataset.size:,} elements, more than its stored bytes can hold")
    return dataset
