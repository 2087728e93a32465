"""One of several servers side by side on a node: its GPUs, its cores, and the memory close to them.

A lane uses a slice of the job's resources. Each lane gets the same number of GPUs, and cores in the order of their NUMA nodes, so that two
lanes on a node with two sockets get one socket each. Child processes inherit both. Memory is allocated near the core that first uses it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..values.point import NodeJob

VISIBLE = {"nvidia": ("CUDA_VISIBLE_DEVICES",), "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")}
NUMA = Path("/sys/devices/system/node")


def keep_to(lane: int, job: NodeJob) -> None:
    """Limits this process, and those that it starts, to the GPUs and cores of this lane."""
    names = _names(job)
    own = {names[0]: ",".join(slice_of(_devices(job), lane, job.lanes, job.arm.tp))}
    for name in {*names, *VISIBLE["nvidia"]}:  # HIP reads CUDA's variable too
        os.environ.pop(name, None)
    os.environ.update(own)
    os.sched_setaffinity(0, [int(core) for core in cores_of(lane, job.lanes)])


def visible_devices(job: NodeJob, first: int, n: int) -> dict[str, str]:
    """The variable that shows a server only these GPUs of the job on this node."""
    return {_names(job)[0]: ",".join(_devices(job)[first : first + n])}


def _names(job: NodeJob) -> tuple[str, ...]:
    return VISIBLE.get(job.arm.hardware.vendor, VISIBLE["nvidia"])


def _devices(job: NodeJob) -> list[str]:
    """The GPUs of the job on this node, as its environment names them."""
    given = next((os.environ[name] for name in (*_names(job), *VISIBLE["nvidia"]) if os.environ.get(name)), "")
    return given.split(",") if given else [str(i) for i in range(job.arm.hardware.gpus_per_node)]


def slice_of(devices: Sequence[str], lane: int, lanes: int, size: int) -> list[str]:
    """The lane's devices: `size` of them, not shared with any other lane."""
    own = list(devices[lane * size : (lane + 1) * size])
    if len(own) < size:
        raise ValueError(f"{len(devices)} GPUs are not enough for {lanes} lanes of {size}")
    return own


def cores_of(lane: int, lanes: int) -> list[int]:
    """The lane's share of the job's cores, in the order of their NUMA nodes; all cores if there are fewer cores than lanes."""
    allowed = os.sched_getaffinity(0)
    ordered = [core for group in _numa_nodes() for core in group if core in allowed]
    ordered += sorted(allowed - set(ordered))
    share = len(ordered) // lanes
    return ordered[lane * share : (lane + 1) * share] if share else ordered


def _numa_nodes() -> list[list[int]]:
    lists = sorted(NUMA.glob("node[0-9]*/cpulist"), key=lambda path: int(re.sub(r"\D", "", path.parent.name)))
    return [cores_in(path.read_text(encoding="utf-8")) for path in lists]


def cores_in(text: str) -> list[int]:
    """The core numbers in a kernel list: `0-3,8` is 0, 1, 2, 3, 8."""
    cores = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cores += list(range(int(first), int(last or first) + 1))
    return cores
