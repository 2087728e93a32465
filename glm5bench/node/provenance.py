"""Where and with what a measurement was made: host, GPUs, driver, versions, git state. Recorded beside the key, never in it."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from .. import __version__

GPU_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,uuid", "--format=csv,noheader"]


def provenance(job_id: str) -> dict[str, Any]:
    """What this host says of itself."""
    return {
        "host": socket.gethostname(),
        "job_id": job_id,
        "gpus": gpus(),
        "glm5bench": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "httpx": httpx.__version__,
        "numpy": np.__version__,
        "kernel": platform.release(),
        "client": "httpx, one client a slot, user-space stamps",
        "executable": sys.executable,
    }


def gpus() -> list[str]:
    """A line for each NVIDIA GPU of this host: name, driver, UUID; empty where there is none."""
    return _lines(GPU_QUERY) if shutil.which(GPU_QUERY[0]) else []


def git_state() -> str:
    """The commit of the package's checkout, `-dirty` where it was changed; empty where it is installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists() or not shutil.which("git"):
        return ""
    return next(iter(_lines(["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"])), "")


def _lines(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
