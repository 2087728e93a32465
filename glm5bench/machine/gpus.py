"""The GPUs of this node according to the vendors' tools: whether they match the arm, and whether another process still uses them."""

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
IDLE_MIB = 2048  # a driver uses a few hundred itself


def shown() -> list[str]:
    """One line for each GPU of this host, from the vendors' tools; empty if there are no tools."""
    return [line for query in QUERIES.values() if shutil.which(query[0]) for line in lines(query)]


def wrong(hardware: Hardware, tp: int) -> str:
    """Why this host does not match the arm's hardware; empty if it does, and for hardware without GPUs."""
    if hardware.vendor not in QUERIES:
        return ""
    there = shown()
    if sum(bool(re.search(rf"\b{hardware.gpu_name}\b", line)) for line in there) >= tp:
        return ""
    return f"it needs {tp} {hardware.gpu_name} GPUs, but this node has {'; '.join(there) or 'none that nvidia-smi or rocm-smi shows'}"


def still_in_use(hardware: Hardware, is_stopped: Callable[[], bool]) -> str:
    """The same as `in_use`, after up to one minute for the previous job to release its memory; sooner if the job must stop."""
    deadline = time.monotonic() + FREE_S
    while (held := in_use(hardware)) and time.monotonic() < deadline and not is_stopped():
        time.sleep(1)
    return held


def in_use(hardware: Hardware) -> str:
    """The GPUs of this job whose memory is still in use; empty if all are free, or if it is unknown."""
    held = [f"GPU {name} holds {mib:,.0f} MiB" for name, mib in _memory_mib(hardware.vendor) if mib > IDLE_MIB]
    return ", ".join(held)


def visible(environment: Mapping[str, str]) -> list[str] | None:
    """The GPUs that the scheduler gave to the job, by number or UUID; None if no variable names them."""
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
            continue  # a heading, or a GPU that does not report this figure
        if names is None or index in names or any(uuid and name.startswith("GPU-") and uuid.startswith(name) for name in names):
            yield index, mib


def _nvidia(line: str) -> tuple[str, str, float]:
    index, uuid, mib = (part.strip() for part in line.split(","))
    return index, uuid, float(mib)


def _amd(line: str) -> tuple[str, str, float]:
    """`card0,309220868096,297123840`: the card, its memory in bytes, the bytes in use."""
    card, _, used = (part.strip() for part in line.split(",")[:3])
    return card.removeprefix("card"), "", float(used) / 2**20


def lines(command: list[str]) -> list[str]:
    """The lines that a command prints; none if it fails or does not finish within 30 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
