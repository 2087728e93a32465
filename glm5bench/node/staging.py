"""The path of a job's weights: the original checkpoint, or a copy on a local disk of the node that is made once and kept.

Enters: a node job. Leaves: a path for the server, and facts that explain its start-up time: revision, bytes, the seconds that the
copy took, and the share of the weights that was already in memory. Shared file systems are fast for one loading node and slow for ten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.known import adapter
from ..errors import ServerError
from ..machine.checkpoint import cached_share, found
from ..values.point import NodeJob
from .command import NEXT_STEPS, Stopped

PIECE_BYTES = 2**26


@dataclass(frozen=True)
class Weights:
    """The path that the server gets, and the recorded facts about it."""

    path: str
    told: dict[str, Any]


def weights(job: NodeJob, tell: Callable[[str], None], is_stopped: Callable[[], bool]) -> Weights:
    """The weights for this job's server, copied to the node if the job has a `stage_dir`. `tell` is called with the copy's progress.

    Raises ServerError if files are missing or the copy fails, Stopped if the job must stop.
    """
    lies = Path(job.model_path)
    if not lies.is_absolute() or adapter(job.arm.engine).is_simulated:
        return Weights(job.model_path, {})
    seen = found(lies, job.arm.checkpoint)
    if seen.lacks:
        raise ServerError(f"{seen.lacks}.", failure_class="checkpoint_missing", next_step=NEXT_STEPS["checkpoint_missing"])
    told = {"revision": seen.revision, "size_bytes": seen.size_bytes, "n_shards": seen.n_shards}
    if not job.stage_dir:
        real = lies.resolve()  # a link to a snapshot of the hub's cache contains relative links, which need its real path
        return Weights(str(real), {**told, "page_cache_share": cached_share(real)})
    copy = Path(job.stage_dir) / job.arm.checkpoint.repository
    try:
        seconds = staged(lies, copy, tell, is_stopped)
    except OSError as error:
        what = f"The checkpoint cannot be copied to {copy}: {error.strerror or error}."
        raise ServerError(what, failure_class="node_fault", next_step="set stage=none or another cluster.stage_dir") from error
    if seconds is None:
        raise Stopped
    return Weights(str(copy), {**told, "stage_s": seconds, "page_cache_share": cached_share(copy)})


def staged(source: Path, target: Path, tell: Callable[[str], None], is_stopped: Callable[[], bool]) -> float | None:
    """Copies the checkpoint to a local disk of the node, unless it is there. Returns the seconds this took; None if the job must stop.

    A file is there if its size and modification time equal the source's. Files appear only when they are complete, and two jobs of a node
    do not copy the same file twice. Raises OSError if the disk is too small or cannot be written.
    """
    began = time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    if not _wanted(source, target):
        return time.monotonic() - began
    with (target / ".stage.lock").open("w") as lock:
        while not is_stopped():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            tell("waiting for another job of this node to copy the checkpoint")
            time.sleep(0.5)
        else:
            return None  # must stop while another job copies
        wanted = _wanted(source, target)
        total, done = sum(path.stat().st_size for path in wanted), 0
        if total > shutil.disk_usage(target).free:
            raise OSError(f"{target} has {shutil.disk_usage(target).free / 2**30:,.0f} GiB free, the copy needs {total / 2**30:,.0f}")
        for path in wanted:
            for copied in _copied(path, target / path.name):
                if is_stopped():
                    return None
                done += copied
                tell(f"copying the checkpoint, {done / 2**30:,.0f} of {total / 2**30:,.0f} GiB")
    return None if is_stopped() else time.monotonic() - began


def _wanted(source: Path, target: Path) -> list[Path]:
    """The source files that are missing in the copy or differ from it."""
    return [path for path in sorted(source.iterdir()) if path.is_file() and not _is_same(path, target / path.name)]


def _is_same(source: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    a, b = source.stat(), target.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def _copied(source: Path, target: Path) -> Iterator[int]:
    """Copies a file in pieces to a temporary name, yields the bytes of each piece, and renames the file when it is complete."""
    beside = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as read, beside.open("wb") as write:
            while n := os.sendfile(write.fileno(), read.fileno(), None, PIECE_BYTES):
                yield n
        shutil.copystat(source, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
