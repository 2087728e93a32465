"""Point files: one measurement in one HDF5 file. Also the root attributes of every glm5bench file.

History of the format. 1: one group per point, chunks by request. 2: ragged tables (`layout`), chunks in order of arrival, and a stored
summary. Archives can therefore be made by copying stored bytes, and tables do not need the raw times.

Root attributes: format, kind, key, source, content_digest. /requests, /chunks, /records and /logs are the tables, each with the
SHA-256 of its stored bytes; /summary is one JSON object with the columns of `summary`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import xxhash

from ..errors import EnvironmentLacks, FileError
from .columns import ABSENT, COLUMNS, MAX_TEXT, Kind
from .layout import ABOUT, MAX_DEFLATE, child, decoded, encoded, make_tables, read_rows, stored_places, whole_spans
from .measurement import SOURCES, Measurement
from .sealed import BLOCK, verify_seal, write_sealed
from .summary import summary

FORMAT = 2
KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")  # used as a name in archives
DIGEST = re.compile(r"[0-9a-f]{64}")
KINDS = ("point", "archive")
DAMAGED = (
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    zlib.error,
)  # what h5py, json and zlib raise on hostile files
MAX_TEXT_BYTES = 16 * 2**20
KIND_TYPES: dict[Kind, tuple[type, ...]] = {"text": (str,), "count": (int,), "figure": (float, int)}
# column, its kind, its value for null, and the type that needs no further check (bytes: none, because JSON has no bytes)
SOUND = tuple((c.name, c.kind, ABSENT[c.kind], float if c.kind == "figure" else bytes) for c in COLUMNS)
Value = TypeVar("Value")


def write_point(path: Path, measurement: Measurement) -> str:
    """Writes the file, completely or not at all, and returns its content digest. Raises Taken if the file already exists."""
    digest = measurement.digest()
    written: dict[str, Any] = {}

    def fill(file: h5py.File) -> h5py.Dataset:
        dataset, stored = write_into(file, measurement, digest)
        written.update(stored)
        return dataset

    write_sealed(path, fill, lambda body: _refuse_wrong_places(body, written), is_new=True)
    return digest


def _refuse_wrong_places(body: bytes, stored: Mapping[str, Any]) -> None:
    """Raises EnvironmentLacks if the bytes at the positions that the file states do not match their digests.

    `body`: the file without its user block.
    """
    for name, told in stored.items():
        flat, view, h = told["chunks"], memoryview(body), xxhash.xxh3_128()
        for at, size in zip(flat[::2], flat[1::2], strict=True):
            h.update(view[at - BLOCK : at - BLOCK + size])
        if h.hexdigest() != told["xxh3_128"]:
            raise EnvironmentLacks(
                f"HDF5 {h5py.version.hdf5_version} reports wrong positions for {name}: the point was not written.",
                next_step="install h5py from PyPI: pip install --force-reinstall --only-binary h5py h5py",
            )


def write_into(file: h5py.File, m: Measurement, digest: str) -> tuple[h5py.Dataset, dict[str, Any]]:
    """Fills an empty file with the measurement. Returns the summary dataset, and the positions of the stored bytes."""
    file.attrs.update(format=FORMAT, kind="point", key=m.key, source=m.source, content_digest=digest, **ABOUT)
    make_tables(file, encoded(m))
    file.flush()
    stored = stored_places(file)
    text = json.dumps({"columns": _told(m, digest), "stored": stored}, sort_keys=True, allow_nan=False)
    return write_text(file, "summary", text), stored


def write_text(group: h5py.Group, name: str, text: str) -> h5py.Dataset:
    """A JSON text as a dataset of bytes."""
    dataset = group.create_dataset(name, data=np.frombuffer(text.encode(), dtype=np.uint8))
    dataset.attrs.update(unit="JSON", axes="byte")
    return dataset


def _told(m: Measurement, digest: str) -> dict[str, Any]:
    """The summary, with absent figures as null. If the times contradict each other: only the reason. The times are stored anyway."""
    try:
        values = summary(m, digest)
    except FileError as error:
        return {"unusable": error.message}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def columns_of(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a point file's /summary: every current column, and the positions of the stored bytes.

    Raises ValueError if the text is not a valid summary, or if the point cannot have one.
    """
    whole = json.loads(text)
    told, stored = whole["columns"], whole["stored"]
    if "unusable" in told:
        raise ValueError(told["unusable"])
    get = told.get
    return {
        name: v if type(v := get(name)) is sound else absent if v is None else _as_kind(kind, v) for name, kind, absent, sound in SOUND
    }, stored


def read_summary(file: h5py.Group) -> dict[str, Any]:
    """The summary of an open point file. Raises ValueError as `columns_of` does."""
    return columns_of(text_of(child(file, "summary")))[0]


def _as_kind(kind: Kind, value: Any) -> Any:
    """The value as a column of this kind stores it. Raises ValueError if the value is of another kind."""
    if kind == "text" and type(value) is str and len(value) <= MAX_TEXT // 4:
        return value
    if type(value) not in KIND_TYPES[kind]:
        raise ValueError(f"its summary has {value!r} in a {kind} column")
    if kind == "count" and abs(value) >= 2**63:
        raise ValueError("its summary has a count of more than 64 bits")
    if kind == "text" and len(value.encode("utf-8", "replace")) > MAX_TEXT:
        raise ValueError(f"its summary has a text of {len(value):,} characters")
    return float(value) if kind == "figure" else value


def text_of(dataset: h5py.Dataset) -> bytes:
    """The bytes of a text dataset. Raises ValueError for an impossible size."""
    if dataset.dtype != np.uint8 or dataset.ndim != 1 or dataset.size > MAX_TEXT_BYTES:
        raise ValueError(f"{dataset.name} declares {dataset.size:,} elements of {dataset.dtype}, not a text of bytes")
    if dataset.nbytes > MAX_DEFLATE * max(1, dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} declares {dataset.size:,} bytes, more than its stored bytes can hold")
    return bytes(dataset[()].tobytes())


def read_point(path: Path) -> tuple[Measurement, str]:
    """The measurement of a point file, and its verified digest.

    Only for files from this machine; untrusted files are read in a separate process (`reading`). Raises FileError if the file is
    unreadable, foreign, of another format or damaged, or does not match its digest.
    """
    with opened(path) as file:
        if what_is(file, path) != "point":
            raise FileError("This is not a point file.", path=str(path), next_step="run `glm5bench check` to see what it is")
        return measurement_of(file, str(path))


def measurement_of(file: h5py.File, where: str) -> tuple[Measurement, str]:
    """The measurement of an open point file, and its digest. Raises FileError for damage."""

    def read() -> Measurement:
        return decoded(read_rows(file, whole_spans(file)), key=str(file.attrs["key"]), source=str(file.attrs["source"]))

    return checked(read, lambda: str(file.attrs["content_digest"]), where)


def checked(read: Callable[[], Measurement], digest: Callable[[], str], where: str) -> tuple[Measurement, str]:
    """The measurement from `read`, and its verified digest. Raises FileError for damaged or impossible content."""
    m, said = undamaged(lambda: (read(), digest()), "The point is damaged", where)
    refuse_impossible(m.key, m.source, said, where)
    if m.requests is None and m.source != "published" and not m.provenance.get("imported"):
        raise FileError(f"The point is marked {m.source} but contains no times.", path=where)
    digests = [m.digest, *([lambda: m.digest(is_of_file=True)] if m.provenance.get("imported") else [])]
    if said not in [undamaged(each, "The point is damaged", where) for each in digests]:
        raise FileError("The content does not match its digest: the file was changed or damaged.", path=where)
    return m, said


def refuse_impossible(key: str, source: str, digest: str, where: str) -> None:
    """Raises FileError for an invalid key, source or digest: they are used as names."""
    if not KEY.fullmatch(key):
        raise FileError(f"Its key {key[:80]!r} is not valid.", path=where)
    if source not in SOURCES:
        raise FileError(f"Its source {source[:80]!r} is unknown. Known are {', '.join(SOURCES)}.", path=where)
    if not DIGEST.fullmatch(digest):
        raise FileError(f"Its digest {digest[:80]!r} is not valid.", path=where)


def undamaged(read: Callable[[], Value], what: str, where: str) -> Value:
    """The result of `read`. An error from damaged data becomes a FileError that begins with `what`."""
    try:
        return read()
    except DAMAGED as error:
        raise FileError(f"{what}: {short(error)}.", path=where) from error


def opened(path: Path, *, is_verified: bool = True) -> h5py.File:
    """The file, opened without locks (NFS may not support them). Raises FileError if it is not HDF5 or does not match its seal."""
    if is_verified:
        verify_seal(path)
    try:
        return h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise FileError("There is no such file.", path=str(path)) from error
    except DAMAGED as error:
        raise FileError(f"This is not a readable HDF5 file: {short(error)}.", path=str(path)) from error


def what_is(file: h5py.Group, path: Path | str) -> str:
    """`point` or `archive`. Raises FileError for foreign files and other formats."""
    format_, kind = undamaged(lambda: (file.attrs.get("format"), file.attrs.get("kind")), "The attributes are damaged", str(path))
    if format_ is None or str(kind) not in KINDS:
        raise FileError("This HDF5 file was not written by glm5bench.", path=str(path))
    number = undamaged(lambda: int(format_), "Its format is not a number", str(path))
    if number != FORMAT:
        step = "update glm5bench" if number > FORMAT else "measure it again: no released version of glm5bench wrote this format"
        raise FileError(f"Its format is {number}, and this version of glm5bench reads format {FORMAT}.", path=str(path), next_step=step)
    return str(kind)


def short(error: BaseException) -> str:
    """The first words of an error, on one line."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
