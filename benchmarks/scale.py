"""Measures how long `plan`, `status` and the submission of large campaigns take. Each runs in a separate process, as for a user.

python benchmarks/scale.py plan      100,000 points in 500 arms: wall time and peak memory.
python benchmarks/scale.py status    10,000 and 100,000 points, every point with its file, record and line in a job's list.
python benchmarks/scale.py submit    1,000 node jobs to the Slurm of tests/slurm, from the command to the last job accepted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "slurm"))
REPEATS = 3
ARMS = [
    "engine=simulated", "checkpoint=glm5_fp8", "hardware=h200,b200,b300,mi300x,mi355x", "tp=8", "speculative=mtp",
    "workload.isl_tokens=" + ",".join(str(1024 + 16 * i) for i in range(100)),
]  # fmt: skip
CONF = """\
id: scale
executor: slurm
checkpoint_dir: null
slurm: {gres: 'gpu:$GPUS', exclusive: false, cpus_per_task: 2, mem: 1G, max_time_min: 60}
hardware: {h200: {partition: h200}, b200: {partition: b200}, mi355x: {partition: mi355x}}
poll_s: 1
"""


def bench(*arguments: str, cwd: str, env: dict[str, str] | None = None) -> tuple[float, float, str]:
    """Seconds, peak MiB and standard error of one command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "glm5bench", *arguments]
    own = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, cwd=cwd, env=own, stdout=out, stderr=err)
        _, code, used = os.wait4(process.pid, 0)
        seconds, peak = time.perf_counter() - began, used.ru_maxrss / 1024
        process.returncode = os.waitstatus_to_exitcode(code)
        texts = [file.seek(0) or file.read() for file in (out, err)]
    assert process.returncode in (0, 1), texts[1]
    return seconds, peak, texts[0] or texts[1]


def plan() -> None:
    """Plans 100,000 points in 500 arms."""
    asked = [*ARMS, "concurrency=" + ",".join(str(c) for c in range(1, 201))]
    with tempfile.TemporaryDirectory() as folder:
        runs = [bench("plan", "--json", *asked, cwd=folder) for _ in range(REPEATS)]
    record = json.loads(runs[0][2])
    left_out = sum(lo["n_points"] for lo in record["left_out"])
    print(f"plan: {record['n_points']} points in {len(record['jobs'])} arms ({left_out} left out): {median(runs)}")


def median(runs: list[tuple[float, float, str]]) -> str:
    """The median time, all times, and the peak memory of the runs."""
    seconds = [s for s, _, _ in runs]
    return f"{statistics.median(seconds):.2f} s of {', '.join(f'{s:.2f}' for s in seconds)}; peak {max(p for _, p, _ in runs):.0f} MiB"


def status() -> None:
    """Runs `status` for campaigns that are nearly complete."""
    for n in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            campaign = _campaign(Path(folder), n)
            runs = [bench("status", str(campaign), cwd=folder) for _ in range(REPEATS)]
            print(f"status of {n} points: {median(runs)}\n  {runs[0][2].splitlines()[0]}")


def _campaign(folder: Path, n: int) -> Path:
    """A campaign of n points, 200 per arm, of which all but ten are measured. Files are as a job writes them, with dummy point files."""
    concurrencies = ",".join(str(c) for c in range(1, 201))
    isl = ",".join(str(1024 + 16 * i) for i in range(n // 200))
    asked = ["engine=simulated", "hardware=b200", f"workload.isl_tokens={isl}", f"concurrency={concurrencies}"]
    record = json.loads(bench("plan", "--json", *asked, cwd=str(folder))[2])
    campaign = folder / "c"
    (campaign / "points").mkdir(parents=True)
    (campaign / "plan.json").write_text(json.dumps(record))
    keys = [[p["key"] for start in job["starts"] for p in start["points"]] for job in record["jobs"]]
    for number, job_keys in enumerate(keys, start=1):
        lines = [_measured(campaign, key, str(number)) for key in job_keys[: 190 if number == 1 else 200]]
        (campaign / "jobs" / str(number)).mkdir(parents=True)
        (campaign / "jobs" / str(number) / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return campaign


def _measured(campaign: Path, key: str, job_id: str) -> dict[str, object]:
    path = campaign / "points" / f"{key}.1.h5"
    path.write_bytes(b"x")
    line = {
        "key": key, "attempt": 1, "status": "whole", "validity": "valid", "reasons": [], "node": "n1", "job_id": job_id,
        "seal": "0" * 64, "size_bytes": 1, "mtime_ns": path.stat().st_mtime_ns,
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(line))
    return line


def submit() -> None:
    """Submits 1,000 node jobs to partitions that accept jobs but do not start them."""
    from cluster import Cluster

    with tempfile.TemporaryDirectory(prefix="g5-") as base:
        cluster = Cluster(Path(base) / "s").up()
        try:
            for partition in ("h200", "b200", "mi355x"):
                cluster.run("scontrol", "update", f"partitionname={partition}", "state=down")
            runs = [_submitted(cluster, Path(base) / f"run{i}") for i in range(REPEATS)]
            print(f"sweep of 1,000 node jobs, until the last is accepted: {median(runs)}")
        finally:
            cluster.down()


def _submitted(cluster: object, folder: Path) -> tuple[float, float, str]:
    (folder / "conf" / "cluster").mkdir(parents=True)
    (folder / "conf" / "cluster" / "scale.yaml").write_text(CONF)
    isl = ",".join(str(1024 + 16 * i) for i in range(334))
    arms = ["engine=simulated", "tp=8", "hardware=h200,b200,mi355x", f"workload.isl_tokens={isl}", "concurrency=4,8,16,32,64"]
    asked = ["--config-dir", "conf", "hydra/launcher=slurm", "cluster=scale", *arms]
    made = bench("sweep", *asked, cwd=str(folder), env=cluster.env)
    ids = cluster.run("squeue", "-h", "-r", "-o", "%i").split()
    assert len(ids) == 1002, len(ids)
    cluster.run("scancel", *sorted({i.split("_")[0] for i in ids}))
    return made


if __name__ == "__main__":
    verbs = {"plan": plan, "status": status, "submit": submit}
    for verb in sys.argv[1:] or list(verbs):
        verbs[verb]()
