"""The program as a user runs it: a process of its own, in a directory of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "engine=simulated", "engine.time_scale=20", "workload.isl_tokens=1024", "workload.osl_tokens=128",
    "workload.prompts_per_concurrency=2", "workload.warmups_per_concurrency=0", "telemetry_s=0",
)  # fmt: skip
PATIENCE_S = 60


def required(why_not: str) -> None:
    """Skips a test whose real part is missing here; CI has to have it."""
    if why_not and os.environ.get("CI") == "true":
        pytest.fail(f"CI has to run these: {why_not}")
    if why_not:
        pytest.skip(why_not)


def environment(tmp_path: Path) -> dict[str, str]:
    """A lock of its own, so that tests side by side do not wait for each other's machine lock."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "GLM5BENCH_LOCK_DIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}


def bench(tmp_path: Path, *arguments: str, timeout: float = PATIENCE_S, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `glm5bench ARGUMENTS` to its end in tmp_path."""
    return subprocess.run(
        [sys.executable, "-m", "glm5bench", *arguments],
        cwd=tmp_path,
        env={**environment(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def sweep(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A small simulated sweep named `c`, waited for."""
    return bench(tmp_path, "sweep", *SMALL, "name=c", "wait=true", *overrides)


def status(tmp_path: Path, name: str = "c") -> dict:
    """What `status --json` says."""
    return json.loads(bench(tmp_path, "status", "--json", str(tmp_path / "outputs" / name)).stdout)


def point_files(tmp_path: Path, name: str = "c") -> dict[str, float]:
    """Whole measurements and when they were written."""
    return {f.name: f.stat().st_mtime_ns for f in (tmp_path / "outputs" / name / "points").glob("*.h5")}


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> object:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def processes_of(tmp_path: Path) -> dict[int, str]:
    """Living processes whose command line names this directory, but for this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(tmp_path) in command and state not in "ZX":
            found[int(entry.name)] = command
    return found


def servers_of(tmp_path: Path) -> list[int]:
    """Simulated servers of this directory."""
    return [pid for pid, command in processes_of(tmp_path).items() if "glm5bench.simulator" in command]


def beats(tmp_path: Path, name: str = "c") -> list[dict]:
    """The heartbeats of all jobs."""
    files = (tmp_path / "outputs" / name / "jobs").glob("*/heartbeat.json")
    return [json.loads(f.read_text()) for f in files]


def kill_everything(tmp_path: Path) -> None:
    """kill -9 of every process of the campaign at one instant, but for servers and their guards."""
    for pid, command in processes_of(tmp_path).items():
        if "glm5bench.node.guard" not in command and "glm5bench.simulator" not in command:
            os.kill(pid, signal.SIGKILL)
