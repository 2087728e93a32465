"""Files that are complete or absent: each is written next to its final path, synced, and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import EnvironmentLacks, FileError

LARGEST = 2**30  # bytes of a state file: the plan of a hundred thousand points has some hundred million


class Taken(Exception):
    """A file already exists at the path of a new one."""


def write_whole(path: Path, write: Callable[[Path], None], *, is_new: bool = False, is_synced: bool = True) -> None:
    """Calls `write` with a temporary path next to `path`, then renames the file to `path`. If anything fails, no file is left.

    Without `is_synced`, a power failure may remove the file again. Use this only for files that a later record can replace.

    Raises EnvironmentLacks if the directory cannot be written or the disk is full. With `is_new`, raises Taken if `path` already exists.
    """
    with whole(path, is_new=is_new, is_synced=is_synced) as beside:
        write(beside)


@contextlib.contextmanager
def whole(path: Path, *, is_new: bool = False, is_synced: bool = True) -> Iterator[Path]:
    """The same as `write_whole`, for a block: it writes to the temporary path, which is renamed when the block ends."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            if is_synced:
                _sync(beside)
            place_new(beside, path) if is_new else os.replace(beside, path)
            if is_synced:
                _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def place_new(beside: Path, path: Path) -> None:
    """Links a file to a new path. Raises Taken if the path already exists."""
    try:
        os.link(beside, path)  # unlike a rename, a link never replaces an existing file
    except FileExistsError as error:
        raise Taken(str(path)) from error
    except OSError:  # a file system without hard links: an empty file takes the name, and fails if it exists
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError as taken:
            raise Taken(str(path)) from taken
        os.replace(beside, path)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns an OSError into an EnvironmentLacks that names the directory and the next step."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentLacks(
            f"{path.name} cannot be written: {error.strerror or error}.",
            where=str(path.parent),
            next_step="free space there, then run the same command again" if full else "choose another directory",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, *, is_synced: bool = True) -> None:
    """Writes one JSON document, complete or not at all."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, lambda beside: _written(beside, text), is_synced=is_synced)


def _written(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Writes the file, complete or not at all. Raises EnvironmentLacks if it cannot be written."""
    write_whole(path, lambda beside: _written(beside, text))


def read_json(path: Path) -> Any:
    """The JSON document. Raises FileError if it is missing, not a regular file, too large, too deeply nested, or not JSON."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise FileError(f"{path.name} cannot be read: {' '.join(str(error).split())}.", path=str(path)) from error
    except RecursionError as error:
        raise FileError(f"{path.name} cannot be read: it is nested too deeply.", path=str(path)) from error


def read_text(path: Path, *, errors: str = "strict", most: int = LARGEST) -> str:
    """The text of a state file. Raises OSError if it is missing, ValueError if it is not a regular file or larger than `most` bytes."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe must not block
        seen = os.fstat(file.fileno())
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError("it is not a regular file")
        if seen.st_size > most:
            raise ValueError(f"it is larger than {most / 2**20:.0f} MiB")
        return file.read(most + 1).decode("utf-8", errors)


def sha256(path: Path) -> str:
    """The SHA-256 hash of a file's bytes, 64 hex digits. Raises OSError if it cannot be read."""
    h = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            h.update(piece)
    return h.hexdigest()
