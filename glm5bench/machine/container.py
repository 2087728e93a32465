"""A server's command inside its Apptainer image: what of the node it sees, and what it does not.

Enters: the bound command, a SIF file, and what is to be seen. Leaves: one `apptainer exec`, and the environment to run it in. Inside are
the image, the GPUs (--nv or --rocm), the checkpoint (read-only), the server's own folder, a home that is the cache and outlives it, a
/tmp of its own on the node, a /dev/shm of half the memory (NCCL wants a large one), a process namespace that ends with the server, and
nothing else of the host: not its home, no environment but the recipe's. What is secret goes through the environment or a file, never
through a command line. As an ordinary user, without setuid.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..images.record import Record, lacking, read_record
from ..images.reference import Reference, reference
from ..values.groups import Hardware

PREFIX = "APPTAINERENV_"  # a variable of this name reaches the inside in spite of --cleanenv
GPU_OPTION = {"nvidia": ["--nv"], "amd": ["--rocm"]}
APPTAINERS = 255  # its exit code where it could not run the command at all
CACHE = "/glm5bench-cache"  # HOME inside: engines keep compiled kernels below it
CACHE_VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/.cache/torchinductor"}  # else below /tmp, which ends with the server


@dataclass(frozen=True)
class Image:
    """An image of the image directory, and what of the node its server is shown. `cache_root` outlives the job."""

    directory: Path
    name: str
    cache_root: Path
    binds: tuple[str, ...]

    @property
    def reference(self) -> Reference:
        """What the image is called."""
        return reference(self.name)

    @property
    def sif(self) -> Path:
        """Its file."""
        return self.directory / self.reference.sif

    @property
    def record(self) -> Record | None:
        """What is known of the file."""
        return read_record(self.sif)

    def cache(self, hardware: Hardware) -> Path:
        """Where kernels that were compiled by exactly this image for this GPU stay. Compilers rename into it: two jobs may share it."""
        record = self.record
        known = (record.oci_digest.partition(":")[2] or record.sif_sha256)[:12] if record else "unrecorded"
        return self.cache_root / f"{self.sif.stem}-{known}" / hardware.compute

    def lacks(self) -> str:
        """Why nothing can be started from it here; empty where it can."""
        if shutil.which("apptainer") is None:
            return "there is no apptainer on PATH"
        return lacking(self.directory, self.reference)


def inside(
    command: Sequence[str], image: Image, hardware: Hardware, *, reads: Sequence[str], folder: Path, scratch: Path, has_gpus: bool
) -> list[str]:
    """The command that runs `command` inside the image.

    `reads`: files and directories that it may read; `folder`: where it may write; `scratch`: a directory of the node for its /tmp.
    """
    cache = image.cache(hardware)
    cache.mkdir(parents=True, exist_ok=True)
    gpus = GPU_OPTION.get(hardware.vendor, []) if has_gpus else []
    options = ["--pid", "--workdir", str(scratch), "--pwd", str(folder), *gpus]
    return executed(command, image, home=cache, binds=[f"{folder}:{folder}", *(f"{path}:{path}:ro" for path in reads)], options=options)


def executed(command: Sequence[str], image: Image, *, home: Path, binds: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """`apptainer exec` of a command that sees this home, these binds and the image's own, and nothing else of the node."""
    seen = [word for bind in (*binds, *image.binds) for word in ("--bind", bind)]
    kept = ["--cleanenv", "--no-eval", "--contain", "--home", f"{home}:{CACHE}"]
    return ["apptainer", "exec", *kept, *options, *seen, str(image.sif), *command]


def environment(inner: Mapping[str, str]) -> dict[str, str]:
    """The node's environment with what the inside gets and without what Apptainer would take from the user's shell."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("APPTAINER", "SINGULARITY"))}
    kept = {k: v for k, v in os.environ.items() if k in ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_DROP_CAPS")}
    return {**own, **kept, **{f"{PREFIX}{name}": value for name, value in {**CACHE_VARIABLES, **inner}.items()}}
