"""Data-parallel attention and expert parallelism: flags, keys, memory, predictions, and what cannot be."""

import dataclasses

import numpy as np
import pytest
from conftest import compose
from hypothesis import given
from hypothesis import strategies as st
from test_prediction import followed

from glm5bench import recipe
from glm5bench.analysis.held import settings_changed
from glm5bench.contradictions import impossible
from glm5bench.engines.known import engines
from glm5bench.memory import memory_fit, weights_per_gpu_gib
from glm5bench.node.attempt import variant
from glm5bench.prediction import band, error_text, predict, question, serving
from glm5bench.roofline import step_model
from glm5bench.simulator.scheduler import Limits, Request, Scheduler
from glm5bench.values.plain import digest_of, from_plain, plain
from glm5bench.values.point import Arm, physics

SGLANG = ("hardware=b200", "speculative=off")
VLLM = ("engine=vllm", "hardware=b200", "checkpoint=glm5_fp8", "speculative=off", "workload=2k512")


def arm(*overrides):
    return compose(*SGLANG, *overrides).arm


def argv(a):
    return " ".join(recipe.bound(a, 64).argv)


def test_dp_and_ep_of_one_are_absent_from_keys_records_and_labels():
    a = arm()

    assert {"dp", "ep"} & plain(a).keys() == set()
    assert {"dp", "ep"} & physics(a, recipe.bound(a, 4), concurrency=4, repeat=0, seed=0).keys() == set()
    assert a.label == "b200 glm5_fp8 tp8 off sglang 8192/1024"
    assert variant(a) == ""
    assert from_plain(Arm, plain(a)) == a


def test_other_parallelism_is_in_the_key_the_label_and_the_name_of_the_curve():
    a = arm("dp=8", "ep=4")

    assert a.label == "b200 glm5_fp8 tp8 dp8 ep4 off sglang 8192/1024"
    assert variant(a) == "dp8 ep4"
    assert from_plain(Arm, plain(a)) == a
    assert digest_of(a) != digest_of(arm())
    told = physics(a, recipe.bound(a, 4), concurrency=4, repeat=0, seed=0)
    assert (told["dp"], told["ep"], told["tp"]) == (8, 4, 8)


def test_sglang_gets_data_parallel_attention_and_all_gpus_as_tp():
    flags = argv(arm("dp=8", "ep=8"))

    for words in ("--tensor-parallel-size 8", "--data-parallel-size 8", "--enable-dp-attention", "--expert-parallel-size 8"):
        assert words in flags
    assert "--enable-dp-attention" not in argv(arm("ep=8"))
    assert "--expert-parallel-size 1" in argv(arm("dp=8"))


def test_vllm_gets_engines_of_tp_by_dp_gpus():
    a = compose(*VLLM, "dp=8", "ep=8").arm

    assert "--tensor-parallel-size 1 " in argv(a)
    assert "--data-parallel-size 8" in argv(a)
    assert "--enable-expert-parallel" in argv(a)
    assert "--tensor-parallel-size 4 " in argv(compose(*VLLM, "dp=2").arm)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("dp=3",), "dp=3 does not divide TP=8"),
        (("dp=16",), "dp=16 does not divide TP=8"),
        (("ep=3",), "ep=3 does not divide TP=8"),
        (("hardware=gb200", "tp=4", "ep=8"), "ep=8 does not divide TP=4"),
        (("engine=vllm", "workload=2k512", "ep=4"), "ep=4 is neither 1 nor TP=8"),
    ],
)
def test_impossible_parallelism_is_refused_with_the_reason(overrides, why):
    assert why in impossible(arm(*overrides))


def test_groups_of_gpus_need_not_divide_the_heads_of_the_whole_server():
    fewer = dataclasses.replace(arm().checkpoint.architecture, heads=4)
    checkpoint = dataclasses.replace(arm().checkpoint, architecture=fewer)

    assert "does not divide the 4 attention heads" in impossible(dataclasses.replace(arm(), checkpoint=checkpoint))
    assert impossible(dataclasses.replace(arm("dp=2"), checkpoint=checkpoint)) is None


def test_each_group_has_its_own_attention_weights_and_its_own_cache():
    one, eight = (memory_fit(arm(f"dp={dp}"), fraction=0.85, kv_dtype="fp8") for dp in (1, 8))

    a = arm().checkpoint.architecture
    attention = a.layers * a.heads * (2048 * (192 + 64) + 512 * (192 + 256) + 256 * 6144)  # q up, kv up and output, one byte each
    embeddings = 2 * a.vocabulary * a.hidden * 2
    assert (eight.weights_gib - one.weights_gib) * 2**30 == pytest.approx((attention + embeddings) * 7 / 8, rel=0.01)
    assert eight.capacity_tokens == pytest.approx(8 * one.capacity_tokens * eight.kv_gib / one.kv_gib, rel=0.001)


def test_expert_parallelism_changes_no_memory():
    assert memory_fit(arm("ep=8"), fraction=0.85, kv_dtype="fp8") == memory_fit(arm(), fraction=0.85, kv_dtype="fp8")


@given(st.sampled_from([1, 2, 4, 8]))
def test_all_groups_together_load_every_weight_at_least_once(dp):
    checkpoint = arm().checkpoint

    assert weights_per_gpu_gib(checkpoint, 8, draft=False, dp=dp) >= weights_per_gpu_gib(checkpoint, 8, draft=False)


def test_data_parallel_attention_is_slower_for_few_users_and_faster_for_many():
    one, eight = (step_model(arm(f"dp={dp}"), "fp8") for dp in (1, 8))

    assert eight.decode_s(2, 2 * 9000.0, 2 * 2048.0) > one.decode_s(2, 2 * 9000.0, 2 * 2048.0)
    assert eight.decode_s(256, 256 * 9000.0, 256 * 2048.0) < one.decode_s(256, 256 * 9000.0, 256 * 2048.0)


def test_a_pass_waits_for_the_fullest_group():
    model = step_model(arm("dp=8"), "fp8")

    assert model.decode_s(9, 9 * 1000.0, 9 * 1000.0) == pytest.approx(model.decode_s(16, 16 * 1000.0, 16 * 1000.0))


def test_prompts_on_several_groups_take_less_time_than_on_one():
    model = step_model(arm("dp=8"), "fp8")

    assert model.prefill_s(8192, 8192 * 512.0, 8) < model.prefill_s(8192, 8192 * 512.0, 2) < model.prefill_s(8192, 8192 * 512.0, 1)


@pytest.mark.parametrize(("dp", "concurrency"), [(8, 4), (8, 64), (2, 16), (4, 200)])
def test_the_prediction_agrees_with_the_scheduler_of_the_simulated_server(dp, concurrency):
    a = arm(f"dp={dp}", "workload=1k1k", "workload.prompts_per_concurrency=4")
    s = serving(a, recipe.bound(a, concurrency))

    predicted, (tpot, _, tput) = predict(s, a.workload, concurrency), followed(s, a.workload, concurrency)

    assert predicted.total_tput_per_gpu_tok_s == pytest.approx(tput, rel=0.08)  # groups are not exactly even
    assert predicted.tpot_median_s == pytest.approx(tpot, rel=0.08)


def test_every_group_has_its_share_of_slots_and_cache():
    scheduler = Scheduler(step_model(arm("dp=4"), "fp8"), Limits(max_running=8, capacity_tokens=4 * 1000, chunk_tokens=4096))
    requests = [Request(i, 100, 10) for i in range(16)]
    for request in requests:
        scheduler.add(request)
    scheduler.step()
    step = scheduler.step()

    assert np.bincount([r.group for r in requests]).tolist() == [4, 4, 4, 4]
    assert dict(scheduler.running_of_groups(step)) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert scheduler.n_waiting == 8


def test_a_full_group_does_not_stop_the_others():
    scheduler = Scheduler(step_model(arm("dp=2"), "fp8"), Limits(max_running=64, capacity_tokens=2 * 1000, chunk_tokens=4096))
    big, small, next_big, next_small = (Request(i, n, 10) for i, n in enumerate((900, 100, 900, 100)))
    for request in (big, small, next_big, next_small):
        scheduler.add(request)
    while scheduler.step() is not None and not big.emitted:
        pass

    assert big.group == next_big.group
    assert not next_big.prefilled
    assert next_small.prefilled == 100


def test_the_error_of_such_predictions_is_unknown_and_said_so():
    assert question(arm("dp=8")) == question(arm("ep=8")) == "other parallelism"
    assert band("other parallelism", "tput") is None
    assert error_text(["other parallelism"]) == "unknown with data or expert parallelism or several nodes"


def test_a_chunk_size_that_sglang_divides_by_its_ranks_is_the_one_that_was_asked_for():
    told = {"dp_size": 8, "enable_dp_attention": True, "chunked_prefill_size": 8192}
    asked = ["--chunked-prefill-size", "65536", "--data-parallel-size", "8"]

    assert settings_changed(asked, {**told, "internal_states": [{"chunked_prefill_size": 8192}]}) == ()
    assert settings_changed(asked, {**told, "enable_dp_attention": False}) == (("--chunked-prefill-size", "65536", "8192"),)
    assert settings_changed(asked, {**told, "chunked_prefill_size": 4096}) == (("--chunked-prefill-size", "65536", "4096"),)


def test_facts_of_all_ranks_count():
    sglang = engines()["sglang"]
    rank = {"effective_max_running_requests_per_dp": 32, "memory_usage": {"token_capacity": 1000}}
    info = {"max_total_num_tokens": 1000, "dp_size": 2, "tp_size": 8, "enable_dp_attention": True}
    states = [rank | {"peak_running_requests": 5, "avg_spec_accept_length": 2.0}, rank | {"peak_running_requests": 3}]

    assert sglang.admitted(info | {"internal_states": states}, {}, ()) == 64
    assert sglang.observed(info | {"internal_states": states}) == {"capacity_tokens": 2000, "peak_running": 8, "acceptance_length": 2.0}
    assert sglang.observed(info) == {"capacity_tokens": 1000, "peak_running": None, "acceptance_length": None}


def test_vllm_limits_requests_of_each_engine():
    a = compose(*VLLM, "dp=8", "engine.extra_args=[--max-num-seqs,64]").arm

    assert recipe.admitted(a, recipe.bound(a, 4)) == 512
