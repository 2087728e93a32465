"""The findings of `glm5bench doctor`: versions, output directory, images, checkpoints and scheduler of this cluster."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from ..checks.finding import Finding
from ..checks.needs import needs
from ..errors import EnvironmentLacks
from ..files import writable
from ..schedulers.known import scheduler
from ..values.cluster import Cluster
from ..values.point import NodeJob


def examine(outputs: Path, cluster: Cluster, hardware: Sequence[str], jobs: Sequence[NodeJob], *, is_probing: bool) -> list[Finding]:
    """All findings for these node jobs, in the order in which a campaign needs them."""
    found = [*_here(outputs, cluster), *(need.finding for need in needs(jobs))]
    return [*found, *scheduler(cluster).examined(cluster, hardware, outputs, jobs, is_probing=is_probing)]


def _here(outputs: Path, cluster: Cluster) -> Iterator[Finding]:
    yield Finding("versions", True, f"Python {sys.version.split()[0]}, submitit {version('submitit')}, {sys.executable}")
    try:
        with writable(outputs / "probe"):
            outputs.mkdir(parents=True, exist_ok=True)
            probe = outputs / f".probe-{secrets.token_hex(4)}"
            probe.write_text("x", encoding="utf-8")
            probe.unlink()
        free = shutil.disk_usage(outputs).free / 2**30
        yield Finding("output directory", True, f"{outputs} can be written, {free:,.0f} GiB free")
    except EnvironmentLacks as error:
        yield Finding("output directory", False, error.message, "set output_dir=... to a directory on a shared file system")
    if cluster.checkpoint_dir is not None:
        is_there = Path(cluster.checkpoint_dir).is_dir()
        said = f"{cluster.checkpoint_dir} is {'' if is_there else 'not '}visible from this machine"
        yield Finding("checkpoints", is_there or None, said, "" if is_there else "compute nodes may still see it: check them with --probe")
