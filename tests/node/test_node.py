"""The parts of a node job that must work when processes are killed: guard, heartbeat, client."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import plan
from program import ROOT, until

from glm5bench.client.endpoint import redacted_deeply
from glm5bench.client.protocol import Patience, Protocol
from glm5bench.client.workload import prompts
from glm5bench.directory import Campaign
from glm5bench.errors import ServerError
from glm5bench.machine.guard import clean_up
from glm5bench.node import job
from glm5bench.node.command import Place
from glm5bench.node.heartbeat import Heartbeat, is_alive, process_started_ticks, read_beat
from glm5bench.node.log import Log
from glm5bench.node.measuring import flush
from glm5bench.node.progress import Progress
from glm5bench.node.server import Server, free_port, running
from glm5bench.recipe import bound
from glm5bench.settings.overrides import compose
from glm5bench.values.point import Point

FORKS = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""
STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up',flush=True); time.sleep(600)"


def guarded(folder: Path, *command: str) -> tuple[subprocess.Popen, int]:
    """A guard over the command, with its folder, and the end of the pipe that keeps it alive."""
    read, write = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-m", "glm5bench.machine.guard", str(read), "--clean", str(folder), str(folder / "none"), "", "--", *command],
        cwd=ROOT, pass_fds=(read,), start_new_session=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(read)
    return guard, write


def group(pgid: int) -> list[int]:
    """Living members of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == pgid and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def test_the_guard_ends_the_server_and_its_children_when_the_job_is_gone(tmp_path):
    guard, write = guarded(tmp_path, sys.executable, "-c", FORKS)
    with guard:
        assert guard.stdout.readline() == "up\n"
        until(lambda: len(group(guard.pid)) == 3, "guard, server and its child")

        os.close(write)  # as the kernel does when the job is killed

        guard.wait(timeout=30)
        until(lambda: not group(guard.pid), "the end of the group")


def test_the_guard_ends_with_the_server_s_exit_code(tmp_path):
    guard, write = guarded(tmp_path, sys.executable, "-c", "raise SystemExit(7)")
    with guard:
        assert guard.wait(timeout=30) == 7
    os.close(write)


def test_slurm_s_warning_to_every_process_ends_neither_guard_nor_server(tmp_path):
    guard, write = guarded(tmp_path, sys.executable, "-c", FORKS)
    with guard:
        assert guard.stdout.readline() == "up\n"
        os.killpg(guard.pid, signal.SIGUSR2)
        os.close(write)

        assert guard.wait(timeout=30) == 128 + signal.SIGTERM


def test_the_guard_kills_a_server_that_ignores_sigterm(tmp_path):
    short = "import glm5bench.machine.guard as g, sys; g.GRACE_S = 0.2; sys.exit(g.main(sys.argv[1:]))"
    read, write = os.pipe()
    command = [sys.executable, "-c", short, str(read), "--clean", str(tmp_path), "none", "", "--", sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=(read,), start_new_session=True, stdout=subprocess.PIPE, text=True) as guard:
        os.close(read)
        assert guard.stdout.readline() == "up\n"
        os.close(write)

        assert guard.wait(timeout=30) == 128 + signal.SIGKILL
        until(lambda: not group(guard.pid), "the end of the group")


def test_the_guard_leaves_no_key_and_no_temporary_file_of_a_server_whose_job_was_killed(tmp_path):
    folder, scratch = tmp_path / "f", tmp_path / "glm5bench-x"
    folder.mkdir(), scratch.mkdir()
    (folder / "api_key").write_text("s3cret")
    (folder / "server.log").write_bytes(b"50%\r100%\r\nargs: s3cret\n")
    (folder / "server.log").chmod(0o600)
    (scratch / "tmp").write_text("x")
    read, write = os.pipe()
    words = [sys.executable, "-m", "glm5bench.machine.guard", str(read), "--clean", str(folder), str(scratch), "", "--", "sleep", "600"]
    with subprocess.Popen(words, cwd=ROOT, pass_fds=(read,), start_new_session=True) as guard:
        os.close(read)
        os.close(write)
        guard.wait(timeout=30)

    assert [f.name for f in folder.iterdir()] == ["server.log"]
    assert (folder / "server.log").read_bytes() == b"50%\r100%\r\nargs: <redacted>\n"
    assert (folder / "server.log").stat().st_mode & 0o044
    assert not scratch.exists()


def test_the_guard_removes_no_directory_but_a_server_s_own(tmp_path):
    (tmp_path / "precious").mkdir()
    clean_up(str(tmp_path), str(tmp_path / "precious"))

    assert (tmp_path / "precious").is_dir()


def test_a_job_that_was_killed_is_not_alive_whatever_its_last_beat_says(tmp_path):
    with Heartbeat(tmp_path / "heartbeat.json", []) as heart:
        heart.phase("measuring")
        beat = read_beat(tmp_path / "heartbeat.json")
        assert is_alive(beat, beat.time_utc_s)
        beat.started_ticks += 1  # another process has this id now

        assert not is_alive(beat, beat.time_utc_s)


def test_a_silent_job_on_another_host_is_dead_after_a_while(tmp_path):
    with Heartbeat(tmp_path / "heartbeat.json", []):
        beat = read_beat(tmp_path / "heartbeat.json")
    beat.phase, beat.host = "measuring", "elsewhere"

    assert is_alive(beat, beat.time_utc_s + 30)
    assert not is_alive(beat, beat.time_utc_s + 3000)


def test_a_job_that_ended_says_so(tmp_path):
    with Heartbeat(tmp_path / "heartbeat.json", []):
        pass

    assert not is_alive(read_beat(tmp_path / "heartbeat.json"), 0.0)
    assert process_started_ticks(os.getpid()) > 0


@pytest.mark.parametrize("workload", ["8k1k", "8k2k"], ids=["completions", "chat"])
def test_the_client_counts_what_the_server_counts(tmp_path, workload):
    lengths = ("workload.isl_tokens=600", "workload.osl_tokens=90", "workload.prompts=10", "engine.time_scale=50")
    s = compose("engine=simulated", "hardware=h200", f"workload={workload}", *lengths)
    point = Point("k", "a", 3, 0, 0, 3)
    place = Place(tmp_path, "model", "here", lambda: False)

    with running(bound(s.arm, 3), s.arm, place) as server:
        before = server.get_json("/server_info")["internal_states"][0]
        _, measured = prompts(s.workload, point, "model")
        r = sent(server, s.workload, point).requests
        metrics = httpx.get(server.base_url + "/metrics").text

    assert before["peak_running_requests"] >= 0
    assert [f for f in tmp_path.rglob("*") if f.is_file() and server.api_key.encode() in f.read_bytes()] == []
    assert r.is_whole.all()
    assert r.prompt_tokens.tolist() == [p.prompt_tokens for p in measured]
    assert r.output_tokens.tolist() == r.asked_tokens.tolist()
    counted = float(next(line.split()[-1] for line in metrics.splitlines() if line.startswith("sglang:generation_tokens_total")))
    assert counted - r.output_tokens.sum() in range(1, 200)  # health checks and the smoke request
    assert int(r.chunk_tokens.sum()) == int(r.output_tokens.sum())
    assert (np.diff(r.chunk_offsets) > 0).all()
    assert ((r.sent_ns >= r.due_ns) & (r.first_token_ns > r.sent_ns) & (r.end_ns >= r.last_token_ns)).all()


def sent(server, workload, point):
    """The client's measurement of a point."""
    client = Protocol(server, "model", workload, point, Patience(60, server.alive_or_raise), lambda done, of: None)
    client.encode()
    return client.measure()


class _DiesLater:
    """A process that seems alive for a few more polls, because its guard has not noticed yet."""

    def __init__(self, looks):
        self.looks = looks

    def poll(self):
        self.looks -= 1
        return None if self.looks > 0 else 1


def server(tmp_path, process=None):
    """A server that seems to be started and does not answer."""
    arm = compose("engine=simulated").arm
    place = Place(tmp_path, "model", "here", lambda: False)
    return Server(f"http://127.0.0.1:{free_port()}", "s3cret", bound(arm, 1), arm, place, process, Log(tmp_path / "log", {}, [], str))


def test_a_key_that_a_server_repeats_is_kept_nowhere_of_what_it_says(tmp_path):
    ranks = [{"api_key": "s3cret", "argv": ["--api-key", "s3cret"]}, {"launch_command": "x --api-key s3cret"}]

    kept = redacted_deeply({"internal_states": ranks, "tp_size": 8, "admin_api_key": "other"}, server(tmp_path))

    assert "s3cret" not in str(kept)
    assert "other" not in str(kept)
    assert kept["tp_size"] == 8


def test_a_server_that_dies_between_two_points_is_a_crash_even_where_its_guard_lags(tmp_path):
    dead = server(tmp_path, _DiesLater(3))

    with pytest.raises(ServerError) as raised:
        flush(dead)

    assert raised.value.failure_class == "server_crash"


class _HearsLater(Progress):
    """A job that receives its signal a moment after its server, which received it first, has ended."""

    looks_after = 0
    is_server_gone = False

    def is_stopped(self):
        self.looks_after += self.is_server_gone
        if self.looks_after > 1:
            self.stopped("SIGTERM")
        return super().is_stopped()


@pytest.mark.parametrize(("progress", "failed", "left"), [(_HearsLater(), 0, 2), (Progress(), 2, 0)])
def test_a_server_that_hears_of_the_end_before_its_job_has_not_crashed(tmp_path, monkeypatch, progress, failed, left):
    @contextlib.contextmanager
    def gone(*_):
        progress.is_server_gone = True
        raise ServerError("The server ended by itself.", failure_class="server_crash")
        yield

    monkeypatch.setattr(job, "running", gone)
    monkeypatch.setattr("glm5bench.node.progress.SIGNALS_APART_S", 0.2)
    (made,) = plan([compose("engine=simulated", "concurrency=[1,2]")]).jobs
    campaign = Campaign(tmp_path)
    with Heartbeat(tmp_path / "heartbeat.json", []) as heart:
        job.run(campaign, made, "1", heart, progress, lambda key: False)

    assert (len(progress.failed), len(progress.left)) == (failed, left)
    assert sum(map(len, campaign.attempts(p.key for p in made.points).values())) == failed


YES = """
import http.server, sys
class Yes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Yes)
print(server.server_port, flush=True)
server.serve_forever()
"""  # a server that answers every request with success


def started(tmp_path, *argv):
    """The error of a server that runs this program."""
    arm = compose("engine=simulated", "engine.start_timeout_s=30").arm
    recipe = dataclasses.replace(bound(arm, 1), argv=("python3", *argv))
    with pytest.raises(ServerError) as raised, running(recipe, arm, Place(tmp_path, "model", "here", lambda: False)):
        pass
    return raised.value


def test_a_stranger_that_took_the_port_is_not_measured(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", YES, "0"], stdout=subprocess.PIPE, text=True) as stranger:
        port = int(stranger.stdout.readline())
        monkeypatch.setattr("glm5bench.node.server.free_port", lambda: port)
        try:
            error = started(tmp_path, "-c", "import time; time.sleep(600)")
        finally:
            stranger.kill()

    assert f"process {stranger.pid} listens on its port {port}" in str(error)
    assert error.failure_class == "foreign_listener"


def test_a_server_that_answers_everybody_is_not_measured(tmp_path):
    error = started(tmp_path, "-c", YES, "$PORT")

    assert "accepts a wrong key" in str(error)


def test_a_slow_disk_under_the_log_holds_no_stamp_up(tmp_path, monkeypatch):
    """The server is checked, and its log read, in a thread outside the event loop."""
    s = compose("engine=simulated", "workload.isl_tokens=600", "workload.osl_tokens=90", "workload.prompts=8", "engine.time_scale=4")
    looked = []
    with running(bound(s.arm, 2), s.arm, Place(tmp_path, "model", "here", lambda: False)) as server:
        look = server.log.look
        monkeypatch.setattr(server.log, "look", lambda: (looked.append(threading.current_thread()), look()))
        sent(server, s.workload, Point("k", "a", 2, 0, 0, 2))

    assert looked
    assert threading.main_thread() not in looked


EXCEPTION = """\
[2026-12-01 13:51:10 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "bootstrap.py", line 84, in _bind_threads_if_cpu
    return numa_utils.init_threads_binding(
AssertionError: SGLANG_CPU_OMP_THREADS_BIND is not set

[2026-12-01 13:51:10] Received sigquit from a child process. It usually means the child failed.
[2026-12-01 13:51:10] kill_process_tree called: parent_pid=22421, include_parent=True, pid=22421
"""


@pytest.mark.parametrize(
    ("log", "said", "where"),
    [
        (EXCEPTION, "is dead according to its log", "its log says: 'AssertionError: SGLANG_CPU_OMP_THREADS_BIND is not set'"),
        ("loading\n", "was ended by SIGKILL: usually the kernel", "last line: 'loading'"),
    ],
)
def test_an_engine_that_kills_itself_after_an_exception_did_not_run_out_of_memory(tmp_path, log, said, where):
    process = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    process.wait()
    found = server(tmp_path, process)
    found.log = Log(tmp_path / "log", {}, found.arm.engine.fatal, str)
    (tmp_path / "log").write_text(log)

    with pytest.raises(ServerError, match=said) as raised:
        found.alive_or_raise()
    assert where in raised.value.where
