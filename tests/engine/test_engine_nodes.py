"""One SGLang server of two nodes on a CPU: both run on this machine, and meet at the loopback interface. By hand: see test_engine.py."""

import os
import re
import signal
from pathlib import Path

import pytest
from program import beats, bench, processes_of, status, until
from test_engine import asked, points

pytestmark = pytest.mark.engine
WIDE = ("tp.size=2", "roles=wide")  # the CPU counts as a node with one GPU


def ranks(tmp_path):
    """What the log of each rank says about the number of nodes and its own."""
    logs = sorted((tmp_path / "outputs/c/jobs").glob("*/*.0/server-0.*/server.log"))
    return [re.findall(r"'(nnodes|node_rank|tp_size)': (\d+)", log.read_text()) for log in logs]


def test_a_real_server_over_two_nodes_is_valid_and_its_settings_are_those_asked(engines, tmp_path):
    overrides, env = asked(engines, "concurrency=1,4", "wait=true", *WIDE)
    done = bench(tmp_path, *overrides, timeout=400, **env)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [dict(told) for told in ranks(tmp_path)] == [{"tp_size": "2", "nnodes": "2", "node_rank": str(rank)} for rank in (0, 1)]
    for p in points(tmp_path):
        assert set(p.verdict().codes) <= {"power_gpu_missing", "few_waves"}
        assert (p.point["nodes"], p.point["gpus"], p.point["tp"]) == (2, 2, 2)
        counted = p.server["counted_tokens"]
        assert (counted["prompt_tokens"], counted["generation_tokens"]) == (p.requests.prompt_tokens.sum(), p.requests.output_tokens.sum())


def test_a_rank_that_is_killed_is_a_crash_that_names_its_cause_and_nothing_is_left_running(engines, tmp_path):
    overrides, env = asked(engines, "concurrency=4", "workload.prompts_per_concurrency=400", *WIDE)
    assert bench(tmp_path, *overrides, **env).returncode == 0
    until(lambda: any(b["phase"] == "measuring" for b in beats(tmp_path)), "a measurement", 200)
    guards = [pid for pid, line in processes_of(tmp_path).items() if "with_key.py" in line and "server-0.1" in line]
    schedulers = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _is_scheduler_of(p, guards)]
    os.kill(schedulers[0], signal.SIGKILL)
    until(lambda: not status(tmp_path)["jobs"], "the end of the job", 90)

    (point,) = status(tmp_path)["points"]
    assert (point["state"], point["failure_class"]) == ("failed", "server_crash")
    until(lambda: not processes_of(tmp_path), "the end of every process")


def _is_scheduler_of(process, guards):
    try:
        return b"sglang::schedul" in (process / "cmdline").read_bytes() and os.getsid(int(process.name)) in map(os.getsid, guards)
    except OSError:
        return False
