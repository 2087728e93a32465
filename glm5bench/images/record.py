"""The record of an image's file: a small JSON file next to it, with the registry's digest and the file's own hash.

Two SIF files made from one OCI image differ in bytes, and neither contains the digest that it was made from. The record does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..errors import BenchError, FileError
from ..files import read_json, sha256, write_json
from ..values.plain import from_plain
from .reference import Reference

RECORD_FORMAT: Literal[1] = 1
SIF_MAGIC = b"SIF_MAGIC"  # at byte 32 of the file. Source: the SIF specification


@dataclass(frozen=True)
class Record:
    """One image's file. `oci_digest` is empty if it is unknown: for a SIF file that was copied here without its record."""

    reference: str
    oci_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    sif_sha256: str
    size_bytes: int
    made_utc: str
    made_from: str
    apptainer: str = ""
    format: Literal[1] = RECORD_FORMAT


def record_path(sif: Path) -> Path:
    """The path of the record of an image's file."""
    return sif.with_name(sif.name + ".json")


def write_record(sif: Path, record: Record) -> None:
    """Writes the record, complete or not at all."""
    write_json(record_path(sif), asdict(record))


def read_record(sif: Path) -> Record | None:
    """The record of an image's file; None if it has none. Raises FileError if the record is damaged."""
    path = record_path(sif)
    if not path.is_file():
        return None
    try:
        return from_plain(Record, read_json(path))
    except ValueError as error:
        said = " ".join(str(error).split())[:200]
        raise FileError(f"The record of {sif.name} is not valid: {said}.", path=str(path), next_step="make the image again") from error


def lacking(directory: Path, ref: Reference, pins: Mapping[str, str]) -> str:
    """Why no server may be started from this image's file, as part of a sentence; empty if the quick checks pass.

    Checks that the file exists, that its size matches its record, and that the record matches the pins: the digest in `ref`, and the
    file's own SHA-256 in `pins` (by file name). `unlike_pin` and `images verify` also hash the file.
    """
    sif = directory / ref.sif
    if not sif.is_file():
        return f"the image {sif} does not exist"
    if pins and ref.sif not in pins:
        return f"cluster.sif_sha256 pins images, but not {ref.sif}"
    try:
        record = read_record(sif)
    except FileError as error:
        return f"{error.message.rstrip('.')} ({error.path})"
    if ref.digest and record is None:
        return f"{sif} has no record ({record_path(sif).name}), but {ref.unpinned} is pinned to {ref.digest[:19]}"
    if record is None:
        return ""
    if record.reference != ref.unpinned:
        return f"{sif} is {record.reference} according to its record, not {ref.unpinned}"
    if ref.digest and record.oci_digest != ref.digest:
        return f"{sif} was made from {record.oci_digest[:19] or 'an unknown digest'}, but {ref.unpinned} is pinned to {ref.digest[:19]}"
    pin = pins.get(ref.sif, record.sif_sha256)
    if record.sif_sha256 != pin:
        return f"{sif} has the hash {record.sif_sha256[:12]} according to its record, but cluster.sif_sha256 has {pin[:12]}"
    size = sif.stat().st_size
    return f"{sif} has {size:,} bytes, but its record has {record.size_bytes:,}" if size != record.size_bytes else ""


def unlike_pin(sif: Path, pin: str, known: Path) -> str:
    """Why the file's content is not the pinned one, after hashing it; empty if it is.

    `known`: a private file of earlier hashes. A file whose size, times and inode have not changed since is not read again.
    """
    hashes: dict[str, list[object]] = {}
    with contextlib.suppress(BenchError, ValueError):  # absent or damaged: everything is hashed again
        hashes = dict(read_json(known))
    at = sif.stat()
    identity = [at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]
    kept = hashes.get(str(sif))
    if not isinstance(kept, list) or kept[1:] != identity:
        hashes[str(sif)] = [sha256(sif), *identity]
        with contextlib.suppress(BenchError):  # a disk that is full costs the next start another hash
            write_json(known, hashes)
    found = str(hashes[str(sif)][0])
    return "" if found == pin else f"{sif} has the hash {found[:12]}, but cluster.sif_sha256 has {pin[:12]}"


def is_sif(path: Path) -> bool:
    """Whether the file begins like a SIF file."""
    try:
        with path.open("rb") as file:
            return file.read(64)[32 : 32 + len(SIF_MAGIC)] == SIF_MAGIC
    except OSError:
        return False
