"""Whether only this user can write a campaign's directory.

Whoever resubmits, cancels or runs a campaign executes what its directory contains: pickles, requests and commands. docs/security.md.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError

VARIABLE = "GLM5BENCH_TRUST_DIRECTORY"  # a path that the user trusts although others can write it; also passed to jobs
OTHERS = stat.S_IWGRP | stat.S_IWOTH


def trusted(root: Path) -> None:
    """Raises UsageError if a folder of this campaign belongs to another user, or if others can write there."""
    if os.environ.get(VARIABLE) == str(root):
        return
    for folder in _folders(root):
        wrong = _wrong(folder)
        if wrong:
            step = f"run `chmod -R go-w {root}` if its content is yours, or add --trust-directory"
            raise UsageError(
                f"{folder} {wrong}. Whoever can write there decides what this command executes.", where=str(root), next_step=step
            )


def trust(root: Path) -> None:
    """States that the user trusts everybody who can write this directory, for this process and the jobs that it starts."""
    os.environ[VARIABLE] = str(root)


def _wrong(folder: Path) -> str:
    try:
        seen = os.lstat(folder)
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(seen.st_mode):
        return "is a link"
    if seen.st_uid != os.geteuid():
        return f"belongs to {_name(seen.st_uid)}"
    return "can be written by others" if seen.st_mode & OTHERS else ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _folders(root: Path) -> Iterator[Path]:
    """The campaign's folders that something is read from: itself, its points, its searches, its jobs, and each job."""
    yield from (root, root / "points", root / "sbatch", root / "search", root / "jobs")
    try:
        with os.scandir(root / "jobs") as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_symlink() or entry.is_dir(follow_symlinks=False))
    except OSError:
        return


def make_private(folder: Path) -> None:
    """Creates a folder that only this user can read, whatever the umask. An existing folder of this user is made private."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.lstat(folder).st_uid == os.geteuid():
        os.chmod(folder, 0o700)


def refuse_group_writes() -> None:
    """What this process creates can be written by its user only."""
    os.umask(os.umask(0o022) | 0o022)
