"""Node jobs become arrays, and an array becomes an sbatch script."""

import dataclasses
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import compose, plan
from program import TESTS

from glm5bench.directory import Campaign
from glm5bench.errors import SettingsError
from glm5bench.schedulers.scheduler import Order
from glm5bench.schedulers.slurm.batch import STEPS_MIN, batch_name, batches, longest_s, parameters, script, time_limit_min

GOLDEN = TESTS / "golden" / "sbatch_example.sh"
CAMPAIGN = Campaign(Path("/campaigns/night"))


def example(**slurm):
    """The example cluster with other settings for all hardware."""
    cluster = compose("cluster=example").cluster
    return dataclasses.replace(cluster, slurm=dataclasses.replace(cluster.slurm, **slurm))


def job(hardware="b200", *, minutes=20, lanes=1, tp=8, **changes):
    """A node job with this estimated duration."""
    (made,) = plan([compose("cluster=example", f"hardware={hardware}", "concurrency=[4,8]")]).jobs
    arm = dataclasses.replace(made.arm, tp=tp)
    return dataclasses.replace(made, arm=arm, estimate_s=minutes * 60.0, lanes=lanes, **changes)


def one(*jobs, cluster=None):
    """The parameters of the only batch of these jobs."""
    cluster = cluster or example()
    (batch,) = batches([Order(j) for j in jobs], cluster)
    return parameters(batch, cluster, CAMPAIGN, "night-0")


def test_the_script_of_an_array_is_the_golden_one():
    (batch,) = batches([Order(job(id="first")), Order(job(id="second"))], example())

    text = script(batch, example(), CAMPAIGN, "night-0123456789").replace(sys.executable, "/venv/bin/python")

    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_batch_of_one_job_is_no_array():
    (batch,) = batches([Order(job())], example())

    assert "--array" not in script(batch, example(), CAMPAIGN, "night-0")


def test_jobs_that_ask_for_the_same_are_one_array_in_their_order():
    (batch,) = batches([Order(job(id=name)) for name in "abc"], example())

    assert [member[0].id for member in batch.members] == ["a", "b", "c"]
    assert [j.id for j in batch.jobs] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "other",
    [Order(job("h200")), Order(job(minutes=200)), Order(job(), exclude=("gpu7",)), Order(job(), time_factor=4.0)],
    ids=["hardware", "time", "exclude", "factor"],
)
def test_jobs_that_ask_for_something_else_are_another_array(other):
    assert [len(batch.members) for batch in batches([Order(job()), other, Order(job())], example())] == [2, 1]


def test_half_a_node_is_another_array_only_where_gpus_are_asked_for_by_number():
    asked = [Order(job()), Order(job(tp=4))]
    by_number = replace(example(), hardware={"b200": {"gres": "gpu:b200:$GPUS"}})

    assert [len(batch.members) for batch in batches(asked, example())] == [2]
    assert [len(batch.members) for batch in batches(asked, by_number)] == [1, 1]


def test_estimates_that_differ_little_share_an_array():
    assert len(batches([Order(job(minutes=m)) for m in (14, 16, 18, 20, 23)], example())) == 1


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_an_array_is_no_longer_than_slurm_allows(n, sizes):
    made = batches([Order(job(id=str(i))) for i in range(n)], example(), max_array_size=3)

    assert [len(batch.members) for batch in made] == sizes
    assert [j.id for batch in made for j in batch.jobs] == [str(i) for i in range(n)]


def test_no_orders_are_no_arrays():
    assert batches([], example()) == []


def test_packed_jobs_of_a_kind_share_a_slurm_job_and_its_gpus():
    (batch,) = batches([Order(job(id=name, lanes=2, tp=4)) for name in "abcd"], example())

    assert [[j.id for j in member] for member in batch.members] == [["a", "b"], ["c", "d"]]
    assert (batch.gpus, batch.lanes) == (8, 2)


def test_packed_jobs_of_two_kinds_do_not_share_a_node():
    orders = [Order(job(h, id=f"{h}-{i}", lanes=2, tp=4)) for i in range(2) for h in ("b200", "h200")]

    members = [[j.id for j in member] for batch in batches(orders, example()) for member in batch.members]

    assert members == [["b200-0", "b200-1"], ["h200-0", "h200-1"]]


def test_a_packed_jobs_time_is_that_of_its_longest_lane_and_it_keeps_off_the_nodes_of_both():
    short, long = Order(job(lanes=2, tp=4), ("gpu1",)), Order(job(lanes=2, tp=4, minutes=200), ("gpu2",))

    (batch,) = batches([short, long], example())

    assert (batch.time_min, batch.exclude) == (time_limit_min(long.job, example()), ("gpu1", "gpu2"))


def test_a_packed_job_that_is_left_alone_asks_for_its_own_gpus_and_one_task():
    made = batches([Order(job(id=name, lanes=2, tp=4)) for name in "abc"], example())

    assert [(len(batch.jobs), batch.gpus, batch.lanes) for batch in made] == [(2, 8, 2), (1, 4, 1)]
    assert [parameters(batch, example(), CAMPAIGN, "night-0")["ntasks_per_node"] for batch in made] == [2, 1]


@pytest.mark.parametrize(("minutes", "asked"), [(0.1, 15), (3, 15), (4, 20), (20, 45), (23.4, 60), (200, 360)])
def test_the_time_is_the_estimate_half_as_much_again_and_ten_minutes_in_steps(minutes, asked):
    assert time_limit_min(job(minutes=minutes), example()) == asked


def test_an_estimate_past_the_last_step_gets_the_time_that_it_needs():
    cluster = dataclasses.replace(example(max_time_min=None), hardware={})

    assert time_limit_min(job(minutes=10_000.1), cluster) == 15_011 > STEPS_MIN[-1]


def test_a_factor_makes_the_time_longer_up_to_what_the_cluster_allows():
    wanted = [time_limit_min(job("h200"), example(), factor) for factor in (1.0, 1.5, 100.0)]

    assert wanted == [45, 60, 720]


@pytest.mark.parametrize(("partition_min", "asked"), [(None, 720), (9999, 720), (720, 720), (90, 90), (90.5, 90)])
@pytest.mark.parametrize("own", [None, 600])
def test_no_more_time_is_asked_for_than_cluster_and_partition_allow(own, partition_min, asked):
    assert time_limit_min(job("h200"), example(time_limit_min=own), 100.0, partition_min) == asked


def test_an_array_asks_for_no_more_time_than_the_partition_of_its_hardware_allows():
    orders = [Order(job(h, minutes=200)) for h in ("b200", "h200")]

    made = batches(orders, example(), partition_max_min={"h200": 300.0})

    assert {batch.hardware: batch.time_min for batch in made} == {"b200": 360, "h200": 300}


def test_a_clusters_own_time_limit_is_asked_for_as_it_stands():
    cluster = example(time_limit_min=47)

    assert (time_limit_min(job(), cluster), time_limit_min(job(), cluster, 1.5)) == (47, 71)


def test_without_any_limit_a_job_may_be_as_long_as_it_is():
    assert longest_s(example(max_time_min=None).slurm, 120, None) is None


@pytest.mark.parametrize("limit_min", [15, 30, 60, 720, 1440])
def test_the_longest_job_fits_into_the_limit_that_it_comes_from(limit_min):
    cluster = dataclasses.replace(example(max_time_min=limit_min), hardware={})
    longest = longest_s(cluster.slurm, cluster.stop_before_s, None)

    assert longest + cluster.stop_before_s < limit_min * 60
    assert time_limit_min(job(minutes=longest / 60), cluster) == limit_min


def test_the_shortest_of_the_limits_counts_and_the_partitions_only_where_conf_says_none():
    assert longest_s(example(time_limit_min=100, max_time_min=720).slurm, 0, None) == 3600
    assert longest_s(example(max_time_min=100).slurm, 0, 9999.0) == 3600
    assert longest_s(example(max_time_min=None).slurm, 0, 100.0) == 3600


@pytest.mark.parametrize(("tp", "gpus"), [(8, "8"), (4, "4")])
@pytest.mark.parametrize("way", ["gres", "gpus_per_node"])
def test_gpus_becomes_the_number_that_the_servers_use(way, tp, gpus):
    cluster = dataclasses.replace(example(**{way: "b200:$GPUS"}), hardware={})

    assert one(job(tp=tp), cluster=cluster)[way] == f"b200:{gpus}"


def test_gpus_of_lanes_side_by_side_are_those_of_all():
    cluster = dataclasses.replace(example(gres="gpu:$GPUS"), hardware={})

    asked = one(job(lanes=2, tp=4), job(lanes=2, tp=4), cluster=cluster)

    assert (asked["gres"], asked["ntasks_per_node"]) == ("gpu:8", 2)


def test_a_hardware_that_names_gpus_per_node_asks_for_no_gres():
    asked = one(job("mi355x"), cluster=example(gres="gpu:8"))

    assert "gres" not in asked
    assert (asked["gpus_per_node"], asked["constraint"]) == ("mi355x:8", "rocm7")


def test_what_is_null_is_not_asked_for():
    assert {"qos", "constraint", "gpus_per_node", "cpus_per_task", "exclude"}.isdisjoint(one(job()))


def test_a_node_that_is_not_exclusive_is_not_asked_for_as_one():
    (batch,) = batches([Order(job())], example(exclusive=False))

    assert "--exclusive" not in script(batch, example(exclusive=False), CAMPAIGN, "night-0")


@pytest.mark.parametrize(("wckey", "lines"), [(None, []), ("abc", ["#SBATCH --wckey=abc"])])
def test_a_wckey_is_sent_only_where_there_is_one(wckey, lines):
    (batch,) = batches([Order(job())], example(wckey=wckey))

    text = script(batch, example(wckey=wckey), CAMPAIGN, "night-0")

    assert [line for line in text.splitlines() if "wckey" in line] == lines


def test_further_options_of_sbatch_are_sent_a_bare_one_for_true_and_none_for_false():
    cluster = example(sbatch={"mail-type": "FAIL", "mail_user": "me@x.org", "overcommit": True, "spread-job": False}, reservation="week 7")
    (batch,) = batches([Order(job())], cluster)

    lines = script(batch, cluster, CAMPAIGN, "night-0").splitlines()

    wanted = {"#SBATCH --mail-type=FAIL", "#SBATCH --mail-user=me@x.org", "#SBATCH --overcommit", "#SBATCH --reservation='week 7'"}
    assert wanted <= set(lines)
    assert not [line for line in lines if "spread" in line]


@pytest.mark.parametrize("option", ["requeue", "no-requeue"])
def test_whether_slurm_may_run_a_job_again_is_the_sites_word(option):
    cluster = example(sbatch={option: True})
    (batch,) = batches([Order(job())], cluster)

    assert f"#SBATCH --{option}" in script(batch, cluster, CAMPAIGN, "night-0").splitlines()


@pytest.mark.parametrize(
    "option",
    ["array", "time", "job-name", "job_name", "signal", "open-mode", "ntasks", "ntasks_per_node", "nodes", "output", "wait", "wrap",
     "parsable", "test-only", "partition", "account", "mem", "gres", "gpus-per-node", "cpus_per_task", "exclusive", "reservation", "wckey"],
)  # fmt: skip
def test_an_option_of_sbatch_that_is_this_tools_own_is_refused(option):
    with pytest.raises(SettingsError, match=f"contains {option.replace('_', '-')}, which glm5bench sets itself") as refused:
        one(job(), cluster=example(sbatch={"mail-type": "FAIL", option: "x"}))

    assert "example" in refused.value.where


def test_nodes_to_stay_away_from_are_excluded():
    (batch,) = batches([Order(job(), exclude=("gpu7", "gpu9"))], example())

    assert "#SBATCH --exclude=gpu7,gpu9" in script(batch, example(), CAMPAIGN, "night-0").splitlines()


@pytest.mark.parametrize(("own", "asked"), [((), "gpu[1-2]"), (("gpu7", "gpu9"), "gpu[1-2],gpu7,gpu9")])
def test_nodes_that_the_site_excludes_stay_excluded_beside_those_to_stay_away_from(own, asked):
    cluster = example(sbatch={"exclude": "gpu[1-2]"})
    (batch,) = batches([Order(job(), exclude=own)], cluster)

    lines = script(batch, cluster, CAMPAIGN, "night-0").splitlines()

    assert [line for line in lines if "exclude" in line] == [f"#SBATCH --exclude='{asked}'"]


def test_what_this_tool_writes_down_of_a_job_stands_before_the_sites_setup_can_fail():
    (batch,) = batches([Order(job())], example(setup=("module load python",)))

    text = script(batch, example(setup=("module load python",)), CAMPAIGN, "night-0")

    assert text.index("/started") < text.index("module load python") < text.index("srun --unbuffered")


def test_no_more_jobs_of_an_array_run_at_once_than_the_cluster_says():
    (batch,) = batches([Order(job(id=str(i))) for i in range(9)], example())

    assert "#SBATCH --array=0-8%4" in script(batch, example(), CAMPAIGN, "night-0").splitlines()


def test_a_campaign_in_a_directory_with_a_space_is_quoted():
    (batch,) = batches([Order(job())], example())

    text = script(batch, example(), Campaign(Path("/my campaigns/night")), "night-0")

    assert "#SBATCH --output='/my campaigns/night/jobs/submitit/%j_0_log.out'" in text
    assert "glm5bench_folder='/my campaigns/night/jobs'/" in text


def test_no_two_submissions_and_no_two_campaigns_share_a_name():
    first, second = (batches([Order(j)], example())[0] for j in (job(), job("h200")))
    elsewhere = Campaign(Path("/other/night"))

    names = [
        batch_name(CAMPAIGN, first, 0),
        batch_name(CAMPAIGN, first, 1),
        batch_name(CAMPAIGN, second, 0),
        batch_name(elsewhere, first, 0),
    ]

    assert len(set(names)) == 4
    assert all(name.startswith("night-") for name in names)


def test_a_name_is_the_same_when_it_is_asked_for_again_and_holds_no_character_that_a_list_of_names_could_not():
    (batch,) = batches([Order(job())], example())
    odd = Campaign(Path("/campaigns/a b,c"))

    assert batch_name(odd, batch, 3) == batch_name(odd, batch, 3)
    assert batch_name(odd, batch, 3).startswith("a-b-c-")
