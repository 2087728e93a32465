"""A server's command inside its Apptainer image, and what the container can see of the node.

Input: the bound command, a SIF file, and the paths to show. Output: one `apptainer exec`, and the environment to run it in.
The container sees:

- the image and the GPUs (--nv or --rocm)
- the checkpoint (read-only) and the server's own folder
- a home directory that serves as the cache and outlives the server
- its own /tmp on the node, and a /dev/shm of half the memory (NCCL needs a large one)
- a process namespace that ends with the server

It sees nothing else of the host: not its home, and no environment except the recipe's. Secrets are passed through the environment or a
file, never through a command line. Runs as an ordinary user, without setuid.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..images.record import Record, lacking, read_record
from ..images.reference import Reference, reference
from ..values.groups import Hardware

PREFIX = "APPTAINERENV_"  # variables with this prefix are passed to the container in spite of --cleanenv
GPU_OPTION = {"nvidia": ["--nv"], "amd": ["--rocm"]}
APPTAINERS = 255  # Apptainer's exit code if it could not run the command at all
CACHE = "/glm5bench-cache"  # HOME in the container: engines store compiled kernels below it
CACHE_VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/.cache/torchinductor"}  # the default is in /tmp, which ends with the server


@dataclass(frozen=True)
class Image:
    """An image in the image directory, and the host paths that its server sees. `cache_root` outlives the job."""

    directory: Path
    name: str
    cache_root: Path
    binds: tuple[str, ...]
    pins: Mapping[str, str] = field(default_factory=dict)  # file name -> SHA-256 of the file; empty: nothing is pinned

    @property
    def reference(self) -> Reference:
        """The image's reference."""
        return reference(self.name)

    @property
    def sif(self) -> Path:
        """Its file."""
        return self.directory / self.reference.sif

    @property
    def record(self) -> Record | None:
        """The record of the file; None if it has none."""
        return read_record(self.sif)

    def cache(self, hardware: Hardware) -> Path:
        """The directory of kernels that exactly this image compiled for this GPU. Compilers write by renaming, so two jobs may share it."""
        record = self.record
        known = (record.oci_digest.partition(":")[2] or record.sif_sha256)[:12] if record else "unrecorded"
        return self.cache_root / f"{self.sif.stem}-{known}" / hardware.compute

    def lacks(self) -> str:
        """Why no server can be started from the image here; empty if one can."""
        if shutil.which("apptainer") is None:
            return "apptainer is not on PATH"
        return lacking(self.directory, self.reference, self.pins)


def inside(
    command: Sequence[str], image: Image, hardware: Hardware, *, reads: Sequence[str], folder: Path, scratch: Path, has_gpus: bool
) -> list[str]:
    """The command line that runs `command` inside the image.

    `reads`: files and directories that it may read; `folder`: where it may write; `scratch`: a directory on the node for its /tmp.
    """
    cache = image.cache(hardware)
    cache.mkdir(parents=True, exist_ok=True)
    gpus = GPU_OPTION.get(hardware.vendor, []) if has_gpus else []
    options = ["--pid", "--workdir", str(scratch), "--pwd", str(folder), *gpus]
    return executed(command, image, home=cache, binds=[f"{folder}:{folder}", *(f"{path}:{path}:ro" for path in reads)], options=options)


def executed(command: Sequence[str], image: Image, *, home: Path, binds: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """`apptainer exec` of a command that sees this home, these binds and the image's own binds, and nothing else of the node."""
    seen = [word for bind in (*binds, *image.binds) for word in ("--bind", bind)]
    kept = ["--cleanenv", "--no-eval", "--contain", "--home", f"{home}:{CACHE}"]
    return ["apptainer", "exec", *kept, *options, *seen, str(image.sif), *command]


def environment(inner: Mapping[str, str]) -> dict[str, str]:
    """The node's environment, with the container's variables, and without Apptainer's variables from the user's shell."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("APPTAINER", "SINGULARITY"))}
    kept = {k: v for k, v in os.environ.items() if k in ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_DROP_CAPS")}
    return {**own, **kept, **{f"{PREFIX}{name}": value for name, value in {**CACHE_VARIABLES, **inner}.items()}}
