"""Node jobs that are too long are split between points, and arms that need half a node or less are marked to run side by side."""

import dataclasses
import itertools
from functools import cache

import pytest
from conftest import compose, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench.plan import JOB_OVERHEAD_S, split, without
from glm5bench.values.plain import digest_of, from_plain, plain
from glm5bench.values.point import NodeJob, physics, point_keys

HALF = ("checkpoint=glm5_nvfp4", "tp=4")  # of a b200 node


@cache
def whole(scope="arm"):
    (job,) = plan([compose("concurrency=[1,2,4,8,16,32]", "repeat=[0,1]", "repeat_scope=run", f"server_scope={scope}")]).jobs
    return job


def shape(made):
    """The lanes and the tensor parallel size of every job."""
    return [(job.lanes, job.arm.tp) for job in made.jobs]


def packed(*arms):
    return plan([dataclasses.replace(compose(*arm), pack=True) for arm in arms])


def workload(isl, *more):
    return (*HALF, f"workload.isl_tokens={isl}", *more)


@settings(deadline=None)
@given(share=st.floats(0.01, 1.5), scope=st.sampled_from(["arm", "point"]))
def test_the_pieces_hold_every_point_once_in_order_with_its_binding_and_its_server(share, scope):
    job = whole(scope)

    pieces = split(job, share * job.estimate_s)

    assert [p for piece in pieces for p in piece.points] == list(job.points)
    recipes = {p.key: start.recipe for start in job.starts for p in start.points}
    assert all(recipes[p.key] == start.recipe for piece in pieces for start in piece.starts for p in start.points)


@settings(deadline=None)
@given(share=st.floats(0.01, 1.5), scope=st.sampled_from(["arm", "point"]))
def test_no_piece_is_longer_than_was_allowed_unless_it_is_one_point(share, scope):
    job = whole(scope)

    pieces = split(job, share * job.estimate_s)

    assert all(piece.estimate_s <= share * job.estimate_s or len(piece.points) == 1 for piece in pieces)


@settings(deadline=None)
@given(share=st.floats(0.01, 1.5))
def test_no_two_neighbours_would_have_fitted_into_one_piece(share):
    job = whole()
    pieces = split(job, share * job.estimate_s)

    for first, second in itertools.pairwise(pieces):
        both = without(job, {p.key for p in job.points} - {p.key for p in (*first.points, second.points[0])})
        assert both.estimate_s > share * job.estimate_s


@pytest.mark.parametrize("max_s", [None, 1e9])
def test_a_job_that_is_short_enough_stays_as_it_is(max_s):
    assert split(whole(), max_s) == [whole()]


def test_a_point_that_is_too_long_by_itself_is_a_piece_of_its_own():
    assert [len(piece.points) for piece in split(whole(), 1.0)] == [1] * len(whole().points)


def test_pieces_have_names_of_their_own_that_tell_their_place():
    names = [piece.id for piece in split(whole(), whole().estimate_s * 0.9)]

    assert names == [f"{whole().id}-1of2", f"{whole().id}-2of2"]


def test_every_piece_pays_for_a_server_and_for_its_own_overhead():
    pieces = split(whole(), whole().estimate_s * 0.9)
    one_more = JOB_OVERHEAD_S + whole().arm.engine.start_estimate_s

    assert len(pieces) == 2
    assert sum(piece.estimate_s for piece in pieces) == pytest.approx(whole().estimate_s + one_more)
    assert pieces[0].estimate_usd / pieces[0].estimate_s == pytest.approx(whole().estimate_usd / whole().estimate_s)


def test_a_piece_can_be_split_again_when_less_time_is_left():
    piece = split(whole(), whole().estimate_s * 0.9)[0]

    again = split(piece, piece.estimate_s * 0.7)

    assert [p for part in again for p in part.points] == list(piece.points)
    assert len({part.id for part in again}) == len(again) > 1


def test_a_plan_splits_only_the_jobs_of_a_hardware_that_has_a_limit():
    asked = [compose("concurrency=[4,8]"), compose("hardware=h200", "concurrency=[4,8]")]

    jobs = plan(asked, {"h200": 1.0}).jobs

    assert [(job.arm.hardware.id, len(job.points)) for job in jobs] == [("b200", 2), ("h200", 1), ("h200", 1)]


def test_a_plan_that_is_split_has_the_points_and_keys_of_one_that_is_not():
    asked = [compose("concurrency=[4,8]")]

    assert plan(asked, {"b200": 1.0}).points == plan(asked).points


def test_two_arms_of_half_a_node_share_it_under_pack():
    made = packed(workload(8192), workload(4096))

    assert shape(made) == [(2, 4), (2, 4)]
    assert sum("packed, 2 servers side by side" in note for note in made.notes) == 2


def test_without_pack_every_arm_has_a_node_to_itself():
    assert shape(plan([compose(*workload(8192)), compose(*workload(4096))])) == [(1, 4), (1, 4)]


def test_an_arm_without_a_neighbour_has_the_node_to_itself():
    assert shape(packed(workload(8192))) == [(1, 4)]
    assert sorted(shape(packed(workload(8192), workload(4096), workload(2048)))) == [(1, 4), (2, 4), (2, 4)]


def test_the_arms_that_share_a_node_are_alike_in_length_and_the_longest_is_left_alone():
    made = packed(workload(8192, "concurrency=[4,8]"), workload(4096, "concurrency=[64,128]"), workload(2048, "concurrency=[4]"))

    assert [job.lanes for job in made.jobs] == [2, 1, 2]


def test_an_arm_of_more_than_half_a_node_is_never_packed():
    assert shape(packed(("concurrency=4",), ("workload.isl_tokens=4096",))) == [(1, 8), (1, 8)]


def test_arms_of_two_sizes_or_of_two_hardwares_do_not_share_a_node():
    size = workload(4096, "tp=2", "hardware.memory_gib=400")
    other = workload(4096, "hardware=b300")

    assert {lanes for lanes, _ in shape(packed(workload(8192), size, other))} == {1}


def test_an_arm_that_cannot_be_is_nobodys_neighbour():
    made = packed(workload(8192), ("tp=4", "concurrency=4"))

    assert shape(made) == [(1, 4)]
    assert len(made.left_out) == 1


def test_four_arms_of_a_quarter_share_a_node():
    quarter = [("tp=2", "hardware.memory_gib=800", f"workload.isl_tokens={isl}") for isl in (1024, 2048, 4096, 8192)]

    assert shape(packed(*quarter)) == [(4, 2)] * 4


def test_a_packed_point_is_another_point():
    alone, both = plan([compose(*workload(8192))]), packed(workload(8192), workload(4096))

    assert alone.points[0].concurrency == both.points[0].concurrency
    assert alone.points[0].key != both.points[0].key


def test_a_point_of_one_lane_has_the_key_that_it_had_before_there_were_lanes():
    (job,) = plan([compose(*HALF)]).jobs
    recipe = job.starts[0].recipe
    alone = physics(job.arm, recipe, concurrency=4, seed=1, repeat=2)

    assert "packed" not in alone
    assert point_keys(job.arm, recipe, [(4, 1, 2)]) == [digest_of(alone)]


def test_every_axis_and_the_number_of_lanes_make_another_key():
    (job,) = plan([compose(*HALF)]).jobs
    axes = [(4, 0, 0), (8, 0, 0), (4, 1, 0), (4, 0, 1)]

    keys = [key for lanes in (1, 2, 4) for key in point_keys(job.arm, job.starts[0].recipe, axes, lanes=lanes)]

    assert len(set(keys)) == len(keys) == 12


def test_a_lane_pays_its_part_of_the_node():
    (alone,) = plan([compose(*workload(8192))]).jobs
    first, _ = packed(workload(8192), workload(4096)).jobs

    assert first.estimate_usd == pytest.approx(alone.estimate_usd / 2)


def test_lanes_outlive_being_split_written_and_read():
    first, _ = packed(workload(8192, "concurrency=[4,8]"), workload(4096, "concurrency=[4,8]")).jobs

    pieces = split(first, 1.0)

    assert [piece.lanes for piece in pieces] == [2, 2]
    assert from_plain(NodeJob, plain(pieces[0])) == pieces[0]


def test_two_names_of_the_same_lengths_are_one_arm():
    same = "workload.isl_tokens=512", "workload.osl_tokens=64"
    made = plan([compose("engine=simulated", f"workload={name}", *same) for name in ("1k1k", "8k1k")])

    assert len(made.jobs) == len({p.key for p in made.points}) == len(made.points) == 1
