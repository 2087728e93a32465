"""Nodes die, and jobs are preempted, requeued, out of time, cancelled or killed. Every point is either complete or absent."""

import json
import os
import signal

import pytest
from login import LONG, SMALL

from glm5bench.archive.pointfile import read_point

# points of four seconds each, with a load so light that they take no longer on a busy machine
TWELVE = (*LONG, "hardware=h200", "concurrency=2", "workload.prompts_per_concurrency=12", "repeat=0,1,2,3,4,5,6,7,8,9,10,11",
          "repeat_scope=run")  # fmt: skip
FOUR = (*LONG, "hardware=h200", "concurrency=2,3,4,5")


def resubmitted(site):
    """The points that one `resubmit` sent, by failure class."""
    made = site.resubmit()
    return sorted({p["class"] for p in made["points"] if p["is_sent"]})


def test_a_power_cut_of_the_node_costs_the_point_being_measured(site):
    site.sweep(*FOUR, "workload.prompts_per_concurrency=12")
    beat = site.measuring()
    site.until(site.whole, 60, "the first point")
    before = dict(site.whole())
    site.cluster.kill_node(beat["node"])
    try:
        site.until(lambda: site.status()["counts"].get("done", 0) == 4, 150, "Slurm to run it on the other node")
    finally:
        site.cluster.start_node(beat["node"])
    nodes = {read_point(f)[0].provenance["host"] for f in site.campaign.glob("points/*.h5")}  # the power cut may cost a record

    assert len(nodes) == 2
    assert before.items() <= site.whole().items()
    site.assert_complete(4)


def test_a_requeued_job_measures_only_what_is_missing(site):
    site.sweep(*FOUR)
    site.until(site.whole, 60, "the first point")
    beat = site.measuring()
    site.cluster.run("scontrol", "requeue", beat["job_id"])

    site.assert_complete(4)
    logs = "".join(f.read_text() for f in site.campaign.glob("jobs/submitit/*_log.out"))
    assert "SIGTERM: " in logs
    assert "complete: " in logs


def test_a_preempted_job_stops_cleanly_and_is_run_again_by_slurm(site):
    site.sweep(*FOUR, "cluster.hardware.h200.partition=low", "workload.prompts_per_concurrency=20")
    beat = site.measuring()
    holder = site.cluster.run(
        "sbatch", "--parsable", "-p", "h200", "-w", beat["node"], "--gres=gpu:h200:8", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 200"
    )
    site.until(lambda: "SIGUSR2" in "".join(f.read_text() for f in site.campaign.glob("jobs/*/ended.json")), 60, "the job's last words")
    left = json.loads(next(site.campaign.glob("jobs/*/ended.json")).read_text())
    site.cluster.run("scancel", holder)

    assert left["left"]
    site.assert_complete(4)


def test_a_job_stops_before_its_time_is_over_and_resubmit_sends_the_rest_with_more(site):
    # Slurm sends its warning up to half a minute early, here after 40 to 70 s. The server start takes half a minute longer than estimated.
    # This leaves time for some points of two and a half seconds, but never for all of them. The estimate does not split the job.
    short = ["+cluster.hardware.h200.time_limit_min=3", "cluster.stop_before_s=110", "engine.fault='slow_start:150'"]
    site.sweep(*TWELVE, f"repeat={','.join(map(str, range(23)))}", *short)
    now = site.over()
    made = site.resubmit("--dry-run")

    assert 0 < now["counts"].get("done", 0) < 23
    assert {p["failure_class"] for p in now["points"] if p["state"] != "done"} == {"time_limit"}
    assert {job["time_factor"] for job in made["jobs"]} == {1.5}
    site.resubmit()
    site.over()
    site.resubmit()  # needed if the machine was so busy that a time limit 1.5 times as long was not enough
    site.assert_complete(23)


def test_scancel_is_told_from_a_fault_and_resubmit_completes(site):
    site.sweep(*FOUR)
    site.until(site.whole, 60, "the first point")
    site.cluster.run("scancel", site.measuring()["job_id"])
    now = site.over()

    assert {p["failure_class"] for p in now["points"] if p["state"] == "missing"} == {"cancelled"}
    assert resubmitted(site) == ["cancelled"]
    site.assert_complete(4)


def test_cancel_ends_the_jobs_by_id_and_leaves_those_of_others(site):
    other = site.cluster.run("sbatch", "--parsable", "-p", "b200", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 100")
    site.sweep(*FOUR)
    site.measuring()
    done = site.bench("cancel", str(site.campaign))

    assert done.returncode == 0, done.stderr
    assert site.cluster.run("squeue", "-h", "-o", "%A") == other
    site.until(lambda: not site.processes(), 20, "the end of every process")
    assert resubmitted(site) == ["cancelled"]
    site.assert_complete(4)


@pytest.mark.parametrize("victim", ["the job", "the server", "the guard"])
def test_kill_9_costs_at_most_the_point_being_measured(site, victim):
    site.sweep(*FOUR)
    site.until(site.whole, 60, "the first point")
    site.measuring()
    before = dict(site.whole())
    words = {"the job": "submitit.core._submit", "the server": "glm5bench.simulator", "the guard": "machine/guard.py"}
    found = [pid for pid, line in site.processes(words[victim]).items() if "srun" not in line]
    if victim == "the server":
        found = [pid for pid in found if "guard.py" not in site.processes()[pid]]
    os.kill(max(found), signal.SIGKILL)
    now = site.over()

    assert before.items() <= site.whole().items()
    undone = [p for p in now["points"] if p["state"] != "done"]
    assert {p["failure_class"] for p in undone} <= {"lost", "server_crash"}
    assert len(undone) <= (4 - len(before) if victim == "the job" else 1)
    assert resubmitted(site) == sorted({p["failure_class"] for p in undone})
    site.assert_complete(4)


def test_a_drained_node_gets_no_new_job_and_the_campaign_goes_on_elsewhere(site):
    site.cluster.run("scontrol", "update", "nodename=h200-1", "state=drain", "reason=test")
    try:
        site.sweep(*SMALL, "hardware=h200", "workload.isl_tokens=512,640", "concurrency=2")
        site.assert_complete(2)
    finally:
        site.cluster.run("scontrol", "update", "nodename=h200-1", "state=resume")
    assert {json.loads(f.read_text())["node"] for f in site.campaign.glob("points/*.json")} == {"h200-2"}


def test_a_node_that_is_always_bad_is_left_out_after_two_faults(site):
    """Python does not start on this node: a file that fails is mounted over it."""
    python = os.path.realpath(site.job_executable())
    site.cluster.in_node("h200-1", "mount", "--bind", "/bin/false", python)
    try:
        bad = ["hardware=h200", "workload.isl_tokens=512,640,768", "concurrency=2", "+cluster.hardware.h200.constraint=h200"]
        site.sweep(*SMALL, *bad)
        first = site.over()
        nodes = site.resubmit()["nodes_away"]
        site.over()
        site.resubmit()
        assert {p["failure_class"] for p in first["points"] if p["state"] == "missing"} == {"node_fault"}
        assert set(nodes) == {"h200-1"}
        site.assert_complete(3)
    finally:
        site.cluster.in_node("h200-1", "umount", python)
    assert {json.loads(f.read_text())["node"] for f in site.campaign.glob("points/*.json")} == {"h200-2"}


def test_failed_points_are_sent_again_by_the_campaign_itself(site):
    """A fault kills the simulated server in the first point: there is exactly one retry, on the same node."""
    site.sweep(*SMALL, "hardware=h200", "concurrency=2", "engine.fault='die:3'", "retries=1")
    now = site.over()

    assert [(p["state"], p["failure_class"], p["attempts"]) for p in now["points"]] == [("failed", "server_crash", 2)]
    assert [p["tries"] for p in site.resubmit("--dry-run")["points"]] == [2]


def test_an_array_task_sends_what_its_time_was_too_short_for_by_itself(site):
    short = ["+cluster.hardware.h200.time_limit_min=1", "cluster.stop_before_s=35", "retries=2"]
    site.sweep(*TWELVE, *short, "workload.isl_tokens=512,640")

    site.until(lambda: len(site.lines("accepted")) >= 2, 90, "a submission from a node")
    site.assert_complete(24)
    assert all(job_id.count("_") <= 1 for line in site.lines("accepted") for job_id in line["job_ids"])


def test_cancel_starts_nothing_new(site):
    many = ",".join(map(str, range(2, 22)))  # a slow machine must cancel before all points are measured
    site.sweep(*FOUR, f"concurrency={many}", "retries=1", "workload.isl_tokens=512,640")
    site.until(site.whole, 60, "the first point")
    os.kill(max(site.job_pythons()), signal.SIGKILL)
    done = site.bench("cancel", str(site.campaign))

    assert done.returncode == 0, done.stderr
    assert [line["kind"] for line in site.lines()] == ["asked", "accepted", "cancelled"]
    assert not site.cluster.run("squeue", "-h")
