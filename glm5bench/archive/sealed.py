"""HDF5 files with a seal: a SHA-256 at the front, so that damage is found before libhdf5 reads the file.

The seal is one line of text in HDF5's user block (the first 512 bytes, which every HDF5 reader skips). In a point file it is the digest
of all bytes after the block. An archive can be very large, so its seal is the digest of its structure only: a table of ranges at the end
of the file, and the bytes of those ranges. The ranges cover everything except the raw data.

The structure contains a digest of the raw data for each point and table. Opening an archive therefore reads only what is needed, and one
bad sector damages one point.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..errors import FileError
from ..files import write_whole
from .sink import PIECE, Sink

BLOCK = 512
MAGIC = b"glm5bench sha256 "
STRUCTURE = b"glm5bench sha256-structure "
DAMAGED = "The file is damaged, or another program opened it for writing: its bytes are not those that were written."
NO_TRAILER = "The archive has lost its trailer: another program opened it for writing (h5py with mode r+ or a, HDFView, MATLAB)."
READ_ONLY = "use a copy that was not changed, or merge the points again; open these files with mode r"
LIBVER = ("earliest", "v110")  # can be read by HDF5 1.10


def write_sealed(
    path: Path,
    fill: Callable[[h5py.File], h5py.Dataset | None],
    check: Callable[[bytes], None] = lambda body: None,
    *,
    is_new: bool = False,
) -> str:
    """Writes the file that `fill` makes, completely or not at all. Returns its digest, 64 hex digits. The file is made in memory first.

    `check` gets the bytes after the user block before they are written, and raises to reject them.

    If `fill` returns a dataset, its position is stored in the seal, so that `quickly` finds it without HDF5.
    Raises EnvironmentLacks if the file cannot be written; with `is_new`, Taken if the file already exists.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False, userblock_size=BLOCK, libver=LIBVER) as file:
        first = fill(file)
        file.flush()
        body = file.id.get_file_image()  # without the user block
        place = f" {first.id.get_offset()} {first.size} {xxhash.xxh3_128_hexdigest(body)}" if first is not None else ""
    check(body)
    digest = hashlib.sha256(body).hexdigest()
    write_whole(path, lambda beside: _written(beside, _block(MAGIC + (digest + place).encode()), body), is_new=is_new)
    return digest


def _block(line: bytes) -> bytes:
    return (line + b"\n").ljust(BLOCK, b"\0")


def _written(path: Path, block: bytes, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(block)
        file.write(body)


def write_seal(sink: Sink, raw: NDArray[np.int64]) -> None:
    """Seals a finished archive. `raw`: begin and end of each range of raw data, (n, 2), in any order."""
    end = sink.seek(0, os.SEEK_END)
    ranges = np.ascontiguousarray(_complement(raw, end), dtype="<i8").tobytes()
    sink.write(ranges)
    digest = _structure_digest(sink.fileno(), ranges)
    sink.seek(0)
    sink.write(_block(STRUCTURE + f"{digest} {end} {len(ranges) // 16}".encode()))
    sink.raise_error()


def _complement(raw: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """The ranges between the raw data, from the user block to the end, (n, 2)."""
    stretches = raw[np.argsort(raw[:, 0])] if len(raw) else raw.reshape(0, 2)
    between = np.stack([np.append(BLOCK, stretches[:, 1]), np.append(stretches[:, 0], end)], axis=1)
    return between[between[:, 1] > between[:, 0]]


def _structure_digest(descriptor: int, ranges: bytes) -> str:
    h = hashlib.sha256(ranges)
    for begin, end in np.frombuffer(ranges, "<i8").reshape(-1, 2).tolist():
        for at in range(begin, end, PIECE):
            h.update(os.pread(descriptor, min(PIECE, end - at), at))
    return h.hexdigest()


def _told_of_structure(descriptor: int) -> tuple[bytes, int, int]:
    """The digest, the end of the structure, and the number of ranges stored after it. Raises ValueError for an invalid seal."""
    line = os.pread(descriptor, BLOCK, 0).split(b"\n")[0]
    words = line[len(STRUCTURE) :].split(b" ")
    if not line.startswith(STRUCTURE) or len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        raise ValueError("its seal is not the seal of an archive")
    end, n = int(words[1]), int(words[2])
    if end < BLOCK or end + 16 * n != os.fstat(descriptor).st_size:
        raise ValueError("its seal states another file size")
    return words[0], end, n


def seal_of(path: Path) -> str | None:
    """The digest in the file's seal, not verified; None for a file without a seal."""
    try:
        with path.open("rb") as file:
            words = file.read(BLOCK).split(b"\n")[0].decode("ascii", "replace")
    except OSError:
        return None
    return words.split(" ")[2] if words.startswith((MAGIC.decode(), STRUCTURE.decode())) else None


def verify_seal(path: Path) -> None:
    """Raises FileError if the file does not match its seal. A file without a seal is accepted."""
    try:
        with path.open("rb") as file:
            is_whole = _is_whole(file)
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=str(path)) from error
    if not is_whole:
        raise FileError(NO_TRAILER if _has_lost_trailer(path) else DAMAGED, path=str(path), next_step=READ_ONLY)


def _has_lost_trailer(path: Path) -> bool:
    """Whether an archive ends where its HDF5 data end: HDF5 truncates a file there after opening it for writing."""
    with path.open("rb") as file:
        words = file.read(BLOCK).split(b"\n")[0].removeprefix(STRUCTURE).split(b" ")
        size = file.seek(0, os.SEEK_END)
    return (
        len(words) == 3
        and words[1].isdigit()
        and words[2].isdigit()
        and BLOCK <= int(words[1]) <= size < int(words[1]) + 16 * int(words[2])
    )


def _is_whole(file: io.BufferedReader) -> bool:
    line = file.read(BLOCK).split(b"\n")[0]
    if line.startswith(STRUCTURE):
        return _is_structure_whole(file)
    if not line.startswith(MAGIC):
        return True
    h = hashlib.sha256()
    while piece := file.read(PIECE):
        h.update(piece)
    return h.hexdigest().encode() == line[len(MAGIC) :].split(b" ")[0]


@dataclass(frozen=True)
class Place:
    """Position of the summary dataset in a point file, in bytes, and the XXH3 of all bytes after the user block.

    XXH3 finds damage as reliably as SHA-256, and takes almost no time compared with reading.
    """

    begin: int
    size: int
    xxh3_128: str


def place_in(block: bytes) -> Place | None:
    """The place that the seal states; None if it states none."""
    line = block.split(b"\n")[0]
    words = line.split(b" ")
    if not line.startswith(MAGIC) or len(words) != 6 or not (words[3].isdigit() and words[4].isdigit()):
        return None
    return Place(int(words[3]), int(words[4]), words[5].decode("ascii", "replace"))


def quickly(content: memoryview, path: Path) -> memoryview | None:
    """The bytes of the dataset whose place the seal states; None if it states none.

    Raises FileError if the file's bytes are not those that were written.
    """
    place = place_in(bytes(content[:BLOCK]))
    if place is None:
        return None
    if xxhash.xxh3_128_hexdigest(content[BLOCK:]) != place.xxh3_128 or place.begin + place.size > len(content):
        raise FileError(DAMAGED, path=str(path))
    return content[place.begin : place.begin + place.size]


def _is_structure_whole(file: io.BufferedReader) -> bool:
    """Whether the table of ranges ends the file, its ranges are in order and inside the file, and their bytes match the digest."""
    try:
        digest, end, n = _told_of_structure(file.fileno())
    except ValueError:
        return False
    ranges = os.pread(file.fileno(), 16 * n, end)
    edges = np.frombuffer(ranges, "<i8")
    is_possible = len(edges) == 2 * n and (edges[:-1] <= edges[1:]).all() and (edges >= BLOCK).all() and (edges <= end).all()
    return bool(is_possible) and _structure_digest(file.fileno(), ranges).encode() == digest
