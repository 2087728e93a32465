"""Where and with what a measurement was made: host, GPUs, driver, versions, git state. Recorded beside the key, never in it."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from .. import __version__
from ..point import Hardware

GPU_QUERIES = {
    "nvidia": ["nvidia-smi", "--query-gpu=name,driver_version,uuid", "--format=csv,noheader"],
    "amd": ["rocm-smi", "--showproductname", "--csv"],
}


def provenance(job_id: str, container: str) -> dict[str, Any]:
    """What this host says of itself. `container`: the image file that the server runs from, or none."""
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
        "client": "httpx, one client a slot, user-space stamps, " + ("uvloop" if has_uvloop() else "asyncio"),
        "container": container,
        "executable": sys.executable,
    }


def has_uvloop() -> bool:
    """Whether the client's event loop is uvloop's."""
    return importlib.util.find_spec("uvloop") is not None


def gpus() -> list[str]:
    """What the vendors' tools on this host say of its GPUs, a line each; empty where there is none."""
    return [line for query in GPU_QUERIES.values() if shutil.which(query[0]) for line in _lines(query)]


def wrong_gpus(hardware: Hardware, tp: int) -> str:
    """Why this host cannot be what the arm says that it measures; empty where it can."""
    shown = gpus()
    if sum(bool(re.search(rf"\b{hardware.gpu_name}\b", line)) for line in shown) >= tp:
        return ""
    return f"it needs {tp} {hardware.gpu_name} GPUs, and this node has {'; '.join(shown) or 'none that nvidia-smi or rocm-smi shows'}"


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
