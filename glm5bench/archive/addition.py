"""Adding to a large archive: its bytes are copied as they lie, and what is new is written behind them.

While a thread copies, readers survey the archive and hold its raw bytes against their digests. HDF5 then opens the copy to write in
it, which a structure made to harm could use: so a reader does the same to a copy of the structure alone first, with holes in the place
of the raw bytes, and where it falls the archive is merged point by point as any other. The structure is copied first: HDF5 touches no
raw bytes, and need not wait for them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py

from .contents import Identity, Survey, identity_of
from .moving import Move
from .pointfile import undamaged
from .sealed import BLOCK, structure_end, structure_ranges
from .sink import Sink, begin_to_sync
from .writer import POINT_ROWS, Writer

REHEARSAL = "rehearsal.h5"
IN_MEMORY_BYTES = 256 * 2**20
PIECE_BYTES = 16 * 2**20


class Refused(Exception):
    """The archive is not one to add to: it is merged point by point."""


class Copy:
    """The bytes of an archive on their way into a new one, while others find out whether it is one to add to."""

    def __init__(self, path: Path, sink: Sink) -> None:
        """Raises Refused for a file that is not there any more, or cannot be an archive."""
        self._sink, self._is_wanted = sink, True
        with contextlib.ExitStack() as opened:
            try:
                self._file = opened.enter_context(path.open("rb"))
                raw = _raw_ranges(self._file.fileno())
            except (OSError, ValueError) as error:
                raise Refused from error
            opened.pop_all()
        self._thread = ThreadPoolExecutor(1)
        is_cloned = sink.clone(self._file.fileno())
        self._structure = self._thread.submit(_copy_structure, self._file.fileno(), sink)
        self._raw = self._thread.submit(self._copy, [] if is_cloned else raw)

    def _copy(self, ranges: Sequence[tuple[int, int]]) -> None:
        for begin, end in ranges:
            for at in range(begin, end, PIECE_BYTES):
                if not self._is_wanted:
                    return
                self._sink.copy(self._file.fileno(), at, min(PIECE_BYTES, end - at))
            begin_to_sync(self._sink.fileno(), begin, end)

    def wait_for_structure(self) -> None:
        """Until HDF5 can open it. Raises Refused where there is none, OSError when it cannot be written."""
        try:
            self._structure.result()
        except (OSError, ValueError) as error:
            raise Refused from error
        self._sink.raise_error()

    def finish(self, identity: Identity) -> None:
        """Waits until all is copied. Raises Refused where the file is not the one that was surveyed, OSError when it cannot be written."""
        self._raw.result()
        if identity_of(self._file.fileno()) != identity:
            raise Refused
        self._sink.raise_error()

    def close(self) -> None:
        """The base, closed; what is not copied yet is left."""
        self._is_wanted = False
        self._thread.shutdown()
        self._file.close()


def _raw_ranges(descriptor: int) -> list[tuple[int, int]]:
    """Begin and end of what lies between the structure's ranges. Raises ValueError for what cannot be."""
    edges = [BLOCK, *structure_ranges(descriptor).ravel().tolist(), structure_end(descriptor)]
    if edges != sorted(edges):
        raise ValueError("its seal tells of ranges that are none")
    return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if end > begin]


def _copy_structure(descriptor: int, sink: Sink) -> None:
    ranges = [(0, BLOCK), *structure_ranges(descriptor).tolist()]
    sink.truncate(structure_end(descriptor))
    for begin, stop in ranges:
        sink.copy(descriptor, begin, stop - begin)


def checks(base: Survey) -> Iterator[Move]:
    """The bytes of each point, to be held against their digests where they lie."""
    assert base.stored is not None
    for i in range(base.n):
        yield Move(base.path, base.identity, f"{base.path}:{base.name(i)}", base.stored.checks(i), row=i)


def rehearse(base: Survey, scratch: Path) -> None:
    """Does to the archive's structure what adding to it would. Raises FileError where HDF5 refuses, falls where HDF5 falls."""
    with base.path.open("rb") as file:
        ranges = structure_ranges(file.fileno())
        n_bytes = int((ranges[:, 1] - ranges[:, 0]).sum())
        with _stage(scratch, n_bytes) as place, contextlib.closing(Sink(place)) as sink:
            _copy_structure(file.fileno(), sink)
            undamaged(lambda: _rehearsed(sink, base), "The archive cannot be added to", str(base.path))


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
        writer = Writer(file, sink, found.first(POINT_ROWS))
        writer.rehearse()
        writer.finish()
    sink.raise_error()
