"""The GPUs of this node, as the vendors' tools show them: whether they are the arm's, and whether anybody still uses them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

from ..values.groups import Hardware

QUERIES = {
    "nvidia": ["nvidia-smi", "--query-gpu=name,driver_version,uuid", "--format=csv,noheader"],
    "amd": ["rocm-smi", "--showproductname", "--csv"],
}
MEMORY_QUERIES = {
    "nvidia": ["nvidia-smi", "--query-gpu=index,uuid,memory.used", "--format=csv,noheader,nounits"],
    "amd": ["rocm-smi", "--showmeminfo", "vram", "--csv"],
}
VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
FREE_S = 60.0
IDLE_MIB = 2048  # a driver keeps some hundred for itself


def shown() -> list[str]:
    """What the vendors' tools on this host say of its GPUs, a line each; empty where there is none."""
    return [line for query in QUERIES.values() if shutil.which(query[0]) for line in lines(query)]


def wrong(hardware: Hardware, tp: int) -> str:
    """Why this host cannot be what the arm says that it measures; empty where it can, and for hardware without GPUs."""
    if hardware.vendor not in QUERIES:
        return ""
    there = shown()
    if sum(bool(re.search(rf"\b{hardware.gpu_name}\b", line)) for line in there) >= tp:
        return ""
    return f"it needs {tp} {hardware.gpu_name} GPUs, and this node has {'; '.join(there) or 'none that nvidia-smi or rocm-smi shows'}"


def still_in_use(hardware: Hardware, is_stopped: Callable[[], bool]) -> str:
    """The same, after a minute at most for the last owner's memory to be given back; sooner where the job is told to stop."""
    deadline = time.monotonic() + FREE_S
    while (held := in_use(hardware)) and time.monotonic() < deadline and not is_stopped():
        time.sleep(1)
    return held


def in_use(hardware: Hardware) -> str:
    """Which of the GPUs that this job may use still hold memory of somebody's; empty where all are free or nobody tells."""
    held = [f"GPU {name} holds {mib:,.0f} MiB" for name, mib in _memory_mib(hardware.vendor) if mib > IDLE_MIB]
    return ", ".join(held)


def visible(environment: Mapping[str, str]) -> list[str] | None:
    """What a job may use, by number or UUID, as its scheduler says; None where nobody says."""
    return next(([n.strip() for n in environment[name].split(",")] for name in VARIABLES if environment.get(name)), None)


def _memory_mib(vendor: str) -> Iterator[tuple[str, float]]:
    query = MEMORY_QUERIES.get(vendor)
    if query is None or not shutil.which(query[0]):
        return
    names = visible(os.environ)
    read: Callable[[str], tuple[str, str, float]] = _nvidia if vendor == "nvidia" else _amd
    for line in lines(query):
        try:
            index, uuid, mib = read(line)
        except (ValueError, IndexError):
            continue  # a heading, or a figure that this GPU does not give
        if names is None or index in names or any(uuid and name.startswith("GPU-") and uuid.startswith(name) for name in names):
            yield index, mib


def _nvidia(line: str) -> tuple[str, str, float]:
    index, uuid, mib = (part.strip() for part in line.split(","))
    return index, uuid, float(mib)


def _amd(line: str) -> tuple[str, str, float]:
    """`card0,309220868096,297123840`: the card, the bytes that it has, the bytes in use."""
    card, _, used = (part.strip() for part in line.split(",")[:3])
    return card.removeprefix("card"), "", float(used) / 2**20


def lines(command: list[str]) -> list[str]:
    """The lines that a command prints; none where it fails or does not answer within half a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
