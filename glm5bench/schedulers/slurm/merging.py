"""A merge that outgrows one machine: shards of the sources through Slurm, each an archive of its own, then their union here.

A merge is a set union, so that the shards' union has the digest that one merge of everything has. Shards are written beside the
output, on the file system that every node sees, and removed when the union stands.
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
    """What one job merges into which file."""

    sources: tuple[str, ...]
    output: Path
    is_raw_kept: bool
    where: Selection
    jobs: int


def parameters(text: str) -> dict[str, Any]:
    """What the jobs ask for, from `partition=cpu,time=60,mem=8G`. Raises UsageError for what is no such thing."""
    asked: dict[str, Any] = {"time": TIME_MIN, "wckey": None}
    for part in filter(None, text.split(",")):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in PARAMETERS:
            raise UsageError(f"--ask {part}: there is no such thing to ask for.", next_step=f"one of {', '.join(PARAMETERS)}")
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
    """Writes the union of the paths to `output`, read and verified by the jobs of an array.

    Raises EnvironmentLacks where there is no Slurm, and where a job of it fails; else as `merge` does.
    """
    if not slurm.is_there():
        raise EnvironmentLacks("Slurm's commands are not on PATH.", where=os.uname().nodename, next_step="merge here: without --on slurm")
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
    """One job's work: the shard's archive, if it holds a point. What was left out."""
    try:
        return merge(shard.sources, shard.output, is_raw_kept=shard.is_raw_kept, where=shard.where, jobs=shard.jobs).bad
    except FileError as error:  # nothing in it can be read
        return [error]
    except UsageError:  # nothing in it is a point, or is meant
        return []


@contextlib.contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    folder = output.parent / f".{output.name}.{os.getpid()}.shards"
    with writable(folder):
        folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)  # after a failure it stays: the jobs' logs are in it


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
        raise EnvironmentLacks(f"Slurm did not take the jobs: {_last(str(error))}.", next_step="--ask partition=...,account=...") from error
    try:
        while (done := sum(job.done() for job in jobs)) < len(jobs):
            progress(done, len(jobs))
            time.sleep(POLL_S)
        return [_result(job) for job in jobs]
    except BaseException:
        slurm.cancel([str(jobs[0].job_id).partition("_")[0]])
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
            next_step="the same command again with more --ask time=...,mem=..., or more --shards",
        ) from error
    except BenchError as error:
        raise EnvironmentLacks(f"Job {job.job_id} of the merge failed: {error.message}", where=error.where) from error


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no word"])[-1].rstrip(".")
