"""A server's directory of temporary files on the node, and the removal of directories that killed jobs left behind.

The job holds a lock on a file in its directory while it runs. If the job and all its child processes are killed at once, no process is left
to clean up. The next server that starts on the node then removes the directories whose lock is free.
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
    """A new directory in $TMPDIR, or in the system's directory for temporary files; it is removed afterwards."""
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Removes this user's server directories whose job has ended."""
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
