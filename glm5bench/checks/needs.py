"""Images and checkpoints that a campaign needs, checked from this machine before any job waits in the queue.

Input: the node jobs of a plan. Output: what is missing and how to get it, and what could not be checked from this machine.
Nothing is hashed and no weights are read, so this takes seconds.
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

OPEN = "can be written by others, who could replace the image"


@dataclass(frozen=True)
class Need:
    """One image or checkpoint that a plan needs. `is_seen`: whether this machine sees its directory. `lacks`: what is missing, or empty."""

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
        """Whether it is complete, as a finding."""
        what = f"{self.kind} {self.name}"
        if not self.is_seen:
            return Finding(what, None, f"{self.path}: its directory is not visible from this machine")
        return Finding(what, not self.lacks, self.lacks or self.said or self.path, self.next_step if self.lacks else "")


def needs(jobs: Sequence[NodeJob]) -> list[Need]:
    """All images and checkpoints that the servers of these node jobs need, images first."""
    return [*_images(jobs), *_checkpoints(jobs)]


def refuse_lacking(jobs: Sequence[NodeJob]) -> None:
    """Raises EnvironmentLacks with everything that is missing and how to get it, before jobs wait in the queue for nothing."""
    lines = [f"\n  {line}" for need in needs(jobs) if need.lacks for line in need.finding.lines()]
    if lines:
        raise EnvironmentLacks(
            f"Some of what this campaign needs is missing:{''.join(lines)}", next_step="fix these, then run the command again"
        )


def images_of(jobs: Sequence[NodeJob]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(image directory, image) -> the arms that need it. The directory is empty if the cluster sets none."""
    arms: dict[tuple[str, str], dict[str, None]] = {}
    for job in jobs:
        for start in job.starts:
            for image in (recipe.image for recipe in start.recipe.started if recipe.image):
                arms.setdefault((job.image_dir, image), {})[job.arm.label] = None
    return {image: tuple(labels) for image, labels in arms.items()}


def _images(jobs: Sequence[NodeJob]) -> Iterator[Need]:
    pins = {file: pin for job in jobs for file, pin in job.sif_sha256.items()}
    for (directory, name), arms in images_of(jobs).items():
        if not directory:
            continue  # without image_dir, engines run from the node's PATH
        ref, is_seen = reference(name), Path(directory).is_dir()
        sif = Path(directory) / ref.sif
        lacks = (lacking(Path(directory), ref, pins) or _open_to_others(Path(directory))) if is_seen else ""
        step = _how_to_get(ref, arms) if not lacks.endswith(OPEN) else f"chmod go-w {directory}"
        yield Need("image", name, str(sif), is_seen, lacks, step, arms, "" if lacks or not is_seen else _said(sif))


def _open_to_others(directory: Path) -> str:
    """Why other users could replace an image in this directory; empty if they cannot."""
    mode = directory.stat().st_mode
    return f"{directory} {OPEN}" if mode & 0o022 and not mode & 0o1000 else ""


def _how_to_get(ref: Reference, arms: Sequence[str]) -> str:
    return "`glm5bench images pull` with the same overrides" if ref.repository else "copy the file to this path"


def _said(sif: Path) -> str:
    record = read_record(sif)
    return f"{sif.stat().st_size / 2**30:,.1f} GiB, {record.oci_digest[:19] or 'digest unknown' if record else 'no record'}"


def _checkpoints(jobs: Sequence[NodeJob]) -> Iterator[Need]:
    wanted: dict[str, tuple[Checkpoint, dict[str, None]]] = {}
    for job in jobs:
        if Path(job.model_path).is_absolute() and not job.arm.engine.simulated:
            wanted.setdefault(job.model_path, (job.arm.checkpoint, {}))[1][job.arm.label] = None
    for path, (checkpoint, arms) in wanted.items():
        directory = Path(path)
        is_seen = _holds_something(
            directory.parent.parent
        )  # DIR of DIR/zai-org/GLM-5-FP8. An empty DIR may be the mount point of a disk that only the nodes have
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
