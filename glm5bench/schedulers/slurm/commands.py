"""Runs Slurm's commands and returns their output as plain values, one batched query per question. Only submitit's sbatch runs elsewhere.

None means no answer: the command is missing, the controller is down, or accounting is not available. A missing answer never means that
a job has ended. A job has ended only if the controller reports its end, or answers and does not list the job any more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .states import Told

TIMEOUT_S = 30.0  # without a controller, squeue retries for a minute

KEPT = ("SLURM_CONF",)
FOREIGN = (
    "SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SUBMITIT_",
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
)  # fmt: skip


def config() -> dict[str, str] | None:
    """The running configuration of the controller, or None if it does not answer."""
    said = _output(["scontrol", "show", "config"])
    if said is None:
        return None
    pairs = (line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def partitions() -> dict[str, dict[str, str]] | None:
    """Every partition with its settings from scontrol, or None if it does not answer."""
    said = _output(["scontrol", "--oneliner", "show", "partition"])
    if said is None:
        return None
    shown = [_words(line) for line in said.splitlines() if line.startswith("PartitionName=")]
    return {p["PartitionName"]: p for p in shown}


def max_time_min(partition: dict[str, str]) -> float | None:
    """The time limit of a partition in minutes. None if it is unlimited."""
    return _minutes(partition.get("MaxTime", "UNLIMITED"))


def partition_limits_min(partition_of: Mapping[str, str | None]) -> dict[str, float]:
    """The time limit in minutes of each name's partition (None: the default one). Empty if Slurm does not answer.

    Of a list of partitions (`a,b`) the longest limit counts, because Slurm starts the job in any of them that allows it.
    """
    shown = partitions() or {}
    default = [name for name, p in shown.items() if p.get("Default") == "YES"][:1]
    found = {}
    for name, partition in partition_of.items():
        limits = [max_time_min(shown[one]) for one in (partition.split(",") if partition else default) if one in shown]
        known = [limit for limit in limits if limit]
        if known and len(known) == len(limits):
            found[name] = max(known)
    return found


def _minutes(text: str) -> float | None:
    """Minutes of Slurm's D-HH:MM:SS. None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(g or 0) for g in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def nodes(partition: str | None) -> dict[str, tuple[str, str]] | None:
    """Every node of a partition (None: of all partitions) with its state and its gres."""
    where = ["--partition", partition] if partition else []
    said = _output(["sinfo", "--noheader", "--Node", *where, "--format=%N|%T|%G"])
    if said is None:
        return None
    return {name: (state, gres) for name, state, gres in (line.split("|", 2) for line in said.splitlines() if line.count("|") == 2)}


def queue(users: Iterable[str]) -> dict[str, Told] | None:
    """Every job of these users in squeue, with one entry per array task. Jobs that ended stay for some minutes (MinJobAge)."""
    said = _output(["squeue", "--noheader", "--all", "--states=all", "--array", _of(users), "--format=%i|%T|%N|%j|%r"])
    if said is None:
        return None
    rows = (line.split("|", 4) for line in said.splitlines() if line.count("|") >= 4)
    return {job: Told(state, node, reason, name) for job, state, node, name, reason in rows}


def cluster() -> str | None:
    """The name of the cluster that Slurm's commands on this machine use. None if its controller does not answer."""
    known = config()
    return known.get("ClusterName", "") if known is not None else None


def _of(users: Iterable[str]) -> str:
    return f"--user={','.join(sorted(users))}"


def accounting(job_ids: Sequence[str]) -> dict[str, Told] | None:
    """The accounting records of these jobs. A task that was cancelled while it was queued has no record."""
    if not job_ids:
        return {}
    masters = sorted({job.split("_")[0] for job in job_ids})
    what = ["--noheader", "--parsable2", "--allocations", "--format=JobID,State,NodeList,JobName"]
    said = _output(["sacct", *what, f"--jobs={','.join(masters)}"])
    if said is None:
        return None
    told = {}
    for line in said.splitlines():
        job, _, rest = line.partition("|")
        state, _, rest = rest.partition("|")
        node, _, name = rest.partition("|")
        for one in _tasks(job):
            told[one] = Told(state.split()[0] if state else "", "" if node == "None assigned" else node, "", name)
    return {job: told[job] for job in job_ids if job in told}


def _tasks(job: str) -> list[str]:
    """The task ids of a job id: `12_[3-5,7%2]` is 12_3, 12_4, 12_5, 12_7."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    tasks = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        tasks += [f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1)]
    return tasks


def find(name: str, user: str) -> list[str] | None:
    """The ids of the jobs and arrays with this exact name in squeue. They show whether sbatch accepted a submission."""
    said = _output(["squeue", "--noheader", "--all", "--states=all", "--array", _of([user]), f"--name={name}", "--format=%i"])
    return None if said is None else sorted({line.strip().split("_")[0] for line in said.splitlines() if line.strip()})


def find_ended(name: str, user: str, since: str) -> list[str]:
    """The ids of the jobs and arrays with this name that have ended, if accounting is available."""
    said = _output(
        ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID", f"--name={name}", f"--user={user}", f"-S{since}"]
    )
    return sorted({line.split("_")[0] for line in (said or "").splitlines() if line.strip()})


def cancel(job_ids: Sequence[str], name: str) -> str:
    """Ends the jobs of these ids that have this name. Returns the error message of scancel, or an empty text."""
    if not job_ids:
        return ""
    done = _run(["scancel", f"--name={name}", "--", *job_ids])
    return "scancel did not answer" if done is None else done.stderr.strip()


def requeue(job_id: str) -> str:
    """Requeues a running job. Returns the error message of scontrol, or an empty text."""
    done = _run(["scontrol", "requeue", job_id])
    return "scontrol did not answer" if done is None else done.stderr.strip()


def hostnames(nodes: str) -> tuple[str, ...]:
    """The names in Slurm's short form of a list of nodes, `h200-[1-2]`. Empty if Slurm gives no answer."""
    told = _output(["scontrol", "show", "hostnames", nodes]) if nodes else None
    return tuple((told or "").split())


def test_only(script: Path) -> str | None:
    """The answer of `sbatch --test-only` for a script. None if sbatch is missing or does not answer."""
    done = _run(["sbatch", "--test-only", str(script)])
    return None if done is None else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


def is_there() -> bool:
    """Whether this machine has Slurm's commands."""
    return all(shutil.which(program) for program in ("sbatch", "srun", "squeue", "scontrol", "scancel"))


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _output(command: list[str]) -> str | None:
    done = _run(command)
    return done.stdout if done is not None and done.returncode == 0 else None


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        text = {"encoding": "utf-8", "errors": "replace"}  # wrappers of a site write what they like
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, env=clean(os.environ), **text)  # type: ignore[call-overload,no-any-return]
    except (OSError, subprocess.TimeoutExpired):
        return None


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the user's options for Slurm commands and without the variables of a surrounding job.

    Otherwise a job that is sent from inside another job would use the array index and GPUs of that job.
    """
    return {k: v for k, v in environment.items() if k in KEPT or not k.startswith(FOREIGN)}
