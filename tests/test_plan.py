"""Plans: how points are grouped into node jobs."""

import dataclasses

import pytest
from conftest import compose, plan
from hypothesis import given
from hypothesis import strategies as st

from glm5bench import plan as planning
from glm5bench.errors import ImpossibleError, SettingsError
from glm5bench.plan import price_of, repeat_scopes, without
from glm5bench.settings.prices import price_table
from glm5bench.values.plain import canonical_json, from_json
from glm5bench.values.point import NodeJob
from glm5bench.values.settings import together


def keys(*overrides):
    return [p.key for p in plan([compose(*overrides)]).points]


def test_an_arm_is_one_job_with_one_server_start():
    made = plan([compose("concurrency=[4,8,16]")])

    assert (len(made.jobs), made.n_server_starts, len(made.points)) == (1, 1, 3)


def test_under_point_scope_every_concurrency_has_a_start_bound_to_itself():
    made = plan([compose("concurrency=[4,8,16]", "server_scope=point")])

    assert len(made.jobs) == 1
    assert [start.recipe.binding for start in made.jobs[0].starts] == [4, 8, 16]


def test_under_arm_scope_the_largest_concurrency_is_bound():
    (start,) = plan([compose("concurrency=[16,4,8]")]).jobs[0].starts

    assert {p.binding for p in start.points} == {start.recipe.binding} == {16}


def test_the_binding_can_be_asked_for():
    (start,) = plan([compose("concurrency=[4,8]", "bind_concurrency=64")]).jobs[0].starts

    assert start.recipe.binding == 64


def test_points_ascend_in_concurrency_and_are_measured_once():
    made = plan([compose("concurrency=[16,4,8,4]", "repeat=[1,0]", "repeat_scope=run")])

    assert [(p.concurrency, p.repeat) for p in made.points] == [(4, 0), (4, 1), (8, 0), (8, 1), (16, 0), (16, 1)]


def test_each_repeat_is_a_server_start_and_a_job_of_its_own():
    made = plan([compose("concurrency=[4,8]", "repeat=[1,0]"), compose("hardware=h200", "concurrency=[4]", "repeat=[0]")])

    assert [(job.arm.hardware.id, [(p.concurrency, p.repeat) for p in job.points]) for job in made.jobs] == [
        ("b200", [(4, 0), (8, 0)]), ("h200", [(4, 0)]), ("b200", [(4, 1), (8, 1)]),
    ]  # fmt: skip
    assert made.n_server_starts == 3
    assert made.jobs[2].id == f"{made.jobs[0].id}-r1"


@pytest.mark.parametrize("scope", ["arm", "point"])
def test_the_scope_of_repeats_changes_no_key_and_no_binding(scope):
    of_starts, of_runs = (
        plan([compose("concurrency=[4,8]", "repeat=[0,1,2]", f"server_scope={scope}", f"repeat_scope={how}")]) for how in ("start", "run")
    )

    assert {p.key: p for p in of_starts.points} == {p.key: p for p in of_runs.points}
    assert (of_starts.n_server_starts, of_runs.n_server_starts) == ((3, 1) if scope == "arm" else (6, 2))


def test_arms_whose_repeats_differ_in_their_concurrencies_keep_one_binding():
    made = plan([compose("concurrency=[8]", "repeat=[0]"), compose("concurrency=[4]", "repeat=[1]")])

    assert [(p.concurrency, p.repeat, p.binding) for p in made.points] == [(8, 0, 8), (4, 1, 8)]


def test_both_scopes_of_repeats_have_their_cost():
    asked = [compose("concurrency=[4,8]", "repeat=[0,1,2]")]
    scopes = repeat_scopes(together(asked))

    assert scopes["start"].n_server_starts == 3 * scopes["run"].n_server_starts == 3
    assert scopes["start"].estimate_usd > scopes["run"].estimate_usd
    assert repeat_scopes(together([compose("concurrency=[4,8]")])) == {}


def test_every_point_has_a_key_of_its_own():
    made = plan([compose("concurrency=[4,8]", "repeat=[0,1]", "seed=[0,1]"), compose("hardware=h200", "concurrency=[4,8]")])

    assert len({p.key for p in made.points}) == len(made.points) == 10


@pytest.mark.parametrize(
    "override", ["cluster.checkpoint_dir=/weights", "price=rental", "cluster.executor=debug", "output_dir=x", "engine.start_timeout_s=9"]
)
def test_a_key_does_not_depend_on_where_and_for_how_much_a_point_is_measured(override):
    assert keys(override) == keys()


@pytest.mark.parametrize(
    "override",
    ["hardware=b300", "tp=16", "seed=1", "repeat=1", "workload.range_ratio=1.0", "workload.prompts=64", "bind_concurrency=8",
     "engine.extra_args=['--foo']", "+engine.env.A=b", "checkpoint.revision=abc", "engine=simulated"],
)  # fmt: skip
def test_a_key_depends_on_what_changes_the_physics(override):
    asked = override if override != "tp=16" else ["tp=8", "hardware=b200", "hardware.gpus_per_node=16", "tp.size=16"]

    assert keys(*([asked] if isinstance(asked, str) else asked)) != keys()


def test_a_simulated_key_depends_on_the_time_scale_and_the_facts():
    simulated = keys("engine=simulated")

    assert keys("engine=simulated", "engine.time_scale=50") != simulated
    assert keys("engine=simulated", "checkpoint.mtp_accept=0.5") != simulated


def test_a_measured_key_does_not_depend_on_what_only_the_simulator_reads():
    assert keys("checkpoint.mtp_accept=0.5") == keys()


def test_an_arm_that_cannot_be_is_left_out_with_its_reason_and_its_points():
    made = plan([compose("concurrency=[4,8]"), compose("tp=4", "concurrency=[4,8,16]", "repeat=[0,1]")])

    assert len(made.jobs) == 1
    (left_out,) = made.left_out
    assert (left_out.n_points, "does not fit" in left_out.reason) == (6, True)


def test_a_request_of_which_nothing_can_be_is_refused_with_every_reason():
    with pytest.raises(ImpossibleError) as refused:
        plan([compose("tp=4"), compose("hardware=gb200")])

    assert "does not fit" in refused.value.message
    assert "4 GPUs of one gb200 node" in refused.value.message


def test_arms_that_overrides_made_the_same_become_one():
    made = plan([compose("concurrency=[4,8]"), compose("concurrency=[8,16]")])

    assert [p.concurrency for p in made.points] == [4, 8, 16]
    assert made.notes[0].startswith("b200 glm5_fp8 tp8 mtp sglang 8192/1024: 2 arms of the request are the same")


def test_what_departs_from_the_published_recipe_is_noted_once_an_arm():
    notes = plan([compose("checkpoint=glm5_nvfp4", "tp=4", "concurrency=[4,256]", "server_scope=point")]).notes

    assert sum("which its own author doubted" in note for note in notes) == 1


def test_what_will_make_a_curve_flat_is_warned_of():
    (told,) = plan([compose("hardware=h200", "workload=1k1k", "concurrency=[4,64]")]).warnings

    assert told == "h200 glm5_fp8 tp8 mtp sglang 1024/1024: concurrency 64 is more than the 48 requests that the server admits"


def test_a_checkpoint_is_looked_for_by_its_name_in_the_clusters_directory():
    assert plan([compose("cluster.checkpoint_dir=/weights/")]).jobs[0].model_path == "/weights/zai-org/GLM-5-FP8"
    assert plan([compose()]).jobs[0].model_path == "zai-org/GLM-5-FP8"


def test_the_whole_node_is_paid_for_the_estimated_time():
    (job,) = plan([compose("checkpoint=glm5_nvfp4", "tp=4")]).jobs

    assert job.estimate_usd == pytest.approx(job.estimate_s / 3600 * 8 * 1.95)
    assert job.estimate_s > 900


def test_a_simulated_job_costs_nothing():
    assert plan([compose("engine=simulated")]).jobs[0].estimate_usd == 0.0


def test_point_scope_is_estimated_to_take_longer_than_one_server_for_all():
    once, often = (plan([compose("concurrency=[4,8]", f"server_scope={s}")]).jobs[0].estimate_s for s in ("arm", "point"))

    assert often == pytest.approx(once + 900, rel=0.05)


def test_hardware_without_a_price_is_refused_with_what_to_type():
    with pytest.raises(SettingsError) as refused:
        price_of(price_table("own"), "b200")

    assert refused.value.next_step == "add your price: price.usd_per_gpu_h.b200=2.50"


def test_a_job_without_its_done_points_keeps_its_binding():
    (job,) = plan([compose("concurrency=[4,8,16]")]).jobs
    left = without(job, {p.key for p in job.points if p.concurrency == 16})

    assert [p.concurrency for p in left.points] == [4, 8]
    assert left.starts[0].recipe == job.starts[0].recipe


def test_a_server_whose_points_are_all_done_is_not_started():
    (job,) = plan([compose("concurrency=[4,8]", "server_scope=point")]).jobs

    assert [start.recipe.binding for start in without(job, {job.points[0].key}).starts] == [8]


def test_a_job_of_which_all_is_done_is_none():
    (job,) = plan([compose("concurrency=[4,8]")]).jobs

    assert without(job, {p.key for p in job.points}) is None


def test_a_job_runs_from_its_json_alone():
    (job,) = plan([compose("checkpoint=glm5_nvfp4", "tp=4", "concurrency=[4,256]", "server_scope=point")]).jobs

    assert canonical_json(from_json(NodeJob, canonical_json(job))) == canonical_json(job)
    assert [p.key for p in from_json(NodeJob, canonical_json(job)).points] == [p.key for p in job.points]


@given(
    concurrency=st.sets(st.integers(1, 64), min_size=1, max_size=6),
    repeat=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    seed=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    scope=st.sampled_from(["arm", "point"]),
)
def test_every_combination_of_the_axes_is_planned_exactly_once(concurrency, repeat, seed, scope):
    asked = dataclasses.replace(
        compose("hardware=h200"), concurrency=tuple(concurrency), repeat=tuple(repeat), seed=tuple(seed), server_scope=scope
    )
    points = plan([asked]).points

    assert sorted((p.concurrency, p.repeat, p.seed) for p in points) == sorted((c, r, s) for c in concurrency for r in repeat for s in seed)
    assert len({p.key for p in points}) == len(points)


def test_a_binding_is_refused_under_point_scope_where_it_would_mean_nothing():
    with pytest.raises(SettingsError, match="bind_concurrency=32 has no effect"):
        plan([compose("concurrency=[4,8]", "server_scope=point", "bind_concurrency=32")])


@pytest.mark.parametrize("other", ["server_scope=point", "price=rental", "bind_concurrency=64"])
def test_what_holds_for_a_campaign_cannot_be_swept_inside_one(other):
    with pytest.raises(SettingsError, match="a campaign has only one"):
        plan([compose("hardware=h200"), compose("hardware=h200", other)])


def test_the_overhead_of_a_job_is_counted_once():
    (job,) = plan([compose()]).jobs

    assert job.estimate_s - sum(planning.server_start_estimate_s(job.arm, s, 1.0) for s in job.starts) == pytest.approx(
        planning.JOB_OVERHEAD_S
    )


def test_the_union_of_two_arms_invents_no_point_that_neither_asked_for():
    made = plan([compose("concurrency=4", "seed=0"), compose("concurrency=8", "seed=1")])

    assert [(p.concurrency, p.seed) for p in made.points] == [(4, 0), (8, 1)]


def test_a_simulation_needs_no_price():
    (job,) = plan([compose("engine=simulated", "price=own")]).jobs

    assert job.estimate_usd == 0.0
