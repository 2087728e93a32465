"""Live jobs, missing points and the last messages of dead jobs, from files and processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import compose, measured, plan

from glm5bench.archive.pointfile import write_point
from glm5bench.campaign.ending import cancel
from glm5bench.campaign.failure import missing
from glm5bench.campaign.jobs import Job, jobs, live_jobs
from glm5bench.campaign.lock import refuse_a_copy
from glm5bench.campaign.opening import opened, resolved_cluster
from glm5bench.campaign.status import status
from glm5bench.directory import Campaign
from glm5bench.errors import SettingsError, UsageError
from glm5bench.files import write_json
from glm5bench.node.command import environment
from glm5bench.node.heartbeat import Beat, Heartbeat, end_process, process_started_ticks
from glm5bench.node.progress import Progress
from glm5bench.schedulers.entry import LOCK_VARIABLE, record_an_earlier_run, run_request, spent_points, this_machine
from glm5bench.schedulers.known import schedulers
from glm5bench.schedulers.records import write_requests
from glm5bench.schedulers.request import End, Request
from glm5bench.schedulers.scheduler import How
from glm5bench.schedulers.slurm.submission import clean_environment
from glm5bench.schedulers.submissions import Sent
from glm5bench.values.plain import from_json

HOW = How(compose().cluster, compose().failure, 0)


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path / "c")


@pytest.fixture
def planned():
    return plan([compose("engine=simulated", "concurrency=[2,4]")])


def submitted(campaign, keys, *, pid=None, ago_s=0.0):
    pid = pid or os.getpid()
    at, ticks = time.time() - ago_s, process_started_ticks(pid)
    jobs = [{"requests": [["r.json"]], "keys": keys, "limit_s": 0}]
    same = {"name": f"c-{pid}", "executor": "local", "host": os.uname().nodename, "user": "me", "utc_s": at}
    campaign.append_submission({**same, "kind": "asked", "jobs": jobs})
    campaign.append_submission({"kind": "accepted", "name": f"c-{pid}", "job_ids": [str(pid)], "started_ticks": ticks, "utc_s": at})


def request(planned):
    (job,) = planned.jobs
    return Request(job, HOW.failure)


def died_at(campaign, key, *, phase="measuring"):
    """The last heartbeat of a run of job 7 on gpu3 that wrote no end record."""
    write_json(campaign.heartbeat("7"), asdict(Beat("gpu3", 1, 1, time.time(), phase, node="gpu3", key=key)))


def left(campaign, planned, found):
    """The points that `sweep` would send."""
    keys = [p.key for p in planned.points]
    return [m.key for m in missing(keys, campaign.attempts(keys), found, HOW.failure)]


def test_a_job_before_its_first_beat_is_alive_while_its_process_is(campaign):
    submitted(campaign, ["a"])

    assert [job.keys for job in live_jobs(campaign)] == [("a",)]


def test_the_last_beat_of_an_earlier_job_with_the_same_number_hides_no_new_one(campaign):
    with Heartbeat(campaign.heartbeat(str(os.getpid())), ["old"]):
        pass
    submitted(campaign, ["new"])

    assert [job.keys for job in live_jobs(campaign)] == [("new",)]


def test_a_job_whose_submission_was_never_recorded_is_found_by_its_beat(campaign):
    with Heartbeat(campaign.heartbeat("4242"), ["a", "b"]):
        assert [(job.job_id, job.keys) for job in live_jobs(campaign)] == [("4242", ("a", "b"))]


def test_a_job_that_only_its_heartbeat_names_is_cancelled_too(campaign):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "submitit.core._submit"]) as process:
        ticks = process_started_ticks(process.pid)
        beat = Beat(os.uname().nodename, process.pid, ticks, time.time(), "measuring", keys=["a"])
        write_json(campaign.heartbeat(str(process.pid)), asdict(beat))

        gone, still, said = cancel(campaign, poll_s=0, patience_s=30)
        process.kill()  # has no effect if `cancel` has ended the process
        code = process.wait()

    assert (gone, still, said) == ([str(process.pid)], [], "")
    assert code == -signal.SIGTERM


@pytest.mark.parametrize("wrong", ["another program", "another start"])
def test_a_process_that_a_heartbeat_names_and_that_is_no_job_is_never_ended(campaign, wrong):
    command = ["sleep", "600"] if wrong == "another program" else [sys.executable, "-c", "import time; time.sleep(600)", "glm5bench"]
    with subprocess.Popen(command) as process:
        ticks = process_started_ticks(process.pid) + (wrong == "another start")

        assert not end_process(os.uname().nodename, process.pid, ticks)
        assert process.poll() is None
        process.kill()


def test_what_is_left_is_neither_done_nor_in_the_charge_of_a_live_job(campaign, planned):
    done, running = (p.key for p in planned.points)
    write_point(campaign.point_file(done, 1), measured(done))
    assert left(campaign, planned, []) == [running]

    submitted(campaign, [running])

    assert left(campaign, planned, jobs(campaign)) == []


def test_a_job_says_that_it_waits_only_where_another_holds_the_machine(tmp_path, monkeypatch):
    class UntilItWaits:
        stop = property(lambda self: second.beat.phase == "queued")

    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path))
    with (
        Heartbeat(tmp_path / "1.json", []) as first,
        Heartbeat(tmp_path / "2.json", []) as second,
        this_machine(schedulers()["local"], first, Progress()),
        this_machine(schedulers()["local"], second, UntilItWaits()),
    ):
        assert (first.beat.phase, second.beat.phase) == ("starting", "queued")


def test_a_campaign_of_other_points_is_not_taken_over(campaign, planned):
    opened(campaign, planned, HOW, name="c", launcher="local", overrides=())

    with pytest.raises(UsageError, match="1 requested point is not among them"):
        opened(
            campaign,
            plan([compose("engine=simulated", "concurrency=[2,8]", "bind_concurrency=4")]),
            HOW,
            name="c",
            launcher="local",
            overrides=(),
        )


def test_what_a_dead_job_said_last_stands_beside_the_points_that_it_never_came_to(campaign, planned):
    opened(campaign, planned, HOW, name="c", launcher="local", overrides=())
    dead = 2**22 + 1  # no such process
    submitted(campaign, [p.key for p in planned.points], pid=dead, ago_s=60)
    (campaign.jobs / "submitit").mkdir(parents=True)
    (campaign.jobs / "submitit" / f"{dead}_0_log.err").write_text("one\nNo space left on device\n")

    states = status(campaign).points

    assert {p.state for p in states} == {"missing"}
    assert all("No space left on device" in p.message for p in states)


def test_the_points_of_a_submission_without_an_answer_are_missing_and_say_so(campaign, planned, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    opened(campaign, planned, HOW, name="c", launcher="slurm", overrides=())
    asked = [{"requests": [["r.json"]], "keys": [p.key for p in planned.points], "limit_s": 60}]
    who = {"executor": "slurm", "host": "login", "user": "me", "utc_s": time.time()}
    campaign.append_submission({"kind": "asked", "name": "c-1", **who, "jobs": asked})

    found = status(campaign)

    assert ({p.state for p in found.points}, found.jobs) == ({"missing"}, ())
    assert all("submitted as c-1" in p.message and "resubmit" in p.message for p in found.points)


def test_a_run_that_died_without_a_word_has_had_an_attempt_at_the_point_that_it_was_at(campaign, planned):
    at, after = (p.key for p in planned.points)
    died_at(campaign, at)

    record_an_earlier_run(campaign, [request(planned)], "7")

    (attempt,) = campaign.attempts([at, after])[at]
    assert (attempt.status, attempt.failure_class, attempt.job_id, attempt.node) == ("failed", "lost", "7", "gpu3")
    assert campaign.attempts([after])[after] == []


@pytest.mark.parametrize("how", ["said its end", "was done", "was at no point", "had measured it", "was never there"])
def test_a_run_that_left_no_point_half_measured_has_had_no_attempt(campaign, planned, how):
    at = planned.points[0].key
    if how != "was never there":
        died_at(campaign, "" if how == "was at no point" else at, phase="done" if how == "was done" else "measuring")
    if how == "said its end":
        write_json(campaign.ended("7"), asdict(End("SIGTERM", (), (), (at,), "gpu3", time.time())))
    if how == "had measured it":
        write_point(campaign.point_file(at, 1), measured(at))

    record_an_earlier_run(campaign, [request(planned)], "7")

    assert [a for a in campaign.attempts([at])[at] if not a.is_done] == []


def test_a_point_that_took_its_run_down_as_often_as_the_limit_says_is_left(campaign, planned):
    at = planned.points[0].key
    spent = []
    for _ in range(HOW.failure.limit):
        spent.append(spent_points(campaign, request(planned), "7"))
        died_at(campaign, at)
        record_an_earlier_run(campaign, [request(planned)], "7")

    assert spent == [set()] * HOW.failure.limit
    assert spent_points(campaign, request(planned), "7") == {at}


def test_a_job_of_which_every_point_is_spent_leaves_them_and_starts_nothing(campaign, planned):
    keys, progress = sorted(p.key for p in planned.points), Progress()
    for key in keys * HOW.failure.limit:
        died_at(campaign, key)
        record_an_earlier_run(campaign, [request(planned)], "7")

    with Heartbeat(campaign.heartbeat("7"), keys) as heart:
        run_request(campaign, request(planned), "7", heart, progress)

    assert (sorted(progress.left), progress.measured, progress.failed, progress.last_word) == (keys, [], [], "lost")


def test_an_attempt_that_failed_in_another_way_is_not_one_that_slurm_ran_again(campaign, planned):
    key = planned.points[0].key
    for number in range(1, 2 * HOW.failure.limit):
        write_json(campaign.attempt_file(key, number), {"status": "failed", "class": "lost", "message": "gone"})

    assert spent_points(campaign, request(planned), "7") == set()


def test_what_is_sent_takes_nothing_along_of_the_job_that_it_is_sent_from(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    before = dict(os.environ)

    with clean_environment():
        inside = dict(os.environ)

    assert {"SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES"}.isdisjoint(inside)
    assert dict(os.environ) == before


def test_requests_of_arms_that_differ_only_in_a_rehearsed_fault_are_files_of_their_own(campaign):
    asked = plan([compose("engine=simulated"), compose("engine=simulated", "engine.fault=die:4")]).jobs

    paths = write_requests(campaign, [Request(job, HOW.failure) for job in asked], 1)

    assert len(set(paths)) == 2
    assert [from_json(Request, Path(path).read_bytes()).job for path in paths] == list(asked)


def test_the_shell_s_engine_variables_do_not_reach_a_server(monkeypatch, tmp_path):
    for name in ("SGLANG_LEAK", "VLLM_LEAK", "NCCL_LEAK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")

    real = environment({"SGLANG_ASKED": "1"}, compose("hardware=h200").arm, "key", tmp_path / "key")

    assert [name for name in real if name.startswith(("SGLANG_", "VLLM_", "NCCL_"))] == ["SGLANG_ASKED"]
    assert real["PYTHONPATH"] == "/somewhere"
    assert "key" not in real.values()


def test_the_slurm_launcher_wants_a_cluster_of_slurm_and_the_local_one_none():
    local, cluster = compose().cluster, compose("cluster=example").cluster

    assert resolved_cluster("local", (), cluster) == cluster
    for launcher, overrides, wrong in (("slurm", (), local), ("local", ("hydra/launcher=local",), cluster)):
        with pytest.raises(SettingsError, match="hydra/launcher="):
            resolved_cluster(launcher, overrides, wrong)


def test_a_directory_that_was_copied_or_moved_while_its_jobs_run_is_not_taken_for_theirs(campaign):
    def job(home):
        sent = Sent("c-1", "slurm", "login", "me", ((f"{home}/jobs/r.json",),), ("k",), 60.0, 0.0, job_id="7")
        return Job("7", sent, "running", None, "gpu1", ("k",), (), ())

    refuse_a_copy(campaign, [job(campaign.root)])

    with pytest.raises(UsageError, match="write to /elsewhere/c"):
        refuse_a_copy(campaign, [job("/elsewhere/c")])
