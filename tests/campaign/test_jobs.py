"""The state of a Slurm job comes from files first and, if Slurm answers, also from Slurm."""

import math
import os
import time
from dataclasses import asdict

import pytest

from glm5bench.campaign.jobs import CLOCKS_S, jobs, jobs_for_sure, live_jobs
from glm5bench.directory import Campaign
from glm5bench.errors import EnvironmentLacks, FileError
from glm5bench.files import read_json, write_json
from glm5bench.node.heartbeat import SILENT_S, Beat, Heartbeat, read_beat
from glm5bench.node.progress import Progress
from glm5bench.schedulers.request import End
from glm5bench.schedulers.slurm.look import LATE_S
from glm5bench.schedulers.slurm.states import TERMINAL, Told
from glm5bench.schedulers.submissions import user

LONG_AGO = 1000.0  # seconds


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # Slurm does not answer unless a test enables it
    return Campaign(tmp_path / "c")


def slurm_says(campaign, *, queue="", accounting=""):
    """Sets the output of squeue and sacct. Every job is named as `sent` names it."""

    def named(line):
        job, state, node, reason = line.split("|", 3)
        return f"{job}|{state}|{node}|c-1|{reason}"

    control = campaign.root.parent / "bin" / "scontrol"
    control.write_text("#!/bin/sh\necho ClusterName = test\n")
    control.chmod(0o755)
    for name, text in (("squeue", queue), ("sacct", accounting)):
        said, program = campaign.root.parent / name, campaign.root.parent / "bin" / name
        lines = [named(line) if name == "squeue" else f"{line}|c-1" for line in text.splitlines()]
        said.write_text("".join(f"{line}\n" for line in lines))
        program.write_text(f"#!/bin/sh\nexec /bin/cat {said}\n")
        program.chmod(0o755)


def sent(campaign, *job_ids, ago_s=LONG_AGO, accepted_ago_s=None, lanes=1, name="c-1", limit_s=3600.0, by=None, cluster=""):
    """One array of jobs that Slurm has accepted. Each job has one point."""
    now = time.time()
    asked = [{"requests": [["r.json"]] * lanes, "keys": [f"k{i}"], "limit_s": limit_s} for i, _ in enumerate(job_ids)]
    who = {"executor": "slurm", "host": "login", "user": by or user(), "cluster": cluster}
    campaign.append_submission({"kind": "asked", "name": name, **who, "jobs": asked, "utc_s": now - ago_s})
    at = now - (ago_s if accepted_ago_s is None else accepted_ago_s)
    campaign.append_submission({"kind": "accepted", "name": name, "job_ids": list(job_ids), "utc_s": at})


def beat(campaign, job_id="7", *, ago_s=1.0, **more):
    """A heartbeat on another machine."""
    said = {"phase": "measuring", "node": "gpu1", **more}
    write_json(campaign.heartbeat(job_id), asdict(Beat("elsewhere", 1, 1, time.time() - ago_s, **said)))


def last_words(campaign, why, job_id="7", *, ago_s=1.0, left=("k0",)):
    write_json(campaign.ended(job_id), asdict(End(why, (), (), left, "gpu1", time.time() - ago_s)))


def only(campaign):
    (job,) = jobs(campaign, poll_s=0)
    return job


def test_a_job_that_slurm_has_pending_is_queued_with_slurms_reason(campaign):
    sent(campaign, "7")
    slurm_says(campaign, queue="7|PENDING||Resources\n")

    job = only(campaign)

    assert (job.state, job.is_live, job.told.reason, job.keys) == ("queued", True, "Resources", ("k0",))


@pytest.mark.parametrize("word", ["RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING"])
def test_a_job_that_slurm_has_on_a_node_runs(campaign, word):
    sent(campaign, "7")
    slurm_says(campaign, queue=f"7|{word}|gpu3|None\n")

    assert (only(campaign).state, only(campaign).node) == ("running", "gpu3")


@pytest.mark.parametrize("word", ["CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_a_job_that_will_run_waits(campaign, word):
    sent(campaign, "7")
    slurm_says(campaign, queue=f"7|{word}||None\n")

    assert only(campaign).state == "queued"


def test_a_word_of_slurm_that_nobody_knows_yet_is_no_end(campaign):
    sent(campaign, "7")
    slurm_says(campaign, queue="7|TELEPORTING|gpu1|None\n")

    assert only(campaign).is_live


@pytest.mark.parametrize(
    ("word", "class_"),
    [("TIMEOUT", "time_limit"), ("DEADLINE", "time_limit"), ("CANCELLED by 0", "cancelled"), ("PREEMPTED", "preempted"),
     ("NODE_FAIL", "node_fault"), ("BOOT_FAIL", "node_fault"), ("OUT_OF_MEMORY", "lost"), ("FAILED", "lost"), ("COMPLETED", "lost")],
)  # fmt: skip
def test_a_job_that_slurm_does_not_know_any_more_ended_as_accounting_says(campaign, word, class_):
    sent(campaign, "7")
    beat(campaign, ago_s=LONG_AGO / 2)
    slurm_says(campaign, accounting=f"7|{word}|gpu1\n")

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", class_)


@pytest.mark.parametrize(
    ("word", "class_"),
    [("CANCELLED", "cancelled"), ("TIMEOUT", "time_limit"), ("DEADLINE", "time_limit"), ("PREEMPTED", "preempted"),
     ("NODE_FAIL", "node_fault"), ("OUT_OF_MEMORY", "lost"), ("FAILED", "lost"), ("COMPLETED", "lost")],
)  # fmt: skip
def test_a_job_that_the_controller_still_shows_as_over_has_its_class_where_there_is_no_accounting(campaign, word, class_):
    sent(campaign, "7")
    beat(campaign)
    slurm_says(campaign, queue=f"7|{word}|gpu1|None\n")
    (campaign.root.parent / "bin" / "sacct").unlink()

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", class_)


def test_what_the_controller_showed_of_a_job_is_remembered_when_it_forgets_it(campaign):
    sent(campaign, "7")
    slurm_says(campaign, queue="7|CANCELLED||None\n")
    assert only(campaign).failure_class == "cancelled"

    slurm_says(campaign)

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "cancelled")


@pytest.mark.parametrize("word", sorted(TERMINAL))
def test_no_state_in_accounting_makes_a_job_live_that_slurm_does_not_know(campaign, word):
    sent(campaign, "7")
    slurm_says(campaign, accounting=f"7|{word}|gpu1\n")

    assert live_jobs(campaign, poll_s=0) == []


def test_a_job_that_is_gone_and_that_accounting_does_not_know_is_lost(campaign):
    sent(campaign, "7")
    slurm_says(campaign)

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "lost")


@pytest.mark.parametrize(("other", "class_"), [("gpu1", "node_fault"), ("gpu5", "lost"), (None, "lost")])
def test_a_node_where_python_never_spoke_is_at_fault_only_where_it_spoke_on_another(campaign, other, class_):
    sent(campaign, "7_0", "7_1")
    slurm_says(campaign)
    campaign.write_text(campaign.job("7_0") / "started", "gpu5 1700000000\n")
    if other is not None:
        beat(campaign, "7_1", node=other)

    silent = jobs(campaign, poll_s=0)[0]

    assert (silent.state, silent.node, silent.failure_class) == ("ended", "gpu5", class_)


@pytest.mark.parametrize("by", ["somebody-else", None])
def test_another_users_job_that_nobody_tells_of_may_still_run(campaign, by):
    sent(campaign, "7", by=by)
    slurm_says(campaign)
    assert only(campaign).state == ("unknown" if by else "ended")

    slurm_says(campaign, accounting="7|TIMEOUT|gpu1\n")
    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "time_limit")


def test_another_users_job_that_has_said_its_last_word_is_over(campaign):
    sent(campaign, "7", by="somebody-else")
    last_words(campaign, "complete", left=())
    slurm_says(campaign)

    assert only(campaign).state == "ended"


def test_a_fresh_beat_does_not_keep_a_job_that_slurm_says_is_over(campaign):
    sent(campaign, "7")
    beat(campaign)
    slurm_says(campaign, accounting="7|NODE_FAIL|gpu1\n")

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "node_fault")


def test_without_an_answer_a_job_with_a_fresh_beat_runs(campaign):
    sent(campaign, "7")
    beat(campaign)

    assert (only(campaign).state, only(campaign).node) == ("running", "gpu1")


def test_without_an_answer_a_job_that_never_beat_is_unknown_and_live(campaign):
    sent(campaign, "7")

    assert (only(campaign).state, only(campaign).is_live) == ("unknown", True)


def test_without_an_answer_a_job_that_has_said_its_last_word_is_over(campaign):
    sent(campaign, "7")
    beat(campaign, ago_s=SILENT_S - 5, keys=["k0"])
    write_json(campaign.heartbeat("7"), {**read_json(campaign.heartbeat("7")), "phase": "done"})
    last_words(campaign, "complete", left=())

    assert only(campaign).state == "ended"


def test_without_an_answer_a_job_that_is_silent_may_come_again(campaign):
    sent(campaign, "7")
    beat(campaign, ago_s=SILENT_S * 2)

    assert (only(campaign).state, only(campaign).is_live) == ("unknown", True)


def test_without_an_answer_a_job_is_over_when_it_has_been_silent_for_longer_than_its_time(campaign):
    sent(campaign, "7", limit_s=60.0, ago_s=3 * LATE_S)
    beat(campaign, ago_s=60.0 + LATE_S - 30)
    assert only(campaign).state == "unknown"

    beat(campaign, ago_s=60.0 + LATE_S + 30)
    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "lost")


@pytest.mark.parametrize("why", ["SIGTERM", "SIGUSR2", "SIGINT"])
def test_without_an_answer_a_job_that_a_signal_ended_may_come_again(campaign, why):
    sent(campaign, "7")
    beat(campaign, phase="done")
    last_words(campaign, why)

    assert (only(campaign).state, only(campaign).is_live) == ("unknown", True)


@pytest.mark.parametrize(("began_ago_s", "state"), [(60.0, "unknown"), (2 * 3600.0, "ended")])
def test_a_job_that_began_and_never_spoke_is_dead_when_its_time_must_be_over(campaign, began_ago_s, state):
    sent(campaign, "7", ago_s=3 * 3600.0, limit_s=3600.0)
    (campaign.job("7")).mkdir(parents=True)
    (campaign.job("7") / "started").write_text(f"gpu1 {int(time.time() - began_ago_s)}\n")

    assert only(campaign).state == state


@pytest.mark.parametrize(("second", "state"), [(None, "unknown"), ("SIGTERM", "unknown"), ("server_crash", "ended")])
def test_without_an_answer_a_job_of_lanes_is_over_when_every_lane_has_said_a_word_that_is_no_signal(campaign, second, state):
    sent(campaign, "7", lanes=2)
    last_words(campaign, "time_limit", "7")
    if second is not None:
        last_words(campaign, second, "7.1")

    assert only(campaign).state == state


@pytest.mark.parametrize("how", ["never spoke", "silent", "signal", "own reasons"])
def test_nothing_is_decided_about_jobs_that_may_come_again_while_slurm_does_not_answer(campaign, how):
    sent(campaign, "7")
    if how == "silent":
        beat(campaign, ago_s=SILENT_S * 2)
    if how in ("signal", "own reasons"):
        last_words(campaign, "SIGTERM" if how == "signal" else "server_crash")

    with pytest.raises(EnvironmentLacks, match="Slurm does not answer"):
        jobs_for_sure(campaign)


def test_what_every_job_said_it_came_to_needs_no_answer_of_slurm(campaign):
    sent(campaign, "7")
    last_words(campaign, "complete", left=())
    assert [job.state for job in jobs_for_sure(campaign)] == ["ended"]

    slurm_says(campaign)
    last_words(campaign, "server_crash")
    assert [job.state for job in jobs_for_sure(campaign)] == ["ended"]


def test_a_beat_that_is_older_than_the_submission_is_another_jobs(campaign):
    sent(campaign, "7", ago_s=10)
    beat(campaign, ago_s=20 + CLOCKS_S)
    last_words(campaign, "complete", ago_s=20 + CLOCKS_S)

    assert (only(campaign).state, only(campaign).beats, only(campaign).ends) == ("unknown", (), ())


def test_a_job_that_was_accepted_after_slurm_was_asked_is_queued(campaign):
    sent(campaign, "7", accepted_ago_s=-5)
    slurm_says(campaign)

    assert only(campaign).state == "queued"


def test_a_job_that_said_its_last_word_is_over_while_slurm_still_shows_it(campaign):
    sent(campaign, "7")
    beat(campaign)
    last_words(campaign, "time_limit")
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n")

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "time_limit")


def test_a_job_that_a_signal_ended_and_that_slurm_has_pending_will_run_again(campaign):
    sent(campaign, "7")
    last_words(campaign, "SIGTERM")
    slurm_says(campaign, queue="7|PENDING||BeginTime\n")

    assert only(campaign).state == "queued"


def test_a_job_that_a_signal_ended_and_that_slurm_does_not_know_was_preempted(campaign):
    sent(campaign, "7")
    last_words(campaign, "SIGTERM")
    slurm_says(campaign)

    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "preempted")


def test_what_accounting_knew_of_a_job_is_forgotten_when_it_is_queued_again(campaign):
    sent(campaign, "7")
    slurm_says(campaign, accounting="7|PREEMPTED|gpu1\n")
    assert only(campaign).failure_class == "preempted"

    slurm_says(campaign, queue="7|PENDING||BeginTime\n")
    assert only(campaign).state == "queued"

    slurm_says(campaign, accounting="7|TIMEOUT|gpu1\n")
    assert only(campaign).failure_class == "time_limit"


def test_the_tasks_of_an_array_stand_each_for_itself(campaign):
    sent(campaign, "7_0", "7_1", "7_2")
    slurm_says(campaign, queue="7_1|RUNNING|gpu1|None\n7_2|PENDING||Priority\n", accounting="7_0|COMPLETED|gpu1\n7_1|RUNNING|gpu1\n")

    found = {job.job_id: (job.state, job.keys) for job in jobs(campaign, poll_s=0)}

    assert found == {"7_0": ("ended", ("k0",)), "7_1": ("running", ("k1",)), "7_2": ("queued", ("k2",))}


def test_a_job_of_lanes_is_over_when_every_lane_has_said_so(campaign):
    sent(campaign, "7", lanes=2)
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n")
    last_words(campaign, "time_limit", "7")
    assert only(campaign).state == "running"

    last_words(campaign, "complete", "7.1", left=())
    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "time_limit")


def test_a_submission_without_an_answer_is_unconfirmed_and_has_nothing_in_its_charge(campaign):
    jobs_asked = [{"requests": [["r.json"]], "keys": ["k0"], "limit_s": 60}]
    who = {"executor": "slurm", "host": "login", "user": "me"}
    campaign.append_submission({"kind": "asked", "name": "c-1", **who, "jobs": jobs_asked, "utc_s": time.time()})
    assert (only(campaign).state, only(campaign).is_live, only(campaign).failure_class) == ("unconfirmed", False, "")

    campaign.append_submission({"kind": "refused", "name": "c-1", "message": "no", "utc_s": time.time()})
    assert (only(campaign).state, only(campaign).failure_class) == ("ended", "submit_refused")


def test_a_job_that_the_user_cancelled_is_cancelled_whatever_its_signal(campaign):
    sent(campaign, "7")
    last_words(campaign, "SIGTERM")
    campaign.append_submission({"kind": "cancelled", "job_ids": ["7"], "utc_s": time.time()})
    slurm_says(campaign)

    assert only(campaign).failure_class == "cancelled"


@pytest.mark.parametrize(
    "line",
    [{"kind": "asked", "name": "c-1"}, {"kind": "asked", "name": "c-1", "jobs": 3}, {"kind": "accepted", "name": "c-1"},
     {"kind": "accepted", "name": "c-1", "job_ids": ["7"], "utc_s": "noon"}, {"kind": "refused", "name": "c-1"},
     {"kind": "cancelled"}, [], 3, None],
)  # fmt: skip
def test_a_line_of_submissions_that_nobody_understands_is_named_with_its_file(campaign, line):
    sent(campaign, "7")
    campaign.append_submission(line)

    with pytest.raises(FileError, match=r"A line of submissions\.jsonl is not valid") as refused:
        jobs(campaign)

    assert refused.value.path == str(campaign.submissions)


def test_slurm_is_not_asked_again_before_its_time(campaign):
    sent(campaign, "7", accepted_ago_s=LONG_AGO)
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n")
    assert only(campaign).state == "running"

    slurm_says(campaign, queue="7|PENDING||None\n")

    assert [job.state for job in jobs(campaign, poll_s=600)] == ["running"]
    assert [job.state for job in jobs(campaign, poll_s=0)] == ["queued"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"asked_utc_s": 1}', '{"asked_utc_s": 1, "queue": {"7": {"state": 1, "x": 2}}, "accounted": {}}']
)
def test_a_damaged_answer_of_before_is_asked_for_again(campaign, text):
    sent(campaign, "7")
    slurm_says(campaign, queue="7|PENDING||None\n")
    jobs(campaign, poll_s=0)
    (kept,) = campaign.jobs.glob("slurm-*.json")
    campaign.write_text(kept, text)

    assert [job.state for job in jobs(campaign, poll_s=600)] == ["queued"]


def test_a_job_that_nobody_wrote_down_is_live_while_slurm_knows_it(campaign):
    sent(campaign, "7")
    beat(campaign, "8", ago_s=SILENT_S * 2, keys=["other"], name="c-1")
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n8|SUSPENDED|gpu1|None\n")

    assert {job.job_id: (job.state, job.keys) for job in jobs(campaign, poll_s=0)} == {
        "7": ("running", ("k0",)),
        "8": ("running", ("other",)),
    }


def test_the_folder_of_a_lane_is_no_job_of_its_own(campaign):
    sent(campaign, "7", lanes=2)
    beat(campaign, "7")
    beat(campaign, "7.1")
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n")

    assert len(only(campaign).beats) == 2


def test_a_campaign_of_local_jobs_asks_no_slurm(campaign):
    (campaign.root.parent / "bin" / "squeue").write_text(f"#!/bin/sh\necho > {campaign.root.parent}/asked\n")
    (campaign.root.parent / "bin" / "squeue").chmod(0o755)
    asked = [{"requests": [["r.json"]], "keys": ["k0"], "limit_s": 0}]
    same = {"name": "c-1", "executor": "local", "host": os.uname().nodename, "user": "me", "utc_s": time.time()}
    campaign.append_submission({**same, "kind": "asked", "jobs": asked})

    assert only(campaign).state == "ended"
    assert not (campaign.root.parent / "asked").exists()


def test_a_job_without_a_time_limit_has_time_for_everything():
    assert Progress(measured=["k"]).has_time_for(1e9)
    assert not Progress().is_stopped()


def test_the_first_point_of_a_job_is_always_tried_and_the_next_only_where_it_would_end_in_time():
    soon = time.time() + 100

    assert Progress(soon).has_time_for(1000)
    assert not Progress(soon, measured=["k"]).has_time_for(1000)
    assert Progress(soon, measured=["k"]).has_time_for(10)


def test_a_job_that_was_slower_than_its_estimates_expects_to_stay_so():
    slow = Progress(time.time() + 100, measured=["k"], estimated_s=10, took_s=30)

    assert slow.pace == 3
    assert not slow.has_time_for(50)
    assert slow.has_time_for(20)


def test_a_job_stops_when_its_time_is_over_and_says_so():
    over = Progress(time.time() - 1)

    assert over.is_stopped()
    assert over.why == "time_limit"


def test_a_fault_does_not_hide_why_a_job_stopped():
    assert Progress().last_word == "lost"
    assert Progress(fault="server_crash").last_word == "server_crash"

    faulty = Progress(fault="server_crash")
    faulty.stopped("SIGUSR2")
    faulty.fault = "client_error"

    assert (faulty.why, faulty.last_word) == ("SIGUSR2", "SIGUSR2")


def test_the_first_reason_to_stop_stands():
    told = Progress(math.inf)
    told.stopped("SIGUSR2")
    told.stopped("SIGTERM")

    assert (told.is_stopped(), told.why) == (True, "SIGUSR2")


def test_a_phase_that_begins_again_begins_anew_and_one_that_is_told_goes_on(tmp_path):
    heart = Heartbeat(tmp_path / "beat.json", ["k"])
    heart.beat.since_utc_s = 0.0

    heart.tell("staging", "copying 1 of 9")
    begun = heart.beat.since_utc_s
    heart.beat.since_utc_s = 1.0
    heart.tell("staging", "copying 2 of 9")
    written = read_beat(tmp_path / "beat.json")

    assert begun > 1
    assert (heart.beat.since_utc_s, heart.beat.doing) == (1.0, "copying 2 of 9")
    assert written.doing == "copying 1 of 9"  # the next heartbeat writes it, because a copy reports progress thousands of times
    heart.phase("staging")
    assert heart.beat.since_utc_s > 1


def test_a_job_of_our_id_with_another_name_is_not_ours(campaign):
    sent(campaign, "7")
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n", accounting="7|COMPLETED|gpu1\n")
    for program in ("squeue", "sacct"):
        said = campaign.root.parent / program
        said.write_text(said.read_text().replace("c-1", "thesis"))

    assert (only(campaign).state, only(campaign).told) == ("ended", None)


def test_a_heartbeat_of_our_id_and_another_name_is_not_of_our_job(campaign):
    sent(campaign, "7")
    beat(campaign, "7", name="c-0", key="other")
    last_words(campaign, "complete", left=())
    slurm_says(campaign, queue="7|PENDING||Resources\n")
    write_json(campaign.ended("7"), {**read_json(campaign.ended("7")), "name": "c-0"})

    assert (only(campaign).state, only(campaign).beats, only(campaign).ends) == ("queued", (), ())


def test_a_job_of_another_cluster_is_neither_believed_nor_lost(campaign):
    sent(campaign, "7", cluster="north")
    slurm_says(campaign, queue="7|RUNNING|gpu1|None\n")

    assert only(campaign).state == "unknown"
    with pytest.raises(
        EnvironmentLacks, match=r"in Slurm cluster north, and this machine uses cluster test: run the command on a login node of"
    ):
        jobs_for_sure(campaign)


@pytest.mark.parametrize("job_id", ["--user=root", "7;8", "", "7_", "-7", "7 8", "\u0667"])
def test_an_id_that_is_no_id_never_reaches_a_command(campaign, job_id):
    sent(campaign, job_id)

    with pytest.raises(FileError, match="is not the id of a job"):
        jobs(campaign, poll_s=0)


@pytest.mark.parametrize(
    ("state", "reason", "command"),
    [
        ("PENDING", "JobHeldUser", "scontrol release 7"),
        ("PENDING", "job requeued in held state", "scontrol release 7"),
        ("REQUEUE_HOLD", "None", "scontrol release 7"),
        ("PENDING", "QOSMaxWallDurationPerJobLimit", "cluster.slurm.max_time_min"),
        ("PENDING", "AssocMaxGRESPerJob", "glm5bench cancel DIR"),
        ("PENDING", "QOSMinGRES", "glm5bench cancel DIR"),
        ("PENDING", "PartitionTimeLimit", "cluster.slurm.max_time_min"),
        ("PENDING", "DependencyNeverSatisfied", "scancel 7"),
        ("PENDING", "InvalidQOS", "glm5bench doctor"),
        ("PENDING", "PartitionDown", "administrator"),
    ],
)
def test_a_job_that_waits_for_ever_names_the_command_that_helps(state, reason, command):
    told = Told(state, "", reason)

    assert told.never_starts
    assert command in told.remedy("7")


@pytest.mark.parametrize("reason", ["Priority", "Resources", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "Dependency", "BeginTime", "None"])
def test_a_job_that_waits_for_others_needs_no_command(reason):
    assert not Told("PENDING", "", reason).never_starts
