"""A server's directory of temporary files on the node, and the removal of those that killed jobs have left.

The job holds a lock on a file in its directory as long as it lives. If the job and everything that it started are killed at once, nobody is
left to clean up: the next server that starts on the node removes the directories whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .guard import SCRATCH_PREFIX

LOCK = ".alive"
NEW_S = 3600.0  # a directory without a lock file may be about to get one


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new directory in $TMPDIR, or where the system keeps temporary files; it is gone afterwards."""
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Removes this user's directories of servers whose job is gone."""
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{SCRATCH_PREFIX}*"):
            with contextlib.suppress(OSError):
                if not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid() and _is_abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > NEW_S
    return True
