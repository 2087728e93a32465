"""A sweep on a real Slurm: arrays, resources, limits, packing, retries, two campaigns at once."""

import json
import os
import re
import signal

from login import LONG, SMALL

from glm5bench.archive.pointfile import read_point


def test_three_hardwares_in_three_partitions_over_more_tasks_than_an_array_holds(site):
    done = site.sweep(*SMALL, "hardware=h200,b200,mi355x", "workload.isl_tokens=512,640,768,896", "concurrency=2")

    scripts = [f.read_text() for f in site.campaign.glob("jobs/submitit/*submission.sh")]
    site.assert_complete(12)
    assert "12 points submitted to Slurm as 12 jobs" in done.stderr
    assert len(scripts) == 6  # MaxArraySize is 3, so the four jobs of a partition become an array of three and a single job
    assert sorted(s.count("--array=0-2%3") for s in scripts) == [0, 0, 0, 1, 1, 1]
    assert {re.search("--partition=(.*)", s)[1] for s in scripts} == {"h200", "b200", "mi355x"}
    assert all(("export SITE=mine" in s) == ("--gpus-per-node=mi355x:8" in s) == ("--partition=mi355x" in s) for s in scripts)
    nodes = {json.loads(f.read_text())["node"].rpartition("-")[0] for f in site.campaign.glob("points/*.json")}
    assert nodes == {"h200", "b200", "mi355x"}


def test_the_scripts_that_plan_prints_are_those_that_sweep_sends(site):
    asked = [*SMALL, "hardware=h200,b200", "concurrency=2"]
    plan = ["plan", "--config-dir", "conf", "hydra/launcher=slurm", "cluster=test", "name=c", *asked]
    shown = site.bench(*plan)
    planned = sorted(f.read_text() for f in site.campaign.glob("sbatch/*.sh"))
    site.sweep(*asked)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("to start at") == 2  # sbatch --test-only
    assert sorted(f.read_text() for f in site.campaign.glob("jobs/submitit/*submission.sh")) == planned
    site.assert_complete(2)


def test_two_campaigns_at_once_on_the_same_nodes_do_not_meet(site):
    for name in ("c", "d"):
        site.sweep(*LONG, "hardware=b200", "tp=4", "checkpoint=glm5_nvfp4", "concurrency=2,3,4", f"name={name}")
    site.until(lambda: len(site.processes("glm5bench.simulator")) >= 2, what="two servers at once")
    other = json.loads(site.bench("status", "--json", "outputs/d").stdout)

    assert other["jobs"]
    site.assert_complete(3)
    site.until(lambda: json.loads(site.bench("status", "--json", "outputs/d").stdout)["counts"] == {"done": 3}, what="the other one")


def test_a_node_job_that_is_longer_than_the_partition_allows_is_split(site):
    asked = [*SMALL, "hardware=h200", "concurrency=2,3,4", "server_scope=point", "engine.start_estimate_s=400"]
    done = site.sweep(*asked, "+cluster.hardware.h200.max_time_min=21")

    assert set(site.cluster.run("squeue", "-h", "-r", "-o", "%l").splitlines()) == {"21:00"}
    assert "3 node jobs, 3 server starts" in done.stderr
    site.assert_complete(3)


def test_packed_arms_run_side_by_side_on_disjoint_gpus_and_say_so(site):
    arms = ["hardware=b200", "tp=4", "checkpoint=glm5_nvfp4", "workload.isl_tokens=512,640", "concurrency=2"]
    site.sweep(*LONG, *arms, "pack=true")
    site.assert_complete(2)
    tables = json.loads(site.bench("tables", "--format", "json", str(site.campaign)).stdout)
    made = [read_point(f)[0].provenance for f in site.campaign.glob("points/*.h5")]

    assert sorted(m["devices"]["CUDA_VISIBLE_DEVICES"] for m in made) == ["0,1,2,3", "4,5,6,7"]
    assert not set(made[0]["cores"]) & set(made[1]["cores"])
    assert any(m["beside_before"] for m in made)
    assert {p["variant"].split()[0] for p in tables["points"]} == {"packed2"}
    assert len({json.loads(f.read_text())["job_id"].partition(".")[0] for f in site.campaign.glob("points/*.json")}) == 1


def test_the_doctor_finds_this_cluster_well_and_its_nodes_see_the_output_directory(site):
    done = site.bench("doctor", "--config-dir", "conf", "cluster=test", "hardware=h200,b200", "engine=simulated", "--probe", "--json")
    found = json.loads(done.stdout)["findings"]

    assert done.returncode == 0, done.stdout
    assert {f["what"] for f in found if f["is_well"] is not True and ": clock of " not in f["what"]} == set()
    assert sum(f["what"].startswith("compute node") for f in found) == 2
    of_b200 = {f["what"].removeprefix("b200: ").split(" of ")[0] for f in found if f["what"].startswith("b200: ")}
    assert of_b200 >= {"shared file system", "local disk", "memory"}


def test_the_doctor_names_what_a_compute_node_lacks_for_a_real_engine(site):
    done = site.bench("doctor", "--config-dir", "conf", "cluster=test", "hardware=h200", "--probe", "--json")
    lacks = [f for f in json.loads(done.stdout)["findings"] if f["is_well"] is False]

    assert done.returncode == 1
    assert [f["what"].split(" of ")[0] for f in lacks] == ["h200: engine", "h200: GPUs"]
    assert "it needs 8 H200 GPUs" in lacks[1]["said"]


def test_the_doctor_names_what_conf_has_and_the_cluster_lacks(site):
    wrong = ["h200.gres=gpu:h300:8", "b200.partition=nosuch", "mi355x.mem=1G"]
    wrong = [f"cluster.hardware.{setting}" for setting in wrong] + ["+cluster.hardware.mi355x.max_time_min=9999"]
    done = site.bench("doctor", "--config-dir", "conf", "cluster=test", "hardware=h200,b200,mi355x", *wrong)
    lacks = [line for line in done.stdout.splitlines() if line.startswith("MISSING")]

    assert done.returncode == 1
    assert ["b200: partition nosuch" in lacks[0], "h200: GPUs" in lacks[1], "max_time_min 9999 is more" in lacks[2]] == [True] * 3


def test_the_published_campaign_starts_four_servers_and_one_more_after_a_kill(site):
    small = ["workload.isl_tokens=512", "workload.osl_tokens=128", "workload.prompts_per_concurrency=1"]
    small += ["workload.warmups_per_concurrency=0"]
    site.sweep("experiment=h200_vs_b200", "engine=simulated", "engine.time_scale=5", "retries=1", *small)
    beat = site.measuring()
    victims = [pid for pid, line in site.processes(f"jobs/{beat['job_id']}/").items() if "glm5bench.simulator" in line]
    os.kill(max(victims), signal.SIGKILL)
    site.assert_complete(20)
    starts = sum(f.read_text().count("simulated server:") for f in site.campaign.glob("jobs/*/*/server.log"))

    assert starts == 5


def test_the_doctor_compares_the_gpus_of_the_partition_with_the_hardware(site):
    other = ["cluster.hardware.h200.partition=b200", "cluster.hardware.h200.gres=gpu:8"]
    done = site.bench("doctor", "--config-dir", "conf", "cluster=test", "hardware=h200", "engine=simulated", *other)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("MISSING")]

    assert done.returncode == 1
    assert "h200: GPUs: gpu:8 is requested" in line
    assert "these are b200, not h200" in line


def test_the_doctor_reports_whatever_would_make_sweep_refuse(site):
    impossible = site.bench("doctor", "--config-dir", "conf", "cluster=test", "hardware=h200", "checkpoint=glm5_nvfp4", "engine=simulated")

    assert impossible.returncode == 1
    assert "MISSING  plan: " in impossible.stdout
    assert "Slurm: " in impossible.stdout  # the cluster is checked all the same
