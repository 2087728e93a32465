"""The file object that HDF5 writes an archive through: it notes where data would go, and copies stored bytes as they lie."""

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


PROMISED = mmap.mmap(-1, 4 << 20)  # never touched, so that it takes no memory


PROMISE = memoryview(PROMISED)


PROMISED_AT = ctypes.addressof(ctypes.c_char.from_buffer(PROMISED))


def _address(data: Any) -> int:
    """Where in memory the bytes stand that libhdf5 gives."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


class Sink(io.RawIOBase):
    """The file that libhdf5 writes an archive into. It never refuses: libhdf5 falls over a full disk. The first error is kept.

    Bytes that another process is going to write are promised: libhdf5 is given as many others, finds them a place, and that is noted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._promised: list[tuple[int, int]] | None = None  # where promised bytes go and how many, as long as there are such
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._at = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Where the next byte goes."""
        self._at = offset if whence == 0 else offset + (self._at if whence == 1 else os.fstat(self._descriptor).st_size)
        return self._at

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Bytes from here; zeros past the end."""
        found = os.pread(self._descriptor, len(buffer), self._at)
        buffer[:] = found + bytes(len(buffer) - len(found))
        self._at += len(buffer)
        return len(buffer)

    def write(self, data: Any) -> int:
        """All of the bytes, or an error that is kept for `raise_error`. Of promised ones only their place is noted."""
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
        """Where chunks of so many bytes go that `write` gives to libhdf5, by their numbers. Another process puts the real ones there."""
        promised: list[tuple[int, int]] = []
        self._promised = promised
        for i, size in enumerate(sizes):
            write(i, PROMISE[:size])
        self._promised = None
        if [n for _, n in promised] != sizes:
            raise RuntimeError(f"libhdf5 {h5py.version.hdf5_version} did not write {sizes} bytes as they are: {promised}")
        return [at for at, _ in promised]

    def truncate(self, size: int | None = None) -> int:
        """The file's size."""
        try:
            os.ftruncate(self._descriptor, self._at if size is None else size)
        except OSError as error:
            self.error = self.error or error
        return self._at if size is None else size

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def seekable(self) -> bool:
        """Yes."""
        return True

    def raise_error(self) -> None:
        """Raises the first error that there was."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """The file, closed once."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def put(descriptor: int, data: Any, at: int) -> None:
    """All of the bytes to their place in a file. Raises OSError."""
    n = 0
    while n < len(data):
        n += os.pwrite(descriptor, data[n:] if n else data, at + n)


def begin_to_sync(descriptor: int, begin: int, end: int) -> None:
    """Has bytes of a file written to the disk from now on, which Linux does where it is told that they are not needed again.

    Whoever syncs the file then has little to wait for.
    """
    with contextlib.suppress(OSError):  # it is advice
        os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
