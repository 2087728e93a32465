"""If the submitting command is killed, Slurm does not answer or the disk is full, no job is sent twice and none is lost."""

import os
import shutil
import subprocess
import sys

import pytest
from login import LONG, SMALL

TWO = (*SMALL, "hardware=h200", "workload.isl_tokens=512,640", "concurrency=2")


def wrapped(site, program, script):
    """A PATH on which a script replaces this Slurm program. $REAL is the real program."""
    folder = site.root / f"bin-{program}"
    folder.mkdir()
    real = shutil.which(program, path=site.env["PATH"])
    (folder / program).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    (folder / program).chmod(0o755)
    return f"{folder}{os.pathsep}{site.env['PATH']}"


KILLED = {
    "before sbatch": "kill -9 $PPID",
    "after sbatch": '$REAL "$@"; kill -9 $PPID',
    "after a part of the arrays": 'N={}/n; $REAL "$@"; echo >> $N; [ $(wc -l < $N) = 2 ] && kill -9 $PPID; exit 0',
}


@pytest.mark.parametrize("instant", list(KILLED))
def test_a_sweep_killed_while_it_submits_and_typed_again_doubles_nothing(site, instant):
    asked = [*SMALL, "hardware=h200,b200", "workload.isl_tokens=512,640", "concurrency=2"]
    path = wrapped(site, "sbatch", KILLED[instant].replace("{}", str(site.root)))
    killed = site.bench(*site.overrides(*asked), PATH=path)
    again = site.sweep(*asked)

    assert killed.returncode == -9
    assert len(set(site.cluster.run("squeue", "-h", "-r", "-t", "all", "-n", ",".join(names(site)), "-o", "%i").split())) == 4
    assert again.returncode == 0
    site.assert_complete(4)


def names(site):
    """The job names of all submissions of the campaign."""
    return [line["name"] for line in site.lines("asked")]


def test_a_sweep_killed_before_it_wrote_a_submission_is_simply_typed_again(site):
    command = [sys.executable, "-m", "glm5bench", *site.overrides(*TWO)]
    process = subprocess.Popen(command, cwd=site.root, env=site.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    site.until((site.campaign / "plan.json").exists, 30, "the plan")
    process.kill()
    process.wait()
    site.sweep(*TWO)

    site.assert_complete(2)


def test_an_sbatch_that_times_out_after_it_was_accepted_is_found_by_its_name(site):
    said = '$REAL "$@" > /dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'
    done = site.bench(*site.overrides(*TWO), PATH=wrapped(site, "sbatch", said))

    assert done.returncode == 0, done.stderr
    assert len(names(site)) == 1
    site.assert_complete(2)


def test_an_sbatch_that_times_out_before_it_was_accepted_is_tried_again(site):
    said = (
        f'[ -e {site.root}/once ] && exec $REAL "$@"; touch {site.root}/once;'
        ' echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'
    )
    done = site.bench(*site.overrides(*TWO), PATH=wrapped(site, "sbatch", said))

    assert done.returncode == 0, done.stderr
    site.assert_complete(2)


def test_what_slurm_refuses_is_told_and_sent_again_when_it_is_put_right(site):
    refused = site.bench(*site.overrides(*TWO, "cluster.hardware.h200.partition=nosuch"))
    now = site.status()
    right = site.sweep(*TWO)

    assert refused.returncode == 1
    assert "nvalid partition" in refused.stderr
    assert {p["failure_class"] for p in now["points"]} == {"submit_refused"}
    assert "2 points submitted" in right.stderr
    site.assert_complete(2)


def test_status_tells_from_files_while_slurm_does_not_answer(site):
    site.sweep(*LONG, "hardware=h200", "concurrency=2,3,4,5,6", "workload.prompts_per_concurrency=30")
    site.measuring()
    without = site.status(PATH=os.path.dirname(sys.executable))
    site.cluster.stop_controller()
    try:
        silent = site.status()
        refused = site.bench(*site.overrides(*TWO))
    finally:
        site.cluster.start_controller()

    for now in (without, silent):
        assert [job["state"] for job in now["jobs"]] == ["running"]
        assert now["jobs"][0]["phase"] in ("measuring", "warm-up", "loading")
    assert refused.returncode == 2  # other points under the same name
    site.assert_complete(5)


def test_accounting_that_is_down_changes_nothing(site):
    site.cluster.stop_accounting()
    try:
        site.sweep(*LONG, "hardware=h200", "concurrency=2,3,4,5,6,7")  # a slow machine must cancel before all points are measured
        site.until(site.whole, 60, "the first point")
        done = site.bench("cancel", str(site.campaign))
        now = site.over()
        assert done.returncode == 0, done.stderr
        assert {p["failure_class"] for p in now["points"] if p["state"] == "missing"} == {"cancelled"}
        site.resubmit()
        site.assert_complete(6)
    finally:
        site.cluster.start_accounting()


def test_a_controller_that_restarts_loses_no_job(site):
    site.sweep(*LONG, "hardware=h200", "concurrency=2,3,4", "workload.isl_tokens=1024,1280")
    site.measuring()
    site.cluster.stop_controller()
    site.cluster.start_controller()

    site.assert_complete(6)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("harm", ["full", "read-only"])
def test_an_output_directory_that_cannot_be_written_costs_no_whole_point(site, harm):
    """During the measurement the campaign's file system fills up, or becomes read-only for the node."""
    small = site.cluster.small
    site.campaign = small / harm / "c"
    points = str(site.campaign / "points")
    site.sweep(*LONG, "hardware=h200", "concurrency=2,3,4,5", f"output_dir={small}/{harm}")
    site.until(site.whole, 60, "the first point")
    node = site.measuring()["node"]
    if harm == "full":
        subprocess.run(["dd", "if=/dev/zero", f"of={small}/filler", "bs=1M"], capture_output=True, check=False)
    else:
        site.cluster.in_node(node, "sh", "-c", f"mount --bind {points} {points} && mount -o remount,bind,ro {points}")
    try:
        site.until(lambda: not site.cluster.run("squeue", "-h"), 90, "the end of the job")
        survived = dict(site.whole())
        assert 0 < len(survived) < 4
    finally:
        (small / "filler").unlink() if harm == "full" else site.cluster.in_node(node, "umount", points)
    assert site.resubmit()["job_ids"]
    site.assert_complete(4)
    assert survived.items() <= site.whole().items()


def test_what_the_shell_says_of_sbatch_and_of_the_user_changes_nothing(site):
    site.cluster.run("scontrol", "update", "partitionname=h200", "state=down")
    try:
        shell = {"SBATCH_TIMELIMIT": "3", "SBATCH_JOB_NAME": "mine", "SBATCH_PARTITION": "b200", "LOGNAME": "nobody"}
        site.sweep(*TWO, **shell)
        again = site.sweep(*TWO, **shell)
        asked = site.cluster.run("squeue", "-h", "-r", "-o", "%P %j").splitlines()
    finally:
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")

    assert asked == [f"h200 {names(site)[0]}"] * 2
    assert "Nothing to submit" in again.stderr
    site.assert_complete(2)
