"""Findings about Slurm for a campaign. A probe sends one short job to each partition, which reads a file that this machine wrote
and writes one back.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ...checks.finding import Finding
from ...directory import Campaign
from ...files import writable
from ...values.cluster import Cluster, Resources
from ...values.plain import canonical_json
from ...values.point import NodeJob
from . import commands as slurm
from .batch import Batch, command_script

PROBE_S = 600.0


def examined(cluster: Cluster, hardware: Sequence[str], outputs: Path, jobs: Sequence[NodeJob], *, is_probing: bool) -> Iterator[Finding]:
    """Findings about versions, limits, accounting, GPUs, and partitions compared with conf/cluster. With a probe, also about the nodes."""
    if not slurm.is_there():
        yield Finding("Slurm", False, "sbatch, srun, squeue, scontrol and scancel are not all on PATH", "run it on a login node")
        return
    config = slurm.config()
    if config is None:
        step = "run it on a login node; SLURM_CONF may have to point to the cluster's slurm.conf"
        yield Finding("controller", False, "no controller answers Slurm's commands (scontrol show config)", step)
        return
    yield Finding("Slurm", True, config.get("SLURM_VERSION", "version unknown"))
    yield Finding("controller", True, f"{config.get('ClusterName', '?')} on {config.get('SLURM_CONF', '?')}")
    limits = ("MaxArraySize", "MaxJobCount", "KillWait", "JobRequeue", "PreemptMode")
    yield Finding("limits", True, ", ".join(f"{name} {config[name]}" for name in limits if name in config))
    yield _accounting(config)
    yield _wckey(cluster, config)
    partitions = slurm.partitions() or {}
    for one in hardware:
        drivers = {job.arm.hardware.gpu_name.lower() for job in jobs if job.arm.hardware.id == one}
        yield from _hardware(one, cluster, partitions, {one, *drivers})
    if is_probing:
        for partition in dict.fromkeys(cluster.resources(one).partition for one in hardware):
            own = [h for h in hardware if cluster.resources(h).partition == partition]
            yield from _probe(outputs, cluster, own[0], next((job for job in jobs if job.arm.hardware.id == own[0]), None))
    else:
        yield Finding(
            "compute nodes",
            None,
            "not checked whether they see this output directory",
            "--probe checks it with a short job in each partition",
        )


def _accounting(config: dict[str, str]) -> Finding:
    storage = config.get("AccountingStorageType", "")
    if "none" in storage:
        return Finding("accounting", True, "not configured: status uses only files and squeue, which is enough")
    answers = slurm.accounting(["1"]) is not None
    said = "sacct answers" if answers else "sacct does not answer: only files show why a job ended"
    return Finding("accounting", True if answers else None, said)


def _wckey(cluster: Cluster, config: dict[str, str]) -> Finding:
    asked, tracked = cluster.slurm.wckey, config.get("TrackWCKey", "No").lower() == "yes"
    if asked and not tracked:
        return Finding("wckey", None, f"slurm.wckey is {asked}, but this cluster does not track wckeys", "set slurm.wckey: null")
    return Finding("wckey", True, f"slurm.wckey is {asked or 'not sent'}, the cluster {'tracks' if tracked else 'does not track'} wckeys")


def _hardware(hardware: str, cluster: Cluster, partitions: dict[str, dict[str, str]], names: Collection[str]) -> Iterator[Finding]:
    r = cluster.resources(hardware)
    if cluster.hardware and hardware not in cluster.hardware:
        yield Finding(
            f"{hardware}: settings", None, f"cluster.hardware has {', '.join(cluster.hardware)}, not {hardware}: cluster.slurm applies"
        )
    default = next((name for name, p in partitions.items() if p.get("Default") == "YES"), "")
    for named in (r.partition or default).split(","):  # sbatch's form for either of several
        yield from _partition(hardware, r, named, partitions, names)


def _partition(hardware: str, r: Resources, named: str, partitions: dict[str, dict[str, str]], names: Collection[str]) -> Iterator[Finding]:
    what = f"{hardware}: partition {named or '(no default)'}"
    partition = partitions.get(named)
    if partition is None:
        yield Finding(what, False, f"it does not exist; known: {', '.join(partitions)}", f"set cluster.hardware.{hardware}.partition")
        return
    longest = slurm.max_time_min(partition)
    said = f"{partition.get('State', '?')}, {partition.get('TotalNodes', '?')} nodes, longest job {partition.get('MaxTime', '?')}"
    over = [(name, value) for name, value in (("time_limit_min", r.time_limit_min), ("max_time_min", r.max_time_min)) if value]
    wrong = [f"{name} {value} is more" for name, value in over if longest is not None and value > longest]
    is_up = partition.get("State") == "UP"
    yield Finding(what, is_up and not wrong, "; ".join([said, *wrong]), f"change cluster.hardware.{hardware}.max_time_min" if wrong else "")
    yield from _gpus(hardware, r, named, names)


def _gpus(hardware: str, r: Resources, partition: str, names: Collection[str]) -> Iterator[Finding]:
    asked = r.gres or (r.gpus_per_node and f"gpu:{r.gpus_per_node}")
    shown = slurm.nodes(partition) or {}
    have = sorted({gres for _, gres in shown.values()})
    up = [name for name, (state, _) in shown.items() if not state.rstrip("*").startswith(("down", "drain", "fail", "maint"))]
    yield Finding(f"{hardware}: nodes", bool(up), f"{len(up)} of {len(shown)} are up", "" if up else "wait, or choose another partition")
    if not asked:
        is_well = True if r.exclusive else None
        yield Finding(f"{hardware}: GPUs", is_well, f"no gres is requested; the nodes have {', '.join(have) or 'none'}")
        return
    kind = asked.split(":")[1] if asked.count(":") > 1 else ""
    said = f"{asked} is requested, the nodes have {', '.join(have) or 'none'}"
    if not any("gpu" in gres and (kind in gres) for gres in have):
        yield Finding(f"{hardware}: GPUs", False, said, f"change cluster.hardware.{hardware}.gres")
        return
    models = _models([kind] if kind and not kind.isdigit() else have)
    if models and not any(name in models for name in names):
        step = f"request {hardware} GPUs in cluster.hardware.{hardware} (partition, gres), or choose hardware={sorted(models)[0]}"
        yield Finding(f"{hardware}: GPUs", False, f"{said}: these are {', '.join(sorted(models))}, not {hardware}", step)
    elif not models:
        yield Finding(f"{hardware}: GPUs", None, f"{said}; Slurm does not report their model", "--probe checks it on a node")
    else:
        yield Finding(f"{hardware}: GPUs", True, said)


def _models(gres: Sequence[str]) -> set[str]:
    """The GPU models in names of gres such as `gpu:nvidia_h200:8`, in the form of conf/hardware."""
    return {
        model for text in gres for model in re.findall(r"(?<![a-z0-9])((?:gb|gh|mi|[abhlv])[0-9]{2,3}[a-z]?)(?![a-z0-9])", text.lower())
    }


def _probe(outputs: Path, cluster: Cluster, hardware: str, job: NodeJob | None) -> Iterator[Finding]:
    """Findings from one task on one node of the partition. It copies a word within the output directory and then checks its node."""
    r = cluster.resources(hardware)
    word, folder = secrets.token_hex(8), outputs / f".probe-{secrets.token_hex(4)}"
    what = f"compute node of {r.partition or 'the default partition'}"
    there, python = shlex.quote(str(folder)), shlex.quote(sys.executable)
    checkpoint = f" && if [ -d {shlex.quote(cluster.checkpoint_dir)} ]; then echo checkpoints; fi" if cluster.checkpoint_dir else ""
    seen = f"cat {there}/login > {there}/node && hostname && {python} -c 'import glm5bench' && echo python{checkpoint}"
    if job is not None:
        seen += f" && {python} -m glm5bench.checks.machine {there}/job.json {there} > {there}/findings"
    probe = Batch(((),), hardware, 1, 1, 5, ())
    with writable(folder):
        folder.mkdir(parents=True)
        (folder / "login").write_text(word, encoding="utf-8")
        (folder / "job.json").write_text(canonical_json(job), encoding="utf-8")
        script = folder / "probe.sh"
        script.write_text(command_script(probe, cluster, Campaign(folder), "glm5bench-doctor", seen), encoding="utf-8")
    try:
        command = ["sbatch", "--wait", "--deadline=now+9minutes", f"--output={folder}/out", f"--error={folder}/err", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False, env=slurm.clean(os.environ))
        came_back, out, err, told = (_text(folder / name) for name in ("node", "out", "err", "findings"))
    except subprocess.TimeoutExpired:
        yield Finding(what, None, f"no node was free within {PROBE_S:g} s", "try again")
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if "Submitted batch job" not in done.stdout:
        yield Finding(
            what, False, f"sbatch refused the resources of conf/cluster: {' '.join(done.stderr.split())}", "cluster.slurm, cluster.hardware"
        )
        return
    lines = out.split()
    lacks = [] if came_back == word else [f"{outputs} is not the directory of this machine, or the job failed before it could write"]
    lacks += [] if "python" in lines else [f"{sys.executable} cannot import glm5bench there"]
    lacks += ["the checkpoints are not there"] if cluster.checkpoint_dir and "checkpoints" not in lines else []
    lacks += [" ".join(err.split()[-30:])] if lacks and err.strip() else []
    node = lines[0] if lines else "it"
    said = (
        f"{node}: {'; '.join(lacks)}"
        if lacks
        else f"{node} sees {outputs}, Python{' and the checkpoints' if cluster.checkpoint_dir else ''}"
    )
    yield Finding(what, not lacks, said, "use a shared file system, check cluster.slurm.setup" if lacks else "")
    if job is not None and told:
        yield from (Finding(**f).of_node(job.arm.hardware.id, node) for f in json.loads(told))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
