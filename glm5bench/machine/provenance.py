"""Where and with what a measurement was made: host, GPUs, driver, versions, git state. Recorded next to the key, never in it."""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from .. import __version__
from . import gpus
from .container import Image


def provenance(job_id: str, image: Image | None) -> dict[str, Any]:
    """Facts about this host, and the image file that the server runs from, with its record."""
    record = image.record if image is not None else None
    return {
        "host": socket.gethostname(),
        "job_id": job_id,
        "gpus": gpus.shown(),
        "glm5bench": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "httpx": httpx.__version__,
        "numpy": np.__version__,
        "kernel": platform.release(),
        "container": str(image.sif) if image is not None else "none",
        "image": asdict(record) if record is not None else {},
        "executable": sys.executable,
    }


def git_state() -> str:
    """The commit of the package's checkout, with `-dirty` if it was changed; empty if the package is installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists() or not shutil.which("git"):
        return ""
    return next(iter(gpus.lines(["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"])), "")
