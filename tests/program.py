"""Runs the program as a user does: in its own process and its own directory."""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Points of half a second and more: a stall of a busy machine is short beside them, so it does not make the point invalid.
SMALL = (
    "engine=simulated", "engine.time_scale=5", "workload.isl_tokens=1024", "workload.osl_tokens=128",
    "workload.prompts_per_concurrency=2", "workload.warmups_per_concurrency=0", "telemetry_s=0",
)  # fmt: skip
BUSY = {
    "shared_reads",
    "buffered_answers",
    "client_lag",
    "drift",
    "first_chunk",
    "simulator_lag",
}  # reason codes that a busy machine may add
PATIENCE_S = 300  # for what takes seconds on an idle machine


def required(why_not: str) -> None:
    """Skips a test if a real program that it needs is missing here. In CI it must be installed."""
    if why_not and os.environ.get("CI") == "true":
        pytest.fail(f"CI has to run these: {why_not}")
    if why_not:
        pytest.skip(why_not)


def environment(tmp_path: Path) -> dict[str, str]:
    """Sets a separate lock, so that parallel tests do not wait for each other's machine lock."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "GLM5BENCH_LOCK_DIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}


def bench(tmp_path: Path, *arguments: str, timeout: float = PATIENCE_S, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `glm5bench ARGUMENTS` to its end in tmp_path, in a fork of this process, which has already imported everything.

    If there are environment variables that Python itself may use, it is a new interpreter instead.
    """
    if variables.keys() <= {"PATH"}:
        return _forked(arguments, tmp_path, {**environment(tmp_path), **variables}, timeout)
    return subprocess.run(
        [sys.executable, "-m", "glm5bench", *arguments],
        cwd=tmp_path,
        env={**environment(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _forked(arguments: Sequence[str], folder: Path, variables: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    for module in ("campaign.sending", "schedulers.known", "archive.union", "report.campaign", "cli"):
        importlib.import_module(f"glm5bench.{module}")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            _be_the_program(arguments, folder, variables, out.fileno(), err.fileno())
        code = _waited_for(pid, arguments, timeout)
        told = [(stream.seek(0), stream.read().decode("utf-8", "replace"))[1] for stream in (out, err)]
    return subprocess.CompletedProcess(["glm5bench", *arguments], code, *told)


def _be_the_program(arguments: Sequence[str], folder: Path, variables: Mapping[str, str], out: int, err: int) -> NoReturn:
    code = 70
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.default_int_handler if name == signal.SIGINT else signal.SIG_DFL)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        for descriptor, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(descriptor, stream)
        sys.stdin, sys.stdout, sys.stderr = (open(i, mode, closefd=False) for i, mode in enumerate("rww"))  # noqa: SIM115
        sys.argv = ["glm5bench", *arguments]
        code = importlib.import_module("glm5bench.cli").main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _waited_for(pid: int, arguments: Sequence[str], timeout: float) -> int:
    """Its exit code. Raises TimeoutExpired, as `subprocess.run` does."""
    descriptor = os.pidfd_open(pid)
    try:
        is_over = bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)
    if not is_over:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not is_over:
        raise subprocess.TimeoutExpired(["glm5bench", *arguments], timeout)
    return code


def sweep(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A small simulated sweep named `c`, waited for. It is typed again if this machine was too busy to keep requests in flight."""
    for _ in range(3):
        done = bench(tmp_path, "sweep", *SMALL, "name=c", "wait=true", *overrides)
        if "concurrency_not_reached" not in done.stderr:
            break
    return done


def status(tmp_path: Path, name: str = "c") -> dict:
    """The output of `status --json`."""
    return json.loads(bench(tmp_path, "status", "--json", str(tmp_path / "outputs" / name)).stdout)


def point_files(tmp_path: Path, name: str = "c") -> dict[str, float]:
    """Complete measurements, and when they were written."""
    return {f.name: f.stat().st_mtime_ns for f in (tmp_path / "outputs" / name / "points").glob("*.h5")}


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> object:
    """Waits until the condition is true, and returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def processes_of(tmp_path: Path) -> dict[int, str]:
    """Running processes, except this one, whose command line contains this directory."""
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
    """Sends kill -9 to every process of the campaign at once, except servers and their guards."""
    for pid, command in processes_of(tmp_path).items():
        if "glm5bench.machine.guard" not in command and "glm5bench.simulator" not in command:
            os.kill(pid, signal.SIGKILL)
