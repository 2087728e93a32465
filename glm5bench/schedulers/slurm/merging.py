"""A merge that is too large for one machine: Slurm jobs merge shards of the sources, then this machine merges the shards.

A merge is a set union, so the result has the same digest as one merge of all sources. Shards are written next to the output, on
the shared file system, and removed after the final merge.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from ...archive.collection import files, no_point
from ...archive.selection import Selection
from ...archive.union import Merged, Progress, merge, no_progress
from ...errors import BenchError, EnvironmentLacks, FileError, UsageError
from ...files import writable
from . import commands as slurm
from .submission import clean_environment

POLL_S = 1.0
PARAMETERS = ("account", "constraint", "cpus_per_task", "exclude", "gres", "mem", "partition", "qos", "reservation", "time", "wckey")
TIME_MIN = 60


@dataclass(frozen=True)
class Shard:
    """The sources that one job merges, and its output file."""

    sources: tuple[str, ...]
    output: Path
    is_raw_kept: bool
    where: Selection
    jobs: int


def parameters(text: str) -> dict[str, Any]:
    """The resources of the jobs, from `partition=cpu,time=60,mem=8G`. Raises UsageError for an unknown name."""
    asked: dict[str, Any] = {"time": TIME_MIN, "wckey": None}
    for part in filter(None, text.split(",")):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in PARAMETERS:
            raise UsageError(f"--ask {part}: not a known parameter with a value.", next_step=f"use one of {', '.join(PARAMETERS)}")
        asked[name] = int(value) if value.isdigit() else value
    return asked


def merge_on_slurm(
    paths: Sequence[str],
    output: Path,
    *,
    shards: int,
    asked: Mapping[str, Any],
    is_raw_kept: bool = True,
    where: Selection | None = None,
    jobs: int = 1,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Merged:
    """Writes the union of the paths to `output`. The jobs of an array read and verify them.

    Raises EnvironmentLacks if Slurm is missing or one of its jobs fails, and the errors of `merge`.
    """
    if not slurm.is_there():
        raise EnvironmentLacks(
            "Slurm's commands are not on PATH.", where=os.uname().nodename, next_step="remove --on slurm to merge on this machine"
        )
    with _folder_beside(output) as folder:
        groups = _balanced([str(path.resolve()) for path in files(paths)], shards)
        made = [Shard(g, folder / f"{i}.h5", is_raw_kept, where or Selection(), jobs) for i, g in enumerate(groups)]
        bad = [error for found in _results(folder, made, asked, progress) for error in found]
        for error in bad if strict else []:
            raise error
        parts = [str(shard.output) for shard in made if shard.output.exists()]
        if not parts:
            for error in bad:
                raise error
            raise no_point(", ".join(paths))
        done = merge(parts, output, jobs=jobs, strict=strict)
        done.bad[:0] = bad
        return done


def merge_shard(shard: Shard) -> list[FileError]:
    """Writes the archive of one shard, if it has points. Returns the errors of files that were left out."""
    try:
        return merge(shard.sources, shard.output, is_raw_kept=shard.is_raw_kept, where=shard.where, jobs=shard.jobs).bad
    except FileError as error:  # no source can be read
        return [error]
    except UsageError:  # no source has a point, or none is selected
        return []


@contextlib.contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    folder = output.parent / f".{output.name}.{os.getpid()}.shards"
    with writable(folder):
        folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)  # kept after a failure, because it has the jobs' logs


def _balanced(sources: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Up to `n` groups of about the same number of bytes."""
    groups: list[tuple[int, int, list[str]]] = [(0, i, []) for i in range(max(1, min(n, len(sources))))]
    for source in sorted(sources, key=lambda s: -_size(s)):
        size, i, group = heapq.heappop(groups)
        heapq.heappush(groups, (size + _size(source), i, [*group, source]))
    return [tuple(group) for _, _, group in sorted(groups, key=lambda g: g[1])]


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_size
    return 0


def _results(folder: Path, shards: Sequence[Shard], asked: Mapping[str, Any], progress: Progress) -> list[list[FileError]]:
    executor = submitit.SlurmExecutor(folder=folder / "submitit")
    executor.update_parameters(job_name="glm5bench-merge", array_parallelism=len(shards), **asked)
    try:
        with clean_environment():
            jobs = executor.map_array(merge_shard, shards)
    except (FailedJobError, FailedSubmissionError) as error:
        raise EnvironmentLacks(f"Slurm refused the jobs: {_last(str(error))}.", next_step="set --ask partition=...,account=...") from error
    try:
        while (done := sum(job.done() for job in jobs)) < len(jobs):
            progress(done, len(jobs))
            time.sleep(POLL_S)
        return [_result(job) for job in jobs]
    except BaseException:
        slurm.cancel([str(jobs[0].job_id).partition("_")[0]], "glm5bench-merge")
        raise


def _result(job: Any) -> list[FileError]:
    try:
        found: list[FileError] = job.result()
        return found
    except (FailedJobError, UncompletedJobError) as error:
        log = job.paths.stderr
        raise EnvironmentLacks(
            f"Job {job.job_id} of the merge failed: {_last(str(error))}.",
            where=str(log),
            next_step="run the command again with more --ask time=...,mem=..., or with more --shards",
        ) from error
    except BenchError as error:
        raise EnvironmentLacks(f"Job {job.job_id} of the merge failed: {error.message}", where=error.where) from error


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no word"])[-1].rstrip(".")
