"""Faults on a node: each fault has its class or verdict, fails only its point, and leaves no process running."""

import json
import os

import pytest
from program import SMALL, bench, point_files, processes_of, status, sweep, until


@pytest.mark.parametrize(
    ("fault", "code"),
    [("refuse:3", "failed_requests"), ("cut:3", "failed_requests"), ("short:3", "short_outputs"), ("lost:3", "failed_requests")],
)
def test_an_answer_that_is_not_whole_makes_the_point_invalid(tmp_path, fault, code):
    done = sweep(tmp_path, "concurrency=4", f"engine.fault='{fault}'")
    checked = json.loads(bench(tmp_path, "check", "--json", "outputs/c").stdout)

    assert done.returncode == 1
    assert {(p["validity"], p["reasons"][0]["code"]) for p in checked["points"]} == {("invalid", code)}  # a busy machine measures twice


def test_an_invalid_point_stays_in_the_archive_and_out_of_the_frontier(tmp_path):
    sweep(tmp_path, "concurrency=4", "engine.fault='short:3'")
    bench(tmp_path, "merge", "outputs", "-o", "all.h5")
    tables = json.loads(bench(tmp_path, "tables", "all.h5", "--format", "json").stdout)

    assert {p["validity"] for p in tables["points"]} == {"invalid"}
    assert tables["frontier"] == []


@pytest.mark.parametrize(
    ("fault", "override", "failure_class", "said"),
    [
        ("fail_start", "engine.start_timeout_s=30", "server_oom", "exit code 1"),
        ("slow_start:9000", "engine.start_timeout_s=1", "server_start_timeout", "not ready after 1 s"),
        ("die:4", "engine.start_timeout_s=30", "server_crash", "exit code 1"),
        ("panic:4", "engine.start_timeout_s=30", "server_crash", "Scheduler hit an exception"),
        ("hang:4", "engine.stall_timeout_s=1", "server_hung", "sent no token for 1 s"),
    ],
)
def test_a_server_that_fails_gives_the_point_its_class_and_the_log_s_end(tmp_path, fault, override, failure_class, said):
    done = sweep(tmp_path, "concurrency=4", f"engine.fault='{fault}'", override)
    point = status(tmp_path)["points"][0]

    assert done.returncode == 1
    assert (point["state"], point["failure_class"]) == ("failed", failure_class)
    assert said in point["message"]
    assert "next:" in point["message"]
    until(lambda: not processes_of(tmp_path), "the end of the job's controller")


def test_a_server_that_dies_is_started_again_and_finished_points_stay(tmp_path):
    sweep(tmp_path, "concurrency=1,2,4", "engine.fault='die:9'")

    states = {p["concurrency"]: p["state"] for p in status(tmp_path)["points"]}
    assert states[1] == states[2] == "done"
    assert len(point_files(tmp_path)) == 2


def test_a_server_that_never_starts_fails_all_its_points_and_is_loaded_once(tmp_path):
    sweep(tmp_path, "concurrency=1,2,4", "engine.fault='fail_start'")

    assert [p["failure_class"] for p in status(tmp_path)["points"]] == ["server_oom"] * 3
    (log,) = (tmp_path / "outputs/c/jobs").glob("*/*/server.log")
    assert log.read_text().count("Load weight begin") == 1


@pytest.mark.parametrize(("engine", "said"), [("vllm", "the program 'vllm' is not on PATH"), ("sglang", "has no module 'sglang'")])
def test_an_engine_that_is_not_installed_is_named(tmp_path, engine, said):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\nfor i in 0 1 2 3 4 5 6 7; do echo NVIDIA B200, 580.1, GPU-$i; done\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = bench(tmp_path, "sweep", f"engine={engine}", "speculative=off", "name=c", "cluster.executor=debug", PATH=path)

    assert done.returncode == 1
    assert said in done.stderr


def test_a_machine_without_the_arm_s_gpus_is_refused_at_once(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vllm").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "bin/vllm").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"

    done = bench(tmp_path, "sweep", "engine=vllm", "speculative=off", "name=c", "wait=true", PATH=path)

    assert done.returncode == 3
    assert "it needs 8 B200 GPUs" in done.stderr
    assert "hydra/launcher=slurm" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_fault_that_does_not_exist_is_refused_before_anything_starts(tmp_path):
    done = bench(tmp_path, "sweep", *SMALL, "name=c", "engine.fault='explode'")

    assert done.returncode == 2
    assert "explode" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_output_directory_that_cannot_be_written_is_exit_code_3(tmp_path):
    (tmp_path / "file").write_text("")

    done = bench(tmp_path, "sweep", *SMALL, f"output_dir={tmp_path}/file")

    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_the_api_key_is_left_nowhere(tmp_path):
    sweep(tmp_path, "concurrency=2")

    assert list((tmp_path / "outputs").rglob("api_key")) == []


def test_a_server_with_other_settings_fails_all_its_points_and_is_loaded_once(tmp_path):
    sweep(tmp_path, "hardware=b200", "concurrency=1,2,4", "engine.fault=settings", "retries=2")
    told = status(tmp_path)["points"]

    assert {(p["state"], p["failure_class"], p["attempts"]) for p in told} == {("failed", "server_settings", 1)}
    assert "--tensor-parallel-size 8 became 4" in told[0]["message"]
    assert sum(f.read_text().count("simulated server:") for f in tmp_path.glob("outputs/c/jobs/*/*/server.log")) == 1
