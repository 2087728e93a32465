"""What this Slurm has and lacks for a campaign. A probe sends one short job to each partition, which reads what this machine has written
and writes what this machine then reads.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
    """What this Slurm has and lacks: versions, limits, accounting, partitions against conf/cluster, GPUs; with a probe also its nodes."""
    if not slurm.is_there():
        yield Finding("Slurm", False, "sbatch, srun, squeue, scontrol and scancel are not all on PATH", "type it on a login node")
        return
    config = slurm.config()
    if config is None:
        step = "type it on a login node; SLURM_CONF may have to name the cluster's slurm.conf"
        yield Finding("controller", False, "Slurm's commands are here, and no controller answers them (scontrol show config)", step)
        return
    yield Finding("Slurm", True, config.get("SLURM_VERSION", "of no version"))
    yield Finding("controller", True, f"{config.get('ClusterName', '?')} on {config.get('SLURM_CONF', '?')}")
    limits = ("MaxArraySize", "MaxJobCount", "KillWait", "JobRequeue", "PreemptMode")
    yield Finding("limits", True, ", ".join(f"{name} {config[name]}" for name in limits if name in config))
    yield _accounting(config)
    yield _wckey(cluster, config)
    partitions = slurm.partitions() or {}
    for one in hardware:
        yield from _hardware(one, cluster, partitions)
    if is_probing:
        for partition in dict.fromkeys(cluster.resources(one).partition for one in hardware):
            own = [h for h in hardware if cluster.resources(h).partition == partition]
            yield from _probe(outputs, cluster, own[0], next((job for job in jobs if job.arm.hardware.id == own[0]), None))
    else:
        yield Finding(
            "compute nodes", None, "not asked whether they see this output directory", "--probe sends a short job to each partition"
        )


def _accounting(config: dict[str, str]) -> Finding:
    storage = config.get("AccountingStorageType", "")
    if "none" in storage:
        return Finding("accounting", True, "there is none: status tells from files and squeue alone, which is enough")
    answers = slurm.accounting(["1"]) is not None
    said = "sacct answers" if answers else "sacct does not answer: why a job ended is then told from files alone"
    return Finding("accounting", True if answers else None, said)


def _wckey(cluster: Cluster, config: dict[str, str]) -> Finding:
    asked, tracked = cluster.slurm.wckey, config.get("TrackWCKey", "No").lower() == "yes"
    if asked and not tracked:
        return Finding("wckey", None, f"slurm.wckey is {asked}, and this cluster tracks none", "slurm.wckey: null")
    return Finding("wckey", True, f"slurm.wckey is {asked or 'not sent'}, the cluster {'tracks' if tracked else 'does not track'} them")


def _hardware(hardware: str, cluster: Cluster, partitions: dict[str, dict[str, str]]) -> Iterator[Finding]:
    r = cluster.resources(hardware)
    if cluster.hardware and hardware not in cluster.hardware:
        yield Finding(f"{hardware}: settings", None, f"cluster.hardware names {', '.join(cluster.hardware)}, not {hardware}: slurm's hold")
    named = r.partition or next((name for name, p in partitions.items() if p.get("Default") == "YES"), "")
    what = f"{hardware}: partition {named or 'of no name'}"
    partition = partitions.get(named)
    if partition is None:
        yield Finding(what, False, f"there is none; there are {', '.join(partitions)}", f"cluster.hardware.{hardware}.partition")
        return
    longest = slurm.max_time_min(partition)
    said = f"{partition.get('State', '?')}, {partition.get('TotalNodes', '?')} nodes, longest job {partition.get('MaxTime', '?')}"
    over = [(name, value) for name, value in (("time_limit_min", r.time_limit_min), ("max_time_min", r.max_time_min)) if value]
    wrong = [f"{name} {value} is more" for name, value in over if longest is not None and value > longest]
    is_up = partition.get("State") == "UP"
    yield Finding(what, is_up and not wrong, "; ".join([said, *wrong]), f"cluster.hardware.{hardware}.max_time_min" if wrong else "")
    yield from _gpus(hardware, r, named)


def _gpus(hardware: str, r: Resources, partition: str) -> Iterator[Finding]:
    asked = r.gres or (r.gpus_per_node and f"gpu:{r.gpus_per_node}")
    shown = slurm.nodes(partition) or {}
    have = sorted({gres for _, gres in shown.values()})
    up = [name for name, (state, _) in shown.items() if not state.rstrip("*").startswith(("down", "drain", "fail", "maint"))]
    yield Finding(f"{hardware}: nodes", bool(up), f"{len(up)} of {len(shown)} are up", "" if up else "wait, or ask for another partition")
    if not asked:
        is_well = True if r.exclusive else None
        yield Finding(f"{hardware}: GPUs", is_well, f"no gres is asked for; the nodes have {', '.join(have) or 'none'}")
        return
    kind = asked.split(":")[1] if asked.count(":") > 1 else ""
    is_there = any("gpu" in gres and (kind in gres) for gres in have)
    said = f"{asked} is asked for, the nodes have {', '.join(have) or 'none'}"
    yield Finding(f"{hardware}: GPUs", is_there, said, "" if is_there else f"cluster.hardware.{hardware}.gres")


def _probe(outputs: Path, cluster: Cluster, hardware: str, job: NodeJob | None) -> Iterator[Finding]:
    """One task on one node of the partition reads a word from the output directory and writes it back beside; then it looks at its node."""
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
            what, False, f"sbatch refuses what conf/cluster asks for: {' '.join(done.stderr.split())}", "cluster.slurm, cluster.hardware"
        )
        return
    lines = out.split()
    lacks = [] if came_back == word else [f"{outputs} is not this machine's, or the job did not come so far"]
    lacks += [] if "python" in lines else [f"{sys.executable} does not run glm5bench there"]
    lacks += ["the checkpoints are not there"] if cluster.checkpoint_dir and "checkpoints" not in lines else []
    lacks += [" ".join(err.split()[-30:])] if lacks and err.strip() else []
    node = lines[0] if lines else "it"
    said = (
        f"{node}: {'; '.join(lacks)}"
        if lacks
        else f"{node} sees {outputs}, Python{' and the checkpoints' if cluster.checkpoint_dir else ''}"
    )
    yield Finding(what, not lacks, said, "a file system that both see, cluster.slurm.setup" if lacks else "")
    if job is not None and told:
        yield from (Finding(**f).of_node(job.arm.hardware.id, node) for f in json.loads(told))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
