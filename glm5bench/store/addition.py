"""Adding to a large archive: its bytes are copied as they lie, and what is new is written behind them.

While this process copies, readers survey the archive and hold its raw bytes against their digests. HDF5 then opens the copy to write
in it, which a structure made to harm could use: so a reader does the same to a copy of the structure alone first, with holes in the
place of the raw bytes, and where it falls the archive is merged point by point as any other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py

from .archive import Writer
from .contents import Survey
from .pointfile import undamaged
from .sealed import Sink, structure_end, structure_ranges
from .survey import survey

REHEARSAL = "rehearsal.h5"
PIECE_BYTES = 64 * 2**20
IN_MEMORY_BYTES = 256 * 2**20


def rehearse(path: Path, scratch: Path) -> None:
    """Does to the archive's structure what adding to it would. Raises FileError where HDF5 refuses, falls where HDF5 falls."""
    found = survey(path, scratch=scratch)
    with path.open("rb") as file:
        ranges = structure_ranges(file.fileno())
        n_bytes = int((ranges[:, 1] - ranges[:, 0]).sum())
        with _stage(scratch, n_bytes) as place, contextlib.closing(Sink(place)) as sink:
            sink.truncate(structure_end(file.fileno()))
            for begin, stop in ranges.tolist():
                sink.copy(file.fileno(), begin, stop - begin)
            undamaged(lambda: _rehearsed(sink, found), "The archive cannot be added to", str(path))


@contextlib.contextmanager
def _stage(scratch: Path, n_bytes: int) -> Iterator[Path]:
    """Where so many bytes, with holes between them, are rehearsed on: in memory, else in the scratch folder, which is slower."""
    if n_bytes > IN_MEMORY_BYTES or not hasattr(os, "memfd_create"):
        yield scratch / REHEARSAL
        (scratch / REHEARSAL).unlink(missing_ok=True)
        return
    descriptor = os.memfd_create(REHEARSAL)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _rehearsed(sink: Sink, found: Survey) -> None:
    with h5py.File(sink, "r+", driver="fileobj") as file:
        writer = Writer(file, sink, found)
        writer.rehearse()
        writer.finish()
    sink.raise_error()


class Copy:
    """The bytes of an archive on their way into a new one, while others find out whether it is one to add to."""

    def __init__(self, path: Path, sink: Sink) -> None:
        """Raises Refused for a file that is not there any more, or cannot be an archive."""
        self._sink, self._is_wanted = sink, True
        with contextlib.ExitStack() as opened:
            try:
                self._file = opened.enter_context(path.open("rb"))
                self._end = structure_end(self._file.fileno())
            except (OSError, ValueError) as error:
                raise Refused from error
            opened.pop_all()
        self._thread = ThreadPoolExecutor(1)
        self._copied = self._thread.submit(self._run)

    def _run(self) -> None:
        for at in range(0, self._end, PIECE_BYTES):
            if not self._is_wanted:
                return
            self._sink.copy(self._file.fileno(), at, min(PIECE_BYTES, self._end - at))

    def finish(self, is_same: Callable[[int], None]) -> None:
        """Waits until all is copied. `is_same` raises where the file, by its descriptor, is not what was surveyed."""
        self._copied.result()
        is_same(self._file.fileno())
        self._sink.raise_error()

    def close(self) -> None:
        """The base, closed; what is not copied yet is left."""
        self._is_wanted = False
        self._thread.shutdown()
        self._file.close()


class Refused(Exception):
    """The archive is not one to add to: it is merged point by point."""
