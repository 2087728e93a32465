"""The file object through which HDF5 writes an archive. It records where data would go and copies stored bytes unchanged."""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

PIECE = 1 << 20


PROMISED = mmap.mmap(-1, 4 << 20)  # never touched, so it takes no memory


PROMISE = memoryview(PROMISED)


PROMISED_AT = ctypes.addressof(ctypes.c_char.from_buffer(PROMISED))


def _address(data: Any) -> int:
    """Memory address of a buffer from libhdf5."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


class Sink(io.RawIOBase):
    """The file into which libhdf5 writes an archive. It never raises, because libhdf5 crashes on a full disk. It keeps the first error.

    Promised bytes are written later by another process. libhdf5 gets a placeholder of the same size and chooses its position, which
    is recorded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._promised: list[tuple[int, int]] | None = None  # (offset, size) of promised bytes, while `places_of` runs
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._at = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position of the file, and returns it."""
        self._at = offset if whence == 0 else offset + (self._at if whence == 1 else os.fstat(self._descriptor).st_size)
        return self._at

    def tell(self) -> int:
        """The current position."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Reads from the current position; zeros past the end of the file."""
        found = os.pread(self._descriptor, len(buffer), self._at)
        buffer[:] = found + bytes(len(buffer) - len(found))
        self._at += len(buffer)
        return len(buffer)

    def write(self, data: Any) -> int:
        """Writes all bytes. An error is kept for `raise_error`. For promised bytes only the position is recorded."""
        if self._promised is not None and _address(data) == PROMISED_AT:
            self._promised.append((self._at, len(data)))
        else:
            self._write_at(data, self._at)
        self._at += len(data)
        return len(data)

    def _write_at(self, data: Any, at: int) -> None:
        try:
            if self.error is None:
                put(self._descriptor, data, at)
        except OSError as error:
            self.error = error

    def places_of(self, sizes: list[int], write: Callable[[int, memoryview], None]) -> list[int]:
        """Offsets of chunks with these sizes, which another process writes later.

        `write` gets the number of a chunk and its placeholder, and passes the placeholder to libhdf5.
        """
        promised: list[tuple[int, int]] = []
        self._promised = promised
        for i, size in enumerate(sizes):
            write(i, PROMISE[:size])
        self._promised = None
        if [n for _, n in promised] != sizes:
            raise RuntimeError(f"libhdf5 {h5py.version.hdf5_version} did not write chunks of {sizes} bytes unchanged: {promised}")
        return [at for at, _ in promised]

    def truncate(self, size: int | None = None) -> int:
        """Sets the file's size, and returns it."""
        try:
            os.ftruncate(self._descriptor, self._at if size is None else size)
        except OSError as error:
            self.error = self.error or error
        return self._at if size is None else size

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def seekable(self) -> bool:
        """Always true."""
        return True

    def raise_error(self) -> None:
        """Raises the first error, if there was one."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def put(descriptor: int, data: Any, at: int) -> None:
    """Writes all bytes at an offset of a file. Raises OSError."""
    n = 0
    while n < len(data):
        n += os.pwrite(descriptor, data[n:] if n else data, at + n)


def begin_to_sync(descriptor: int, begin: int, end: int) -> None:
    """Starts to write a range of the file to the disk. Linux does this for bytes that are marked as no longer needed.

    A later fsync then has little left to wait for.
    """
    with contextlib.suppress(OSError):  # only a hint to the kernel
        os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
