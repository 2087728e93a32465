"""HDF5 files with a seal: their own SHA-256 in front, so that damage is found before libhdf5 reads a byte of it.

The seal stands in HDF5's user block (the first 512 bytes, which every HDF5 reader skips): one line of text with the digest of all
bytes after the block. A file is made in memory and written as plain bytes: a full disk is then an error, where libhdf5 would fall.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py

from ..errors import FileError
from .files import write_whole

BLOCK = 512
MAGIC = b"glm5bench sha256 "
PIECE = 1 << 20


def write_sealed(path: Path, fill: Callable[[h5py.File], None], *, is_new: bool = False) -> str:
    """Writes the file that `fill` makes, whole or not at all. Its digest, 64 hex digits.

    Raises EnvironmentLacks when it cannot be written, Taken under `is_new` where a file stands there.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False, userblock_size=BLOCK, libver=("earliest", "v110")) as file:
        fill(file)
        file.flush()
        body = file.id.get_file_image()  # without the user block
    digest = hashlib.sha256(body).hexdigest()
    block = (MAGIC + digest.encode() + b"\n").ljust(BLOCK, b"\0")
    write_whole(path, lambda beside: _written(beside, block, body), is_new=is_new)
    return digest


def _written(path: Path, block: bytes, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(block)
        file.write(body)


def seal_of(path: Path) -> str | None:
    """The digest that the file carries, not verified; None for a file without a seal."""
    try:
        with path.open("rb") as file:
            block = file.read(BLOCK)
    except OSError:
        return None
    return block[len(MAGIC) :].split(b"\n")[0].decode("ascii", "replace") if block.startswith(MAGIC) else None


def verify_seal(path: Path) -> None:
    """Raises FileError when the file is not what its seal says. A file without one is left to its reader."""
    seal = seal_of(path)
    if seal is None:
        return
    h = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(BLOCK)
            while piece := file.read(PIECE):
                h.update(piece)
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror}.", path=str(path)) from error
    if h.hexdigest() != seal:
        raise FileError("The file is damaged: its bytes are not those that were written.", path=str(path))
