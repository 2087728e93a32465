"""A job is ours by cluster, name and id together. Whatever sbatch answers, Slurm's queue decides what was accepted."""

import json
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster, lacks
from login import SMALL, Site
from program import required
from test_slurm_submission import names, wrapped

from glm5bench.schedulers.submissions import user

ONE = (*SMALL, "hardware=h200", "concurrency=2")
FIVE = (*SMALL, "hardware=h200", "concurrency=2", "workload.isl_tokens=512,520,528,536,544")

ANSWERS = {
    "a bare number": 'exec $REAL --parsable "$@"',
    "bytes that are not UTF-8": 'out=$($REAL "$@"); rc=$?; printf "sbatch: V\\351rification du quota: OK\\n" >&2; echo "$out"; exit $rc',
    "an exit code after acceptance": '$REAL "$@"; echo "sbatch: warning: could not log the submission" >&2; exit 1',
    "a greeting with a number": 'echo "Your job 1 is running, 1 of 10 slots used"; exec $REAL "$@"',
    "nothing": '$REAL "$@" > /dev/null',
    "a text on both streams": '$REAL "$@" >&2; echo "[[ welcome to the cluster ]]"',
}


@pytest.mark.parametrize("answer", list(ANSWERS))
def test_an_accepted_job_is_ours_whatever_the_answer_is(site, answer):
    path = wrapped(site, "sbatch", ANSWERS[answer])
    first = site.bench(*site.overrides(*ONE), PATH=path)
    second = site.bench(*site.overrides(*ONE), PATH=path)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert len(site.cluster.run("squeue", "-h", "-a", "-t", "all", "-n", ",".join(names(site)), "-o", "%i").split()) == 1
    assert not site.lines("refused")
    site.assert_complete(1)


def test_a_wrapper_that_never_reaches_slurm_is_unknown_and_the_next_command_sends_once(site):
    path = wrapped(site, "sbatch", 'echo "quota service is down" >&2; exit 1')
    first = site.bench(*site.overrides(*ONE), PATH=path)

    assert first.returncode == 3
    assert "sbatch gave no answer that can be read (quota service is down)" in first.stderr
    assert not site.lines("accepted")
    site.sweep(*ONE)
    site.assert_complete(1)


def stranger(site):
    """The id of a running job of another name."""
    options = ("--parsable", "-p", "b200", "-J", "thesis", "--mem=100M", "-o", "/dev/null")
    return site.cluster.run("sbatch", *options, "--wrap", "sleep 300").strip()


def test_a_job_with_our_id_and_another_name_is_not_cancelled_shown_or_waited_for(site):
    site.cluster.run("scontrol", "update", "partitionname=h200", "state=down")
    try:
        site.sweep(*ONE)
        thesis = stranger(site)
        (accepted,) = site.lines("accepted")
        text = (site.campaign / "submissions.jsonl").read_text().replace(json.dumps(accepted["job_ids"]), json.dumps([thesis]))
        (site.campaign / "submissions.jsonl").write_text(text)  # ids began again after a reset: ours is a stranger's now
        shown = site.status()
        done = site.bench("cancel", str(site.campaign))

        assert shown["jobs"] == []
        assert "No job of this campaign was running." in done.stderr
        assert site.cluster.run("squeue", "-h", "-j", thesis, "-o", "%T").strip() in ("PENDING", "RUNNING")
    finally:
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")


def test_a_campaign_of_another_cluster_is_reported_with_the_command_and_nothing_is_sent(site):
    site.cluster.run("scontrol", "update", "partitionname=h200", "state=down")
    try:
        site.sweep(*ONE)
        log = site.campaign / "submissions.jsonl"
        log.write_text(log.read_text().replace('"cluster": "test"', '"cluster": "north"'))
        sent, status = site.bench("resubmit", str(site.campaign)), site.bench("status", str(site.campaign))
        ended = site.bench("cancel", str(site.campaign))

        assert sent.returncode == 3
        for said in (sent.stderr, status.stdout, ended.stderr):
            assert "in Slurm cluster north, and this machine uses cluster test: run the command on a login node of north" in said
        assert len(site.lines("asked")) == 1
        assert len(site.cluster.run("squeue", "-h", "-o", "%i").split()) == 1
        log.write_text(log.read_text().replace('"cluster": "north"', '"cluster": "test"'))
    finally:
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")
    site.assert_complete(1)


@pytest.fixture(scope="module")
def north():
    """A second real cluster on this machine, with the same users and files."""
    required(lacks())
    base = Path(tempfile.mkdtemp(prefix="g5n-"))
    base.chmod(0o755)
    made = Cluster(base, name="north", more="AccountingStorageEnforce=associations,limits,qos\n").up()
    for name, limit in (("small", "MaxSubmitJobsPerUser=2"), ("wall", "MaxWall=00:05:00")):
        made.run("sacctmgr", "-i", "add", "qos", name)
        made.run("sacctmgr", "-i", "modify", "qos", name, "set", limit)
    made.run("sacctmgr", "-i", "modify", "user", user(), "set", "qos+=small,wall", check=False)
    yield made
    made.down()


def test_two_clusters_on_one_file_system_end_no_job_of_each_other_and_send_nothing_twice(site, north):
    site.cluster.run("scontrol", "update", "partitionname=h200", "state=down")
    try:
        site.sweep(*ONE)
        (ours,) = site.lines("accepted")[0]["job_ids"]
        strangers = []
        while not strangers or int(strangers[-1]) < int(ours):  # until a stranger on the other cluster has our id
            options = ("-p", "b200", "-J", "thesis", "--mem=100M", "-o", "/dev/null", "--wrap", "sleep 300")
            strangers.append(north.run("sbatch", "--parsable", *options).strip())
        there = {name: north.env[name] for name in ("SLURM_CONF",)}
        shown = site.bench("status", str(site.campaign), **there)
        sent = site.bench("resubmit", str(site.campaign), **there)
        ended = site.bench("cancel", str(site.campaign), **there)
        again = site.bench(*site.overrides(*ONE), **there)

        assert strangers[-1] == ours
        for done in (shown, sent, ended, again):
            assert "in Slurm cluster test, and this machine uses cluster north" in done.stdout + done.stderr
        assert (sent.returncode, again.returncode, ended.returncode) == (3, 3, 3)
        assert "Ended" not in ended.stderr
        assert north.run("squeue", "-h", "-j", ours, "-o", "%j %T").split()[0] == "thesis"
        assert len(north.run("squeue", "-h", "-o", "%i").split()) == len(strangers)
        assert len(site.cluster.run("squeue", "-h", "-o", "%i").split()) == 1
    finally:
        north.run("scancel", "--user", user(), check=False)
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")
    site.assert_complete(1)


as_root = pytest.mark.skipif(user() != "root", reason="accounting knows root only")


@pytest.fixture
def limited(north, tmp_path):
    made = Site(north, tmp_path)
    yield made
    made.clean_up()


@as_root
def test_an_array_larger_than_a_qos_allows_is_fed_as_places_become_free(limited):
    qos = ["cluster.slurm.account=root", "cluster.slurm.qos=small"]
    first = limited.bench(*limited.overrides(*FIVE, *qos))
    rest = limited.bench(*limited.overrides(*FIVE, *qos, "wait=true"), timeout=240)

    assert first.returncode == 1
    assert "3 node jobs not submitted yet: Slurm's limit is reached (QOSMaxSubmitJobPerUserLimit)" in first.stderr
    assert "wait=true" in first.stderr
    assert rest.returncode == 0, rest.stderr
    limited.assert_complete(5)


@as_root
def test_a_job_over_a_qos_limit_waits_for_ever_and_is_reported_by_status_and_by_waiting(limited):
    limited.sweep(*ONE, "cluster.slurm.account=root", "cluster.slurm.qos=wall")
    said = limited.until(lambda: (text := limited.bench("status", str(limited.campaign)).stdout) and "next: " in text and text)

    assert "(PENDING QOSMaxWallDurationPerJobLimit); Slurm does not start it by itself. next: " in said
    assert f"cancel {limited.campaign}, then run the sweep with a smaller cluster.slurm.max_time_min" in said
    limited.bench("cancel", str(limited.campaign))


def test_an_array_larger_than_a_limit_is_divided_and_a_part_of_a_campaign_can_be_sent(site):
    refusing = """
        case "$*" in *) script=$(eval echo \\${$#}); n=$(sed -n 's/.*--array=0-\\([0-9]*\\).*/\\1/p' "$script"); esac
        [ "${n:-0}" -lt 2 ] || { echo 'sbatch: error: Batch job submission failed: Invalid job array specification' >&2; exit 1; }
        exec $REAL "$@" """
    done = site.bench(*site.overrides(*FIVE), PATH=wrapped(site, "sbatch", refusing))
    part = site.bench(*site.overrides(*SMALL, "hardware=h200", "concurrency=2", "workload.isl_tokens=512,520"))

    assert done.returncode == 0, done.stderr
    assert part.returncode == 0, part.stderr
    site.assert_complete(5)


def test_a_cap_of_the_cluster_file_feeds_the_rest_when_the_command_is_typed_again(site):
    capped = [*FIVE, "+cluster.slurm.max_jobs=2"]
    first = site.bench(*site.overrides(*capped))

    assert first.returncode == 1
    assert "3 node jobs not submitted yet: cluster.slurm.max_jobs is 2" in first.stderr
    site.over()
    done = site.bench(*site.overrides(*capped, "wait=true"), timeout=240)
    assert done.returncode == 0, done.stderr
    site.assert_complete(5)


def test_a_list_of_partitions_works_in_the_doctor_and_in_limits(site):
    both = ["cluster.hardware.h200.partition='h200,low'"]
    done = site.bench("doctor", "--config-dir", "conf", "cluster=test", "engine=simulated", *ONE, *both)

    assert "ok       h200: partition h200: " in done.stdout
    assert "ok       h200: partition low: " in done.stdout
    site.sweep(*ONE, *both)
    site.assert_complete(1)


def test_a_held_job_is_reported_with_the_command_that_releases_it(site):
    site.cluster.run("scontrol", "update", "partitionname=h200", "state=down")
    try:
        site.sweep(*ONE)
        (job_id,) = site.lines("accepted")[0]["job_ids"]
        site.cluster.run("scontrol", "hold", job_id)
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")
        said = site.until(lambda: (text := site.bench("status", str(site.campaign)).stdout) and "scontrol release" in text and text)

        assert f"Slurm does not start it by itself. next: scontrol release {job_id}" in said
    finally:
        site.cluster.run("scontrol", "update", "partitionname=h200", "state=up")
    site.cluster.run("scontrol", "release", job_id)
    site.assert_complete(1)


def test_a_suspended_job_is_shown_as_suspended(site):
    site.sweep(*SMALL, "hardware=h200", "concurrency=2", "engine.time_scale=2", "workload.prompts_per_concurrency=10")
    beat = site.measuring()
    site.cluster.run("scontrol", "suspend", beat["job_id"])
    try:
        assert site.until(lambda: "suspended by Slurm: " in site.bench("status", str(site.campaign)).stdout)
    finally:
        site.cluster.run("scontrol", "resume", beat["job_id"])
    site.over()


def test_limits_of_the_login_shell_do_not_reach_the_job(site):
    path = wrapped(site, "sbatch", 'ulimit -S -t 4; ulimit -S -f 100; ulimit -S -n 64; exec $REAL "$@"')
    done = site.bench(*site.overrides(*ONE), PATH=path)

    assert done.returncode == 0, done.stderr
    site.assert_complete(1)


def test_options_that_would_lose_jobs_are_refused(site):
    done = site.bench(*site.overrides(*ONE, "cluster.slurm.sbatch.clusters=other"))

    assert done.returncode == 2
    assert "run the command on a login node of that cluster" in done.stderr
    assert not (site.campaign / "submissions.jsonl").exists()


def test_every_record_names_the_cluster_and_every_beat_its_job(site):
    site.sweep(*ONE)
    site.until(lambda: list(site.campaign.glob("jobs/*/heartbeat.json")))
    (asked,) = site.lines("asked")
    (beat,) = (json.loads(f.read_text()) for f in site.campaign.glob("jobs/*/heartbeat.json"))

    assert asked["cluster"] == "test"
    assert beat["name"] == asked["name"]
    site.assert_complete(1)
