"""Servers side by side on a node: none sees another's GPUs, and each has its own cores."""

import dataclasses
import os

import pytest
from conftest import compose, plan
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.machine import lane
from glm5bench.machine.lane import cores_of, keep_to, slice_of

VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@pytest.fixture
def here(monkeypatch):
    """Restores this process's cores and environment after the test."""
    allowed = os.sched_getaffinity(0)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    yield monkeypatch
    os.sched_setaffinity(0, allowed)


def job(hardware="h200", *, lanes=2, tp=4):
    (made,) = plan([compose("engine=simulated", f"hardware={hardware}")]).jobs
    return dataclasses.replace(made, lanes=lanes, arm=dataclasses.replace(made.arm, tp=tp))


def visible():
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def numa(folder, *lists):
    """A machine with these NUMA nodes."""
    for i, text in enumerate(lists):
        (folder / f"node{i}").mkdir()
        (folder / f"node{i}" / "cpulist").write_text(text + "\n")
    return folder


def test_lanes_take_their_gpus_in_order():
    devices = list("abcdefgh")

    assert [slice_of(devices, i, 2, 4) for i in range(2)] == [list("abcd"), list("efgh")]
    assert [slice_of(devices, i, 4, 2) for i in range(4)] == [list("ab"), list("cd"), list("ef"), list("gh")]


@given(lanes=st.integers(1, 8), size=st.integers(1, 4), more=st.integers(0, 3))
def test_no_gpu_is_two_lanes(lanes, size, more):
    devices = [str(i) for i in range(lanes * size + more)]

    taken = [device for i in range(lanes) for device in slice_of(devices, i, lanes, size)]

    assert len(taken) == len(set(taken)) == lanes * size


def test_a_lane_that_would_get_too_few_gpus_is_refused():
    with pytest.raises(ValueError, match="6 GPUs are not enough for 2 lanes of 4"):
        slice_of(list("abcdef"), 1, 2, 4)


@pytest.mark.parametrize("lanes", [1, 2, 3, 64])
def test_no_core_is_two_lanes_unless_there_are_fewer_cores_than_lanes(lanes):
    allowed = os.sched_getaffinity(0)
    cores = [cores_of(i, lanes) for i in range(lanes)]

    assert all(own and set(own) <= allowed for own in cores)
    assert len({core for own in cores for core in own}) == sum(map(len, cores)) or len(allowed) < lanes


def test_cores_go_to_lanes_in_the_order_of_their_numa_nodes(tmp_path, monkeypatch):
    last, *others = sorted(os.sched_getaffinity(0), reverse=True)
    monkeypatch.setattr(lane, "NUMA", numa(tmp_path, f"{last},4000-4009", ",".join(map(str, others))))

    assert cores_of(0, 1) == [last, *sorted(others, reverse=True)]


def test_the_tenth_numa_node_stands_after_the_second(tmp_path, monkeypatch):
    first, *_, last = [*sorted(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))]
    lists = {2: str(last), 10: str(first)}
    monkeypatch.setattr(lane, "NUMA", numa(tmp_path, *(lists.get(i, "4000") for i in range(11))))

    assert cores_of(0, 1)[0] == last


def test_a_machine_that_tells_of_no_numa_nodes_has_its_cores_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(lane, "NUMA", tmp_path)

    assert cores_of(0, 1) == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(("text", "cores"), [("0-3,8\n", [0, 1, 2, 3, 8]), ("5\n", [5]), ("\n", []), ("0-1,4-5\n", [0, 1, 4, 5])])
def test_a_list_of_cores_is_read_as_the_kernel_writes_it(text, cores):
    assert lane.cores_in(text) == cores


def test_a_lane_on_a_node_of_its_own_sees_its_part_of_all_gpus(here):
    keep_to(1, job())

    assert visible() == {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}


def test_a_lane_keeps_to_the_gpus_that_slurm_gave_by_whatever_names(here):
    here.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d")

    keep_to(1, job(tp=2))

    assert visible() == {"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-d"}


@pytest.mark.parametrize("given_by", ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
def test_a_lane_on_amds_gpus_is_told_in_one_variable_only(here, given_by):
    here.setenv(given_by, "0,1,2,3,4,5,6,7")

    keep_to(1, job("mi355x"))

    assert visible() == {"ROCR_VISIBLE_DEVICES": "4,5,6,7"}


def test_what_a_lane_starts_inherits_its_cores(here):
    wanted = cores_of(1, 2)

    keep_to(1, job())

    assert os.sched_getaffinity(0) == set(wanted)
