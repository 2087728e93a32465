"""A sweep from start to end: real processes, real HTTP, real files, and the simulated server."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from program import BUSY, SMALL, beats, bench, environment, kill_everything, point_files, processes_of, servers_of, status, sweep, until

from glm5bench.archive.pointfile import read_point
from glm5bench.archive.summary import summary


def test_a_sweep_measures_merges_and_prints_its_tables(tmp_path):
    done = sweep(tmp_path, "concurrency=2,4")

    assert done.returncode == 0, done.stderr
    assert "Frontier: " in done.stdout
    assert "simulated ×5" in done.stdout
    assert (tmp_path / "outputs/c/archive.h5").is_file()
    assert status(tmp_path)["counts"] == {"done": 2}


def test_a_sweep_comes_back_at_once_with_its_directory(tmp_path):
    done = bench(tmp_path, "sweep", *SMALL, "name=c")

    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "outputs/c"))
    until(lambda: status(tmp_path)["complete"], "the end of the campaign")


def test_a_second_run_measures_nothing(tmp_path):
    sweep(tmp_path, "concurrency=2,4")
    before = point_files(tmp_path)

    again = sweep(tmp_path, "concurrency=2,4")

    assert again.returncode == 0
    assert point_files(tmp_path) == before
    assert "Nothing to submit" in again.stderr


def test_one_server_start_serves_an_arm_and_point_scope_starts_one_for_each(tmp_path):
    sweep(tmp_path, "concurrency=2,3")
    bench(tmp_path, "sweep", *SMALL, "name=p", "wait=true", "concurrency=2,3", "server_scope=point")

    def starts(name):
        return len(list((tmp_path / "outputs" / name / "jobs").glob("*/*/server.log")))

    assert (starts("c"), starts("p")) == (1, 2)


def test_a_sweep_whose_output_somebody_reads_comes_back_while_its_job_runs(tmp_path):
    done = bench(tmp_path, "sweep", *SMALL, "name=c", "concurrency=2", "engine.fault='slow_start:9000'", "engine.start_timeout_s=300")
    live = status(tmp_path)["jobs"]
    cancelled = bench(tmp_path, "cancel", "outputs/c")  # the job has hardly started: submitit still ignores SIGTERM

    assert done.returncode == 0, done.stderr
    assert len(live) == 1
    assert "Ended" in cancelled.stderr


def test_the_debug_executor_measures_in_the_foreground(tmp_path):
    done = bench(tmp_path, "sweep", *SMALL, "name=c", "cluster.executor=debug")

    assert done.returncode == 0, done.stderr
    assert status(tmp_path)["complete"]


@pytest.mark.parametrize("instant", ["before the server is ready", "before the first point", "after some points"])
def test_a_sweep_killed_at_any_instant_and_typed_again_measures_only_what_is_missing(tmp_path, instant):
    overrides = [*SMALL, "name=c", "wait=true", "concurrency=2,3,4,5", "workload.prompts_per_concurrency=6"]
    command = [sys.executable, "-m", "glm5bench", "sweep", *overrides, f"output_dir={tmp_path}/outputs"]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    conditions = {
        "before the server is ready": lambda: any(b["phase"] == "loading" for b in beats(tmp_path)),
        "before the first point": lambda: servers_of(tmp_path),
        "after some points": lambda: len(point_files(tmp_path)) >= random.Random(os.getpid()).randint(1, 2),
    }
    until(conditions[instant], instant)
    kill_everything(tmp_path)
    first.wait()
    until(lambda: not processes_of(tmp_path), "the end of every process: a server outlived its job")
    survived = point_files(tmp_path)

    again = bench(tmp_path, "sweep", *overrides)

    assert again.returncode == 0, again.stderr
    after = point_files(tmp_path)
    assert {name: after[name] for name in survived} == survived
    assert len(after) == 4


def test_a_sweep_typed_twice_at_once_measures_every_point_once(tmp_path):
    overrides = [*SMALL, "name=c", "wait=true", "concurrency=2,3"]
    command = [sys.executable, "-m", "glm5bench", "sweep", *overrides]
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    with contextlib.ExitStack() as opened:
        both = [
            subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=-3, stderr=opened.enter_context(log.open("w")))
            for log in logs
        ]
        codes = [p.wait() for p in both]

    said = [log.read_text() for log in logs]
    assert codes == [0, 0] or all("concurrency_not_reached" in text for text in said), said  # on a busy machine points are invalid
    assert len(point_files(tmp_path)) == 2


def test_cancel_ends_the_jobs_and_keeps_what_is_measured(tmp_path):
    bench(tmp_path, "sweep", *SMALL, "name=c", "concurrency=2,3,4", "workload.prompts_per_concurrency=20")
    until(lambda: point_files(tmp_path), "the first point")

    ended = bench(tmp_path, "cancel", "outputs/c")

    assert ended.returncode == 0, ended.stderr
    until(lambda: not processes_of(tmp_path), "the end of every process")
    assert status(tmp_path)["counts"]["done"] == len(point_files(tmp_path)) >= 1


def test_ctrl_c_while_waiting_leaves_the_jobs_to_go_on(tmp_path):
    command = [sys.executable, "-m", "glm5bench", "sweep", *SMALL, "name=c", "wait=true", "concurrency=2,3"]
    waiting = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  a shell's background job ignores it
    )
    until(lambda: servers_of(tmp_path), "the server")
    os.killpg(waiting.pid, signal.SIGINT)
    _, said = waiting.communicate()

    assert waiting.returncode == 130
    assert "The jobs continue" in said
    until(lambda: status(tmp_path)["complete"], "the end of the campaign")


def test_other_points_under_the_same_name_are_refused(tmp_path):
    sweep(tmp_path, "concurrency=2")

    other = sweep(tmp_path, "concurrency=3")

    assert other.returncode == 2
    assert "name=" in other.stderr


def test_the_same_point_has_the_same_key_in_another_directory(tmp_path):
    sweep(tmp_path, "concurrency=2")
    bench(tmp_path, "sweep", *SMALL, "name=d", "output_dir=elsewhere", "wait=true", "concurrency=2")

    assert set(point_files(tmp_path)) == {f.name for f in (tmp_path / "elsewhere/d/points").glob("*.h5")}


def test_two_campaigns_merge_into_one_archive(tmp_path):
    sweep(tmp_path, "concurrency=2")
    bench(tmp_path, "sweep", *SMALL, "name=d", "wait=true", "concurrency=3")

    merged = bench(tmp_path, "merge", "outputs", "-o", "both.h5")
    tables = json.loads(bench(tmp_path, "tables", "both.h5", "published", "--format", "json").stdout)

    assert merged.returncode == 0, merged.stderr
    assert sorted(p["concurrency"] for p in tables["points"] if p["source"] == "simulated") == [2, 3]
    assert {p["source"] for p in tables["points"]} == {"simulated", "published"}
    assert tables == json.loads(bench(tmp_path, "tables", "outputs", "published", "--format", "json").stdout)


def test_the_tables_at_the_end_are_made_with_the_prices_that_were_asked_for(tmp_path):
    done = sweep(tmp_path, "concurrency=2", "price=own", "price.usd_per_gpu_h.b200=100")

    assert "prices: own" in done.stdout


def test_more_patience_is_no_other_campaign(tmp_path):
    bench(tmp_path, "sweep", *SMALL, "wait=true", "concurrency=2", "engine.fault='slow_start:9000'", "engine.start_timeout_s=0.5")
    again = bench(tmp_path, "sweep", *SMALL, "concurrency=2", "engine.fault='slow_start:9000'", "engine.start_timeout_s=2", "wait=true")

    assert len(list((tmp_path / "outputs").iterdir())) == 1
    assert "not ready after 2 s" in again.stderr


def test_a_point_holds_what_was_read_beside_its_load(tmp_path):
    done = sweep(tmp_path, "hardware=b200", "concurrency=4", "telemetry_s=1", "workload.prompts_per_concurrency=6")
    (m,) = (read_point(f)[0] for f in (tmp_path / "outputs/c/points").glob("*.h5"))
    s = summary(m, m.digest())
    devices = [d["uuid"] for d in m.provenance["telemetry"]["devices"]]

    assert done.returncode == 0, done.stderr
    assert devices == [f"GPU-simulated-{i}" for i in range(8)]
    assert set(m.verdict().codes) <= BUSY
    assert m.telemetry.curves("power").keys() == set(devices)
    assert s["gpu_power_w"] == pytest.approx(0.4 * 2170, rel=0.15)
    assert s["energy_j"] == pytest.approx(s["gpu_power_w"] * 8 * s["duration_s"])
    assert s["acceptance_length"] == pytest.approx(m.server["acceptance_length"], rel=0.05)
    assert 2 <= s["running_mean"] <= 4  # a busy machine starts some requests late
    assert s["kv_tokens"] == s["kv_tokens_predicted"] > 0
    assert s["start_s"] > s["load_s"] > 0
    assert m.server["startup"]["weights_gib"] == pytest.approx(89.8, rel=0.05)
    assert "Energy of the frontiers' points" in bench(tmp_path, "tables", "outputs/c", "--all").stdout
    assert "of its start" not in done.stdout


def test_merge_reports_the_planned_points_that_are_not_measured(tmp_path):
    sweep(tmp_path, "concurrency=1,2", "engine.fault='die:3'")
    done = bench(tmp_path, "merge", "outputs/c", "published", "-o", "all.h5")

    assert " of 2 planned points are not measured:" in done.stderr
    assert "b200 glm5_fp8 tp8 mtp simulated 1024/128, concurrency " in done.stderr
    assert "resubmit outputs/c` measures what can be measured" in done.stderr
