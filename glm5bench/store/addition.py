"""Adding to a large archive: its bytes are copied as they lie, and what is new is written behind them.

The archive's structure was surveyed; its raw bytes are held against their digests by the readers while this process copies. HDF5 then
opens the copy to write in it, which a structure made to harm could use: so a reader does the same to a copy of the structure alone first,
with holes in the place of the raw bytes, and where it falls the archive is merged point by point as any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import h5py

from .archive import Writer
from .contents import Survey
from .pointfile import undamaged
from .sealed import Sink, structure_ranges
from .survey import survey

REHEARSAL = "rehearsal.h5"


def rehearse(path: Path, scratch: Path) -> None:
    """Does to the archive's structure what adding to it would. Raises FileError where HDF5 refuses, falls where HDF5 falls."""
    found = survey(path, scratch=scratch)
    with path.open("rb") as file:
        ranges, end = structure_ranges(file.fileno())
        with contextlib.closing(Sink(scratch / REHEARSAL)) as sink:
            sink.truncate(end)
            for begin, stop in ranges.tolist():
                sink.copy(file.fileno(), begin, stop - begin)
            undamaged(lambda: _rehearsed(sink, found), "The archive cannot be added to", str(path))
    (scratch / REHEARSAL).unlink(missing_ok=True)


def _rehearsed(sink: Sink, found: Survey) -> None:
    with h5py.File(sink, "r+", driver="fileobj") as file:
        writer = Writer(file, sink, found)
        writer.rehearse()
        writer.finish()
    sink.raise_error()


class Copy:
    """The bytes of a base archive on their way into a new one, a piece whenever `advance` is called."""

    def __init__(self, base: Survey, sink: Sink, n_pieces: int) -> None:
        self._file = base.path.open("rb")
        self._sink, self._at = sink, 0
        _, self._end = structure_ranges(self._file.fileno())
        self._piece = -(-self._end // max(1, n_pieces))

    def advance(self) -> None:
        """One piece more."""
        n = min(self._piece, self._end - self._at)
        self._sink.copy(self._file.fileno(), self._at, n)
        self._at += n

    def finish(self, is_same: Callable[[int], None]) -> None:
        """What is left. `is_same` raises where the file, by its descriptor, is not what was surveyed."""
        while self._at < self._end:
            self.advance()
        is_same(self._file.fileno())
        self._sink.raise_error()

    def close(self) -> None:
        """The base, closed."""
        self._file.close()


class Refused(Exception):
    """The archive is not one to add to: it is merged point by point."""
