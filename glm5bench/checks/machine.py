"""Checks of a node before a node job loads weights: GPUs, driver, image, memory, disks, clock, file systems.

Input: a node job and the directory that it writes to. Output: findings, each with the fix. A finding that is not well ends the job early,
with the class `node_fault`, `image_missing` or `checkpoint_missing`. A finding is None if it could not be checked or if it is only a note.
`glm5bench doctor --probe` runs `python -m glm5bench.checks.machine JOB.json DIR` on a compute node, which prints the findings as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ..archive.layout import place_shift
from ..engines.known import adapter
from ..errors import EnvironmentLacks
from ..machine import gpus
from ..machine.checkpoint import found
from ..machine.container import Image, executed
from ..machine.container import environment as contained
from ..machine.programs import program_lacking
from ..values.plain import from_json
from ..values.point import Arm, NodeJob
from .finding import Finding

GIB = 2**30
SYS, INFINIBAND = Path("/sys"), "class/infiniband"
# oldest driver branch for each major CUDA version. Source: NVIDIA's CUDA compatibility document, tables of minor version compatibility
DRIVER_OF_CUDA = {11: 450, 12: 525, 13: 580}
SHM_GIB, DISK_GIB, RANK_GIB = 8, 10, 4  # below these, a note; below 1/100 (memory: 1/10), a fault
UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
INSIDE = """
echo "cuda=$CUDA_VERSION"
echo "rocm=$(cat /opt/rocm/.info/version 2>/dev/null)"
echo "compat=$(ls -d /usr/local/cuda*/compat 2>/dev/null | head -n 1)"
echo "nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" /usr/local/cuda/bin/nvcc 2>/dev/null | head -n 1)"
for p in python3 python; do command -v $p >/dev/null && $p -c "
import importlib.util, os
found = importlib.util.find_spec('deep_gemm')
folder = os.path.dirname(found.origin) if found and found.origin else ''
print('deep_gemm=' + folder)
print('cutlass=' + str(bool(folder) and os.path.isdir(os.path.join(folder, 'include', 'cutlass'))))
" && break; done
"""
INSIDE_S = 120.0


def findings(job: NodeJob, shared: Path) -> list[Finding]:
    """All findings, in the order in which a job needs them. `shared`: the directory that it writes points to. Takes some seconds."""
    real = not job.arm.engine.simulated
    return [
        _hdf5(),
        *_shared(shared),
        *_disks(job, needs_much=real),
        *_memory(job, needs_much=real),
        clock(),
        *(_real(job) if real else ()),
    ]


def _hdf5() -> Finding:
    """Whether HDF5 reports where it stores data. Without this, points cannot be written."""
    try:
        place_shift()
    except EnvironmentLacks as error:
        return Finding("HDF5", False, error.message, error.next_step or "")
    return Finding("HDF5", True, "it reports where it stores data")


def _real(job: NodeJob) -> Iterator[Finding]:
    arm = job.arm
    name = next((start.recipe.image for start in job.starts if start.recipe.image), "")
    cache = Path(job.cache_dir or tempfile.gettempdir())
    image = Image(Path(job.image_dir), name, cache, job.binds, job.sif_sha256) if job.image_dir and name else None
    if image is None:
        lacks = program_lacking(list(job.starts[0].recipe.started[0].argv))
        step = "run `glm5bench images pull` and set cluster.image_dir, or use engine=simulated"
        yield Finding("engine", not lacks, lacks or "found on the node's PATH", step if lacks else "", "image_missing")
    else:
        lacks = image.lacks()
        yield Finding(
            "image", not lacks, lacks or f"{image.sif}, {_digest(image)}", "`glm5bench images pull`" if lacks else "", "image_missing"
        )
        if not lacks:
            yield from _inside(job, image)
    yield from _gpus(job)
    if arm.nodes > 1 or arm.has_parts:
        yield from fabric(arm, SYS)
    path = Path(job.model_path)
    if path.is_absolute():
        seen = found(path, arm.checkpoint)
        said = seen.lacks or f"{seen.n_shards} files, {seen.size_bytes / GIB:,.0f} GiB, revision {seen.revision[:12] or 'unknown'}"
        yield Finding(
            "checkpoint",
            not seen.lacks,
            said,
            "download it, or set cluster.checkpoint_dir" if seen.lacks else "",
            "checkpoint_missing",
        )


def fabric(arm: Arm, sys_: Path) -> Iterator[Finding]:
    """Findings about the network between the nodes of a job. `sys_`: where sysfs is mounted."""
    ports = {
        f"{p.parts[-4]}:{p.parts[-2]}": p.read_text(encoding="ascii").strip() for p in sorted(sys_.glob(f"{INFINIBAND}/*/ports/*/state"))
    }
    active = [port for port, state in ports.items() if "ACTIVE" in state]
    idle = [port for port in ports if port not in active]
    if not active:
        said = f"no active port ({', '.join(ports)})" if ports else "no RDMA device: traffic between nodes uses TCP"
        yield Finding("RDMA", None, said, "ask the site for the fabric of these nodes")
    else:
        step = "name the active devices: engine.extra_args=[--disaggregation-ib-device,...]" if idle and arm.has_parts else ""
        yield Finding(
            "RDMA", None if idle else True, f"active: {', '.join(active)}" + (f"; inactive: {', '.join(idle)}" if idle else ""), step
        )
    if arm.hardware.vendor == "nvidia" and arm.has_parts and not (sys_ / "module" / "nvidia_peermem").is_dir():
        step = "load nvidia_peermem, unless the transfer backend registers GPU memory by DMA-BUF"
        yield Finding("nvidia_peermem", None, "not loaded: RDMA may be unable to read GPU memory, so that every transfer fails", step)


def _digest(image: Image) -> str:
    record = image.record
    return record.oci_digest[:19] if record and record.oci_digest else "digest unknown"


def _shared(directory: Path) -> Iterator[Finding]:
    """Whether a file can be written, renamed and read back, as points are."""
    name = directory / f".preflight-{secrets.token_hex(4)}"
    word = secrets.token_hex(8)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        name.write_text(word, encoding="utf-8")
        os.replace(name, f"{name}.renamed")
        came_back = Path(f"{name}.renamed").read_text(encoding="utf-8")
        Path(f"{name}.renamed").unlink()
        free = shutil.disk_usage(directory).free / GIB
    except OSError as error:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)
        yield Finding(
            "shared file system",
            False,
            f"{directory}: {error.strerror or error}",
            "set output_dir=... to a writable directory",
        )
        return
    yield Finding("shared file system", came_back == word, f"{directory}: write, rename and read test, {free:,.0f} GiB free")


def _disks(job: NodeJob, *, needs_much: bool) -> Iterator[Finding]:
    scratch = Path(tempfile.gettempdir())
    yield _space("local disk", scratch, DISK_GIB if needs_much else 0, "set TMPDIR to a larger disk in cluster.slurm.setup")
    if needs_much:
        yield _space("/dev/shm", Path("/dev/shm"), SHM_GIB, "ask the site for a larger /dev/shm: NCCL and the engines share memory in it")  # noqa: S108
    if job.stage_dir:
        yield _space("stage_dir", Path(job.stage_dir), 0, "set another cluster.stage_dir, or stage=none")


def _space(what: str, directory: Path, wanted_gib: float, next_step: str) -> Finding:
    try:
        free = shutil.disk_usage(next(p for p in (directory, *directory.parents) if p.exists())).free / GIB
    except OSError as error:
        return Finding(what, False, f"{directory}: {error.strerror or error}", next_step)
    is_well = False if free < wanted_gib / 100 else None if free < wanted_gib else True
    return Finding(what, is_well, f"{directory} has {free:,.1f} GiB free", "" if is_well else next_step)


def _memory(job: NodeJob, *, needs_much: bool) -> Iterator[Finding]:
    """The memory that the kernel reports as available. The job's own limit may be lower."""
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = int(told["MemAvailable"].split()[0]) * 1024 / GIB
    except (OSError, LookupError, ValueError) as error:
        yield Finding("memory", None, f"/proc/meminfo: {error}")
        return
    wanted = RANK_GIB * job.arm.gpus_on_a_node if needs_much else 0
    is_well = False if free < wanted / 10 else None if free < wanted else True
    yield Finding("memory", is_well, f"{free:,.0f} GiB are available", "" if is_well else "set cluster.slurm.mem, or use an exclusive node")


def clock() -> Finding:
    """Whether the wall clock is synchronised. Times of points on different nodes are compared by UTC only."""

    class Timex(ctypes.Structure):
        _fields_ = (("modes", ctypes.c_uint), *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
                    ("status", ctypes.c_int), ("rest", ctypes.c_char * 256))  # fmt: skip

    try:
        told = Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    except (OSError, AttributeError) as error:
        return Finding("clock", None, f"adjtimex: {error}")
    if state < 0:
        return Finding("clock", None, f"adjtimex: {os.strerror(ctypes.get_errno())}")
    if told.status & UNSYNCHRONISED:
        return Finding("clock", None, "it is not synchronised (adjtimex: unsynchronised)", "ask the site for chrony or ntpd")
    return Finding("clock", True, f"synchronised, to within {told.maxerror / 1e3:,.0f} ms")


def _gpus(job: NodeJob) -> Iterator[Finding]:
    h, n = job.arm.hardware, job.arm.gpus_on_a_node
    wrong = gpus.wrong(h, n)
    step = "use a node that has these GPUs" if wrong else ""
    yield Finding("GPUs", not wrong, wrong or f"{n} of {len(gpus.shown())} {h.gpu_name}", step)
    held = gpus.in_use(h)
    yield Finding("GPUs' memory", None if held else True, held or "it is free", "its user has a minute to end" if held else "")


def driver(branch: int, cuda: int, *, has_compat: bool = False) -> Finding:
    """Whether a driver of this branch runs programs of this CUDA version. An image may have compatibility libraries for older drivers."""
    needs = DRIVER_OF_CUDA.get(cuda)
    said = f"branch {branch}, the image has CUDA {cuda}" + (f", which needs {needs} or later" if needs else "")
    if needs is None or branch >= needs:
        return Finding("driver", None if needs is None else True, said)
    if has_compat:
        return Finding("driver", None, f"{said}, or the image's compatibility libraries")
    return Finding("driver", False, said, "use an image for an older CUDA (engine.image=...), or a node with a newer driver")


def _inside(job: NodeJob, image: Image) -> Iterator[Finding]:
    """Findings from inside the image: its CUDA or ROCm version, and whether DeepGEMM can compile in it."""
    with tempfile.TemporaryDirectory() as home:
        command = executed(["sh", "-c", INSIDE], image, home=Path(home), binds=[])
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSIDE_S, check=False, env=contained({}))
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding("inside the image", False, f"the image does not run: {error}", "run `glm5bench images verify`", "image_missing")
            return
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode and "cuda" not in told:
        words = " ".join(done.stderr.split()[-20:])
        yield Finding(
            "inside the image",
            False,
            f"the image does not run: {words}",
            "`glm5bench images verify`, then `apptainer exec` by hand",
            "image_missing",
        )
        return
    yield from inside(job, told)


def inside(job: NodeJob, told: dict[str, str]) -> Iterator[Finding]:
    """Findings from the values that the image printed: `cuda`, `compat`, `rocm`, `nvcc`, `deep_gemm`, `cutlass`."""
    vendor = job.arm.hardware.vendor
    has = {"nvidia": told.get("cuda", ""), "amd": told.get("rocm", "")}.get(vendor, "")
    kind = {"nvidia": "CUDA", "amd": "ROCm"}.get(vendor, "")
    if kind:
        yield Finding("inside the image", True if has else None, f"{kind} {has}" if has else f"its {kind} version is unknown")
    branch = next((m[1] for line in gpus.shown() if (m := re.search(r", (\d+)\.\d+", line))), "")
    cuda = re.match(r"(\d+)\.", told.get("cuda", ""))
    if vendor == "nvidia" and branch and cuda:
        yield driver(int(branch), int(cuda[1]), has_compat=bool(told.get("compat")))
    if "deep_gemm" not in adapter(job.arm.engine).needs(job):
        return
    nvcc, cutlass = told.get("nvcc", ""), told.get("cutlass") == "True"
    if not told.get("deep_gemm"):
        yield Finding("DeepGEMM", None, "the image has no package deep_gemm", "")
        return
    step = "use an image with the CUDA toolkit, or set SGLANG_ENABLE_JIT_DEEPGEMM=0 in engine.env"
    yield Finding(
        "nvcc", bool(nvcc), nvcc or "not found, but DeepGEMM needs it to compile its kernels", "" if nvcc else step, "image_missing"
    )
    yield Finding(
        "CUTLASS headers",
        cutlass,
        "in deep_gemm/include" if cutlass else "deep_gemm has none",
        "" if cutlass else step,
        "image_missing",
    )


def main(argv: Sequence[str]) -> int:
    """Prints the findings of this node as JSON."""
    job = from_json(NodeJob, Path(argv[0]).read_bytes())
    print(json.dumps([asdict(f) for f in findings(job, Path(argv[1]))]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
