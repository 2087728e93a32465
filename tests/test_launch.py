"""What is alive, what is left, and what a dead job said: from files and processes."""

import os
import time

import pytest
from conftest import compose, measured

from glm5bench.errors import UsageError
from glm5bench.launch.campaign import left, opened
from glm5bench.launch.entry import LOCK_VARIABLE, _this_machine
from glm5bench.launch.jobs import live_jobs
from glm5bench.launch.status import status
from glm5bench.launch.submit import How
from glm5bench.node.heartbeat import Heartbeat, process_started_ticks
from glm5bench.node.job import Progress
from glm5bench.node.server import _environment
from glm5bench.plan import plan
from glm5bench.store.campaign import Campaign
from glm5bench.store.pointfile import write_point

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


def test_what_is_left_is_neither_done_nor_in_the_charge_of_a_live_job(campaign, planned):
    done, running = (p.key for p in planned.points)
    write_point(campaign.point_file(done, 1), measured(done))
    assert [p.key for job in left(campaign, planned.jobs) for p in job.points] == [running]

    submitted(campaign, [running])

    assert left(campaign, planned.jobs) == ()


def test_a_job_says_that_it_waits_only_where_another_holds_the_machine(tmp_path, monkeypatch):
    class UntilItWaits:
        stop = property(lambda self: second.beat.phase == "queued")

    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path))
    with (
        Heartbeat(tmp_path / "1.json", []) as first,
        Heartbeat(tmp_path / "2.json", []) as second,
        _this_machine("local", first, Progress()),
        _this_machine("local", second, UntilItWaits()),
    ):
        assert (first.beat.phase, second.beat.phase) == ("starting", "queued")


def test_a_campaign_of_other_points_is_not_taken_over(campaign, planned):
    opened(campaign, planned, HOW, name="c", launcher="local", overrides=())

    with pytest.raises(UsageError, match="1 of those asked for are not among them"):
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


def test_the_shell_s_engine_variables_do_not_reach_a_server(monkeypatch, tmp_path):
    for name in ("SGLANG_LEAK", "VLLM_LEAK", "NCCL_LEAK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")

    real = _environment({"SGLANG_ASKED": "1"}, compose("hardware=h200").arm, "key", tmp_path / "key")

    assert [name for name in real if name.startswith(("SGLANG_", "VLLM_", "NCCL_"))] == ["SGLANG_ASKED"]
    assert real["PYTHONPATH"] == "/somewhere"
    assert "key" not in real.values()
