"""Point files, format 1: one measurement in one HDF5 file, or in one group of an archive.

History of the format. 1: the first.

Root (or group) attributes: format, kind, key, source, content_digest. /point /provenance /server /log /stated are JSON or text as
byte datasets; /requests holds one column a dataset, /chunks every streamed chunk with an offsets array of length R + 1.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..analysis.metrics import Requests
from ..errors import FileError
from .measurement import COUNTS, SOURCES, TIMES, Measurement
from .sealed import verify_seal, write_sealed

FORMAT = 1
KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes a name in archives
JSON_PARTS = ("point", "provenance", "server", "stated")
LATER = ("asked_prompt_tokens",)  # columns that files from before them do not have
MAX_JSON_BYTES = 16 * 2**20
MAX_ELEMENTS = 2**31


def write_point(path: Path, measurement: Measurement) -> str:
    """Writes the file, whole or not at all, and returns its content digest. Raises Taken where one stands there."""
    digest = measurement.digest()
    write_sealed(path, lambda file: write_into(file, measurement, digest), is_new=True)
    return digest


def write_into(group: h5py.Group, m: Measurement, digest: str) -> None:
    """The measurement as attributes and datasets of a group."""
    group.attrs.update(format=FORMAT, kind="point", key=m.key, source=m.source, content_digest=digest)
    for name in JSON_PARTS:
        _write_bytes(group, name, json.dumps(getattr(m, name), sort_keys=True, allow_nan=False).encode(), "JSON")
    _write_bytes(group, "log", zlib.compress(m.log.encode("utf-8", "replace")), "UTF-8 text, zlib")
    if m.requests is not None:
        _write_requests(group, m.requests)


def _write_bytes(group: h5py.Group, name: str, data: bytes, unit: str) -> None:
    dataset = group.create_dataset(name, data=np.frombuffer(data, dtype=np.uint8))
    dataset.attrs.update(unit=unit, axes="byte")


def _write_requests(group: h5py.Group, r: Requests) -> None:
    requests, chunks = group.create_group("requests"), group.create_group("chunks")
    for name in (*TIMES, *COUNTS):
        unit = "ns since the run's start" if name in TIMES else "HTTP status" if name == "status" else "tokens"
        _write_array(requests, name, getattr(r, name), np.int64 if name in TIMES else np.int32, unit, "request")
    if r.asked_prompt_tokens is not None:
        _write_array(requests, "asked_prompt_tokens", r.asked_prompt_tokens, np.int32, "tokens, 0 where nobody knew", "request")
    errors = requests.create_dataset("error", data=list(r.error), dtype=h5py.string_dtype("utf-8"))
    errors.attrs.update(unit="text, empty for a whole answer", axes="request")
    _write_array(chunks, "arrival_ns", r.chunk_ns, np.int64, "ns since the run's start", "chunk")
    _write_array(chunks, "tokens", r.chunk_tokens, np.int32, "tokens, -1 where the server did not say", "chunk")
    _write_array(chunks, "offsets", r.chunk_offsets, np.int64, "index of each request's first chunk", "request + 1")


def _write_array(group: h5py.Group, name: str, values: np.ndarray, dtype: Any, unit: str, axes: str) -> None:
    packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True} if len(values) > 16 else {}
    dataset = group.create_dataset(name, data=values.astype(dtype), **packed)
    dataset.attrs.update(unit=unit, axes=axes)


def read_point(path: Path) -> tuple[Measurement, str]:
    """The measurement of a point file and its stored digest.

    Raises FileError when the file is unreadable, foreign, of a newer format, damaged, or not what its digest says.
    """
    with opened(path) as file:
        if kind_of(file, path) != "point":
            raise FileError("This is no point file.", path=str(path), next_step="`glm5bench check` says what it is")
        return read_from(file, str(path))


def opened(path: Path) -> h5py.File:
    """The file, read without locks (NFS has none to give). Raises FileError when it is no HDF5 file."""
    verify_seal(path)
    try:
        return h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise FileError("There is no such file.", path=str(path)) from error
    except OSError as error:
        raise FileError(f"This is no readable HDF5 file: {_short(error)}.", path=str(path)) from error


def kind_of(file: h5py.Group, path: Path | str) -> str:
    """`point` or `archive`. Raises FileError for foreign files and newer formats."""
    try:
        format_, kind = file.attrs.get("format"), file.attrs.get("kind")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise FileError(f"The attributes are damaged: {_short(error)}.", path=str(path)) from error
    if format_ is None or kind not in ("point", "archive"):
        raise FileError("This HDF5 file was not written by glm5bench.", path=str(path))
    if str(format_) != str(FORMAT):
        raise FileError(f"Its format is {format_}, and this program reads {FORMAT}.", path=str(path), next_step="update glm5bench")
    return str(kind)


def read_from(group: h5py.Group, where: str) -> tuple[Measurement, str]:
    """The measurement in a group and its digest, which is checked against the content."""
    try:
        m, digest = _read(group), str(group.attrs["content_digest"])
    except (LookupError, OSError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, zlib.error) as error:
        raise FileError(f"The point is damaged: {_short(error)}.", path=where) from error
    if not KEY.fullmatch(m.key):
        raise FileError(f"Its key {m.key!r} is no key.", path=where)
    if m.source not in SOURCES:
        raise FileError(f"Its source is {m.source!r}, which is none of {', '.join(SOURCES)}.", path=where)
    if m.requests is None and m.source != "published" and "imported" not in m.provenance:
        raise FileError(f"It says {m.source} and holds no times.", path=where)
    if m.digest() != digest:
        raise FileError("The content is not what its digest says: the file was changed or damaged.", path=where)
    return m, digest


def _read(group: h5py.Group) -> Measurement:
    parts = {name: json.loads(json_bytes(child(group, name))) for name in JSON_PARTS}
    log = zlib.decompressobj().decompress(json_bytes(child(group, "log")), 256 * 2**20).decode("utf-8")
    return Measurement(
        key=str(group.attrs["key"]),
        source=str(group.attrs["source"]),
        requests=_read_requests(child(group, "requests"), child(group, "chunks")) if "requests" in group else None,
        log=log,
        **parts,
    )


def json_bytes(dataset: h5py.Dataset) -> bytes:
    """The bytes of a text dataset. Raises ValueError for an absurd size."""
    if dataset.dtype != np.uint8 or dataset.size > MAX_JSON_BYTES:
        raise ValueError(f"{dataset.name} declares {dataset.size:,} elements of {dataset.dtype}, not a text of bytes")
    return bytes(_believed(dataset)[()].tobytes())


def child(group: h5py.Group, name: str) -> Any:
    """A member of the group that stands in this file. Raises ValueError for links elsewhere and for data outside the file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to somewhere else")
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise ValueError(f"{name} keeps its data in another file")
    return member


def _read_requests(requests: h5py.Group, chunks: h5py.Group) -> Requests:
    columns = {name: _array(child(requests, name)) for name in (*TIMES, *COUNTS, *(n for n in LATER if n in requests))}
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
    """The dataset, if its stored bytes can hold what it declares (gzip packs at most about 1,032 to 1)."""
    if dataset.size > MAX_ELEMENTS or dataset.nbytes > 1100 * max(1, dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} declares {dataset.size:,} elements, more than its stored bytes can hold")
    return dataset


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
