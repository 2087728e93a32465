"""Clusters: the Slurm options for each hardware. Failure sets: the policy for each class."""

import dataclasses

import pytest
import yaml
from conftest import compose

from glm5bench.errors import SettingsError
from glm5bench.settings import overrides
from glm5bench.settings.validated import conf_dir, group_values
from glm5bench.values.cluster import CLASSES, Cluster, Failure, Policy, Resources
from glm5bench.values.plain import from_plain, plain


def cluster(*, hardware=None, **slurm):
    return Cluster("mine", "slurm", None, slurm=Resources(**slurm), hardware=hardware or {})


def test_a_hardware_asks_for_what_the_cluster_asks_for_where_it_says_nothing_else():
    mine = cluster(partition="all", mem="0", hardware={"h200": {"partition": "gpu"}})

    assert mine.resources("b200") == mine.slurm
    assert mine.resources("h200") == dataclasses.replace(mine.slurm, partition="gpu")


def test_a_hardware_can_take_an_option_of_the_cluster_away():
    assert cluster(constraint="ib", hardware={"h200": {"constraint": None}}).resources("h200").constraint is None


def test_a_hardware_that_names_gpus_per_node_does_not_inherit_gres():
    asked = cluster(gres="gpu:$GPUS", hardware={"mi355x": {"gpus_per_node": "mi355x:8"}}).resources("mi355x")

    assert (asked.gres, asked.gpus_per_node) == (None, "mi355x:8")


def test_a_hardware_that_names_gres_does_not_inherit_gpus_per_node():
    asked = cluster(gpus_per_node="8", hardware={"h200": {"gres": "gpu:h200:8"}}).resources("h200")

    assert (asked.gres, asked.gpus_per_node) == ("gpu:h200:8", None)


def test_a_hardware_that_names_its_gpus_in_both_ways_asks_for_both():
    both = {"gres": "nvme:1", "gpus_per_node": "8"}

    asked = cluster(gres="gpu:8", hardware={"h200": both}).resources("h200")

    assert (asked.gres, asked.gpus_per_node) == ("nvme:1", "8")


def test_a_setting_of_a_hardware_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(SettingsError, match=r"cluster\.hardware\.h200\.partitoin is not a setting") as refused:
        cluster(hardware={"h200": {"partitoin": "gpu"}}).resources("h200")

    assert "partition" in refused.value.next_step


@pytest.mark.parametrize("own", [{"time_limit_min": 0}, {"exclusive": "perhaps"}, {"concurrent_jobs": None}, {"setup": 3}])
def test_a_value_of_a_hardware_that_cannot_be_is_refused_and_named(own):
    with pytest.raises(SettingsError, match=rf"cluster\.hardware\.h200\.{min(own)}="):
        cluster(hardware={"h200": own}).resources("h200")


@pytest.mark.parametrize("lines", ["module purge", ["module purge"]])
def test_a_setup_of_one_line_needs_no_list(lines):
    assert cluster(hardware={"h200": {"setup": lines}}).resources("h200").setup == ("module purge",)
    assert overrides.compose("cluster=example", f"cluster.slurm.setup={lines}").cluster.slurm.setup == ("module purge",)


def test_a_job_that_would_stop_before_it_begins_is_refused():
    short = dataclasses.replace(cluster(max_time_min=120, hardware={"h200": {"time_limit_min": 2}}), stop_before_s=120)

    assert short.resources("b200").max_time_min == 120
    with pytest.raises(SettingsError, match=r"stop_before_s=120: a job of 2 min would stop before it begins"):
        short.resources("h200")


def test_a_local_cluster_may_stop_as_early_as_it_likes():
    here = dataclasses.replace(cluster(time_limit_min=1), executor="local", stop_before_s=600)

    assert here.resources("h200").time_limit_min == 1


def test_no_job_stops_earlier_than_slurm_can_signal():
    long = ("cluster=example", "cluster.slurm.max_time_min=2000", "cluster.hardware.b200.max_time_min=2000")

    assert overrides.compose(*long, "cluster.stop_before_s=65535").cluster.stop_before_s == 65535
    with pytest.raises(SettingsError, match=r"cluster\.stop_before_s=65536: it must be less than or equal to 65535"):
        overrides.compose(*long, "cluster.stop_before_s=65536")


def test_a_hardware_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(SettingsError, match=r"cluster\.hardware\.h2000 is not a known hardware") as refused:
        overrides.compose("cluster=example", "+cluster.hardware.h2000.partition=gpu")

    assert "h200" in refused.value.next_step


@pytest.mark.parametrize("override", ["+cluster.hardware.mi300x.partitoin=gpu", "+cluster.hardware.mi300x.max_time_min=-1"])
def test_what_is_wrong_about_a_hardware_is_refused_when_it_is_composed_and_not_when_it_is_sent(override):
    with pytest.raises(SettingsError, match=r"cluster\.hardware\.mi300x"):
        overrides.compose("cluster=example", override)


@pytest.mark.parametrize("name", ["template", "example"])
def test_a_shipped_cluster_of_slurm_shows_every_setting_that_there_is(name):
    shown = yaml.safe_load((conf_dir() / "cluster" / f"{name}.yaml").read_text(encoding="utf-8"))

    assert set(shown["slurm"]) == set(Resources.__dataclass_fields__)
    assert set(shown) == set(Cluster.__dataclass_fields__)


@pytest.mark.parametrize("name", group_values("cluster"))
def test_a_shipped_cluster_comes_back_from_plan_json_as_it_was(name):
    shipped = compose(f"cluster={name}").cluster

    assert from_plain(Cluster, plain(shipped)) == shipped


def test_the_shipped_failure_set_has_a_policy_for_every_class_and_no_other():
    shipped = compose().failure

    assert set(shipped.classes) == set(CLASSES)
    assert from_plain(Failure, plain(shipped)) == shipped


@pytest.mark.parametrize("override", ["~failure.classes.lost", "+failure.classes.server_ooom={again: never}"])
def test_a_failure_set_that_lacks_a_class_or_has_another_is_refused_and_the_class_named(override):
    with pytest.raises(SettingsError, match=r"failure\.classes: (lost|server_ooom) is missing or no class"):
        overrides.compose(override)


def test_a_policy_that_says_never_says_why():
    assert all(policy.why for policy in compose().failure.classes.values() if policy.again == "never")


def test_a_policy_that_says_longer_or_patient_has_a_factor_that_makes_it_so():
    assert all(policy.factor > 1 for policy in compose().failure.classes.values() if policy.again in ("longer", "patient"))


def test_a_point_that_was_never_tried_is_sent_anywhere():
    assert compose().failure.policy("") == Policy("anywhere", counts=False)
