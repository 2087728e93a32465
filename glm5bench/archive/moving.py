"""Copies stored bytes from a file into an archive. They are read once, checked against their digests, and written where libhdf5 wants them.

Runs in reader processes (`reading`), while another process asks libhdf5 for positions. This module does not use HDF5. Bytes that do not
match their digests are not written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from ..files import writable
from .contents import Identity, identity_of
from .sealed import BLOCK
from .sink import begin_to_sync, put
from .stored import Bytes, Check, verified

ROOM_BYTES = 4 * 2**20
Piece = tuple[int, int, int]  # offset in the source, offset in the archive, bytes


@dataclass(frozen=True)
class Destination:
    """The archive in progress: its temporary file, and its final name."""

    file: Path
    name: Path


@dataclass(frozen=True)
class Move:
    """Bytes of a file to check against digests, and the pieces of them to copy into the archive."""

    path: Path
    identity: Identity
    where: str  # used in error messages
    checks: tuple[Check, ...]
    pieces: tuple[Piece, ...] = ()
    row: int = -1  # row of the point in the archive, -1: none

    @property
    def n_bytes(self) -> int:
        """How many bytes are read."""
        return sum(size for _, pieces, _ in self.checks for _, size in pieces)


def joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same pieces, with those joined that follow one another in both files."""
    made: list[Piece] = []
    for begin, to, size in pieces:
        if made and (made[-1][0] + made[-1][2], made[-1][1] + made[-1][2]) == (begin, to):
            made[-1] = (*made[-1][:2], made[-1][2] + size)
        else:
            made.append((begin, to, size))
    return tuple(made)


def moved(moves: Sequence[Move], to: Destination) -> list[FileError | None]:
    """Makes the moves. For each: None, or the error if it failed. Raises EnvironmentLacks if the archive cannot be written."""
    with writable(to.name), to.file.open("r+b", buffering=0) as archive:
        made = [_moved(move, archive.fileno()) for move in moves]
        written = [(at, at + size) for move in moves for _, at, size in move.pieces]
        if written:
            begin, end = min(at for at, _ in written), max(end for _, end in written)
            begin_to_sync(archive.fileno(), begin, end)
        return made


def _moved(move: Move, archive: int) -> FileError | None:
    try:
        with _readable(move):
            file = move.path.open("rb", buffering=0)
        with file:
            _refuse_changed(move, file.fileno())
            with _readable(move):
                bytes_, pieces = _verified(file.fileno(), move)
            for begin, at, size in pieces:
                with _readable(move):
                    data = bytes_(begin, size)
                put(archive, data, at)
            _refuse_changed(move, file.fileno())
    except FileError as error:
        return error
    return None


def _verified(descriptor: int, move: Move) -> tuple[Bytes, tuple[Piece, ...]]:
    """The verified bytes, and the pieces to copy. Raises FileError, OSError.

    Point files that were written with HDF5 1.14.2 state positions that are one user block too low. The digests reveal this.
    """
    try:
        return verified(descriptor, move.checks, move.where, _room()), move.pieces
    except FileError as damage:
        checks = tuple(
            (table, [(at + BLOCK, size) for at, size in pieces] if table else pieces, digest) for table, pieces, digest in move.checks
        )
        try:
            bytes_ = verified(descriptor, checks, move.where, _room())
        except FileError:
            raise damage from None
        return bytes_, tuple((begin + BLOCK, to, size) for begin, to, size in move.pieces)


@contextlib.contextmanager
def _readable(move: Move) -> Iterator[None]:
    """Turns a read error of the source into a FileError, to distinguish it from a write error of the archive."""
    try:
        yield
    except OSError as error:
        raise FileError(f"The file can no longer be read: {error.strerror}.", path=str(move.path)) from error


def _refuse_changed(move: Move, descriptor: int) -> None:
    if identity_of(descriptor) != move.identity:
        raise FileError("The file was changed while it was read.", path=str(move.path))


@functools.cache
def _room() -> bytearray:
    """A buffer that is used repeatedly: allocating a new one costs more than reading."""
    return bytearray(ROOM_BYTES)
