"""Bytes kept out of memory during a run: requests before they are sent, answers until they are parsed.

One unnamed file in the directory for temporary files, which disappears with the process. If that disk is full, new bytes stay in memory.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from dataclasses import dataclass

from ..errors import EnvironmentLacks
from .exchange import Body


@dataclass(frozen=True)
class Place:
    """Where some bytes are stored: in the file, or in memory if the disk was full."""

    offset: int
    length: int
    kept: bytes | None = None


@dataclass(frozen=True)
class KeptBody:
    """A body and its arrivals in the spool."""

    data: Place
    at: Place
    cuts: Place
    encoding: str


class Spool:
    """Appends and reads back. One process writes; others may read through the same descriptor."""

    def __init__(self, fd: int | None = None) -> None:
        self._file = tempfile.TemporaryFile() if fd is None else open(fd, "rb", closefd=False)  # noqa: SIM115  closed in close()
        self._size = 0
        self.is_full = False

    @property
    def fd(self) -> int:
        """The descriptor, for a child to read."""
        return self._file.fileno()

    def put(self, data: bytes | bytearray | memoryview) -> Place:
        """Stores the bytes."""
        if not self.is_full:
            try:
                place = Place(self._size, len(data))
                done, view = 0, memoryview(data)
                while done < len(view):
                    done += os.pwrite(self._file.fileno(), view[done:], self._size + done)
            except OSError:
                self.is_full = True
            else:
                self._size += len(data)
                return place
        return Place(0, len(data), bytes(data))

    def get(self, place: Place) -> bytes:
        """The stored bytes. Raises EnvironmentLacks if the disk does not return them."""
        if place.kept is not None:
            return place.kept
        data = os.pread(self._file.fileno(), place.length, place.offset)
        if len(data) < place.length:  # beyond 2 GiB, or a disk that failed
            data += b"".join(self._rest(place, len(data)))
        return data

    def _rest(self, place: Place, done: int) -> list[bytes]:
        parts = []
        while done < place.length:
            part = os.pread(self._file.fileno(), place.length - done, place.offset + done)
            if not part:
                raise EnvironmentLacks(
                    "The spool of this run cannot be read back.", where=tempfile.gettempdir(), next_step="check the disk"
                )
            parts.append(part)
            done += len(part)
        return parts

    def put_body(self, data: bytearray, at: array[int], cuts: array[int], encoding: str) -> KeptBody:
        """Stores a body with its arrivals."""
        return KeptBody(self.put(data), self.put(memoryview(at).cast("B")), self.put(memoryview(cuts).cast("B")), encoding)

    def body(self, kept: KeptBody) -> Body:
        """The stored body."""
        at, cuts = array("q"), array("q")
        at.frombytes(self.get(kept.at))
        cuts.frombytes(self.get(kept.cuts))
        return Body(self.get(kept.data), at, cuts, kept.encoding)

    def close(self) -> None:
        """Deletes everything."""
        self._file.close()
