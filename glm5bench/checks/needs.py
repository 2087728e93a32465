"""What a campaign needs and this machine can see that it lacks: images and checkpoints, looked at before anything waits in a queue.

Enters: the node jobs of a plan. Leaves: one sentence for each thing that lacks, with what brings it there, and one for each that
nobody here could look at. Nothing is hashed and no weight is read: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentLacks
from ..images.record import lacking, read_record
from ..images.reference import Reference, reference
from ..machine.checkpoint import fetch_command, found
from ..values.groups import Checkpoint
from ..values.point import NodeJob
from .finding import Finding


@dataclass(frozen=True)
class Need:
    """One image or checkpoint that a plan needs. `is_seen`: whether its directory is one that this machine sees; `lacks`: or empty."""

    kind: str
    name: str
    path: str
    is_seen: bool
    lacks: str
    next_step: str
    arms: tuple[str, ...]
    said: str = ""

    @property
    def finding(self) -> Finding:
        """What of it is there."""
        what = f"{self.kind} {self.name}"
        if not self.is_seen:
            return Finding(what, None, f"{self.path}: its directory is not seen from this machine")
        return Finding(what, not self.lacks, self.lacks or self.said or self.path, self.next_step if self.lacks else "")


def needs(jobs: Sequence[NodeJob]) -> list[Need]:
    """Everything that the servers of these node jobs need from the file system, images first."""
    return [*_images(jobs), *_checkpoints(jobs)]


def refuse_lacking(jobs: Sequence[NodeJob]) -> None:
    """Raises EnvironmentLacks with everything that lacks and what brings it there: a job would find out after its time in the queue."""
    lines = [f"\n  {line}" for need in needs(jobs) if need.lacks for line in need.finding.lines()]
    if lines:
        raise EnvironmentLacks(
            f"Some of what this campaign needs is missing:{''.join(lines)}", next_step="fix these, then run the command again"
        )


def images_of(jobs: Sequence[NodeJob]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(image directory, image) -> the arms that need it; the directory is empty where the cluster names none."""
    arms: dict[tuple[str, str], dict[str, None]] = {}
    for job in jobs:
        for start in job.starts:
            if start.recipe.image:
                arms.setdefault((job.image_dir, start.recipe.image), {})[job.arm.label] = None
    return {image: tuple(labels) for image, labels in arms.items()}


def _images(jobs: Sequence[NodeJob]) -> Iterator[Need]:
    for (directory, name), arms in images_of(jobs).items():
        if not directory:
            continue  # engines run from the node's PATH: the cluster says so
        ref, is_seen = reference(name), Path(directory).is_dir()
        sif = Path(directory) / ref.sif
        lacks = lacking(Path(directory), ref) if is_seen else ""
        yield Need("image", name, str(sif), is_seen, lacks, _how_to_get(ref, arms), arms, "" if lacks or not is_seen else _said(sif))


def _how_to_get(ref: Reference, arms: Sequence[str]) -> str:
    return "`glm5bench images pull` with the same overrides" if ref.repository else "put the file there"


def _said(sif: Path) -> str:
    record = read_record(sif)
    return f"{sif.stat().st_size / 2**30:,.1f} GiB, {record.oci_digest[:19] or 'of no known digest' if record else 'of no record'}"


def _checkpoints(jobs: Sequence[NodeJob]) -> Iterator[Need]:
    wanted: dict[str, tuple[Checkpoint, dict[str, None]]] = {}
    for job in jobs:
        if Path(job.model_path).is_absolute() and not job.arm.engine.simulated:
            wanted.setdefault(job.model_path, (job.arm.checkpoint, {}))[1][job.arm.label] = None
    for path, (checkpoint, arms) in wanted.items():
        directory = Path(path)
        is_seen = _holds_something(
            directory.parent.parent
        )  # DIR of DIR/zai-org/GLM-5-FP8; the empty mount point of a disk of the nodes' own
        seen = found(directory, checkpoint)
        fetch = f"`{fetch_command(checkpoint, directory)}`, on a machine with network"
        said = f"{seen.size_bytes / 2**30:,.0f} GiB in {seen.n_shards} files, revision {seen.revision[:12] or 'unknown'}"
        yield Need("checkpoint", checkpoint.repository, path, is_seen, seen.lacks if is_seen else "", fetch, tuple(arms), said)


def _holds_something(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False


def of_each_hardware(jobs: Sequence[NodeJob]) -> list[NodeJob]:
    """The first node job of each hardware."""
    return list({job.arm.hardware.id: job for job in reversed(jobs)}.values())[::-1]
