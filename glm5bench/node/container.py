"""A server's command inside its Apptainer image: what of the node it sees, and what it does not.

Enters: the bound command, a SIF file, and what is to be seen. Leaves: one `apptainer exec`, and the environment to run it in. Inside are
the image, the GPUs (--nv or --rocm), the checkpoint (read-only), the server's own folder, a home that is the cache and outlives it, a
/dev/shm of half the memory (NCCL wants a large one), a process namespace that ends with the server, and nothing else of the host: not
its home, no environment but the recipe's. What is secret goes through the environment, never through a command line. As an ordinary
user, without setuid.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..point import Hardware

PREFIX = "APPTAINERENV_"  # a variable of this name reaches the inside in spite of --cleanenv
GPU_OPTION = {"nvidia": ["--nv"], "amd": ["--rocm"]}
APPTAINERS = 255  # its exit code where it could not run the command at all
CACHE = "/glm5bench-cache"  # HOME inside: engines keep compiled kernels below it


@dataclass(frozen=True)
class Image:
    """A SIF file, and what of the node its server is shown. `cache` outlives the job; empty: the image is none, the host's Python runs."""

    sif: str
    cache: str
    binds: tuple[str, ...]

    def lacks(self) -> str:
        """Why nothing can be started from it here; empty where it can."""
        if shutil.which("apptainer") is None:
            return "there is no apptainer on PATH"
        if not Path(self.sif).is_file():
            return f"there is no image {self.sif}"
        return ""


def sif_name(image: str) -> str:
    """The file of an image in the image directory: `vllm/vllm-openai:v0.16.0` is vllm_vllm-openai_v0.16.0.sif."""
    return image if image.endswith(".sif") else re.sub(r"[^A-Za-z0-9._-]+", "_", image.removeprefix("docker://")) + ".sif"


def inside(
    command: Sequence[str], image: Image, hardware: Hardware, *, reads: Sequence[str], folder: Path, is_simulated: bool
) -> list[str]:
    """The command that runs `command` inside the image. `reads`: directories that it may read; `folder`: where it may write."""
    cache, scratch = Path(image.cache) / hardware.compute, folder / "tmp"
    cache.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    binds = [f"{folder}:{folder}", *(f"{path}:{path}:ro" for path in reads), *image.binds]
    options = ["--cleanenv", "--contain", "--pid", "--home", f"{cache}:{CACHE}", "--workdir", str(scratch), "--pwd", str(folder)]
    gpus = [] if is_simulated else GPU_OPTION[hardware.vendor]
    return ["apptainer", "exec", *options, *gpus, *(word for bind in binds for word in ("--bind", bind)), image.sif, *command]


def environment(inner: Mapping[str, str]) -> dict[str, str]:
    """The node's environment with what the inside gets and without what Apptainer would take from the user's shell."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("APPTAINER", "SINGULARITY"))}
    kept = {k: v for k, v in os.environ.items() if k in ("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_DROP_CAPS")}
    return {**own, **kept, **{f"{PREFIX}{name}": value for name, value in inner.items()}}
