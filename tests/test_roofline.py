"""The roofline model: memory, KV capacity and step times."""

import dataclasses

import pytest
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench import recipe
from glm5bench.memory import GIB, kv_bytes_per_token, kv_capacity_tokens, layer_values, memory_fit, total_parameters, weights_per_gpu_gib
from glm5bench.roofline import StepModel, acceptance_length, closed_loop_s


def step_model(*overrides):
    arm = compose(*overrides).arm
    return StepModel(arm.hardware, arm.checkpoint, arm.tp, arm.speculative, "fp8", arm.engine.passes)


def checkpoint(id_="glm5_fp8"):
    return compose(f"checkpoint={id_}").checkpoint


def test_glm5_has_744e9_parameters_and_its_draft_layer_ten_more():
    a = checkpoint().architecture

    assert total_parameters(a, draft=False) == pytest.approx(744e9, rel=0.005)
    assert total_parameters(a, draft=True) - total_parameters(a, draft=False) == pytest.approx(10e9, rel=0.02)


def test_one_expert_is_three_matrices():
    assert layer_values(checkpoint().architecture).expert == 3 * 6144 * 2048


def test_fp8_weights_at_tp8_are_88_6_gib_a_gpu_without_the_draft_layer():
    assert weights_per_gpu_gib(checkpoint(), 8, draft=False) == pytest.approx(88.6, abs=0.1)


def test_the_draft_layer_is_loaded_under_speculation_only():
    with_draft, without = (weights_per_gpu_gib(checkpoint(), 8, draft=d) for d in (True, False))

    assert (with_draft - without) * 8 * GIB == pytest.approx(10e9, rel=0.02)


def test_a_checkpoint_that_ships_no_draft_layer_weighs_the_same_either_way():
    community = checkpoint("glm5_nvfp4_community")

    assert weights_per_gpu_gib(community, 4, draft=True) == weights_per_gpu_gib(community, 4, draft=False)


def test_on_one_gpu_all_of_the_disks_weights_are_loaded():
    assert weights_per_gpu_gib(checkpoint(), 1, draft=True) == pytest.approx(705)


def test_replicated_weights_make_a_shard_larger_than_its_share():
    assert weights_per_gpu_gib(checkpoint(), 8, draft=True) > 705 / 8


def test_a_token_of_glm5_holds_100152_bytes_of_bf16_and_55224_of_fp8_cache():
    c = checkpoint()

    assert kv_bytes_per_token(c, "bf16", draft=False) == 78 * (576 * 2 + 128 + 4) == 100152
    assert kv_bytes_per_token(c, "fp8", draft=False) == 78 * (576 + 132) == 55224


def test_the_draft_layer_keeps_a_cache_of_its_own():
    assert kv_bytes_per_token(checkpoint(), "fp8", draft=True) == 79 * (576 + 132)


def test_layers_that_use_the_index_of_another_layer_have_no_key_in_newer_versions_of_sglang():
    c = compose("checkpoint=glm52_fp8", "hardware=b200").arm.checkpoint
    old, new = (compose("checkpoint=glm52_fp8", "hardware=b200", f"engine.version={v}").arm for v in ("0.5.17", "0.5.18"))
    capacity = [recipe.memory(arm, recipe.bound(arm, 8)).capacity_tokens for arm in (old, new)]

    assert kv_bytes_per_token(c, "fp8", draft=False) == 78 * (576 + 132) == 55_224
    assert kv_bytes_per_token(c, "fp8", draft=False, shares_index=True) == 78 * 576 + 21 * 132 == 47_700
    assert capacity[1] / capacity[0] == pytest.approx((79 * 708) / (79 * 576 + 22 * 132), rel=1e-3)


def test_64_49_gib_of_bf16_cache_hold_the_691392_tokens_that_vllm_told():
    assert kv_capacity_tokens(checkpoint(), 64.49, "bf16", draft=False) == 691_392


@given(st.floats(-10, 300))
def test_the_cache_holds_whole_pages_that_fit(kv_gib):
    c = checkpoint()
    tokens = kv_capacity_tokens(c, kv_gib, "fp8", draft=False)
    page = 64 * kv_bytes_per_token(c, "fp8", draft=False)

    assert tokens % 64 == 0
    assert tokens // 64 * page <= max(0.0, kv_gib) * GIB < (tokens // 64 + 1) * page


def test_memory_is_weights_workspace_and_cache_within_the_fraction():
    arm = compose("hardware=b200").arm
    fit = memory_fit(arm, fraction=0.85, kv_dtype="fp8")

    assert fit.weights_gib + fit.workspace_gib + fit.kv_gib == pytest.approx(0.85 * 180)
    assert fit.fits


def test_weights_larger_than_the_fraction_leave_no_cache():
    fit = memory_fit(compose("hardware=h100").arm, fraction=0.85, kv_dtype="bf16")

    assert (fit.kv_gib, fit.capacity_tokens, fit.fits) == (0.0, 0, False)


def test_vllms_arm_on_b200_leaves_the_published_cache():
    arm = compose("engine=vllm", "speculative=off", "workload=2k512").arm
    fit = recipe.memory(arm, recipe.bound(arm, 1024))

    assert fit.kv_gib == pytest.approx(64.49, abs=0.1)
    assert fit.kv_dtype == "bf16"


def test_a_step_of_one_token_is_as_long_as_reading_what_it_touches():
    m = step_model("speculative=off")
    v, a = layer_values(m.checkpoint.architecture), m.checkpoint.architecture
    routed = 75 * 8 * v.expert  # eight experts of each of the 75 sparse layers
    read = (routed + 75 * v.shared + 3 * v.dense_mlp + 78 * v.attention_sharded + a.vocabulary * a.hidden * 2) / 8
    read += 78 * v.attention_replicated + 78 * (576 + 132)  # one token of FP8 cache
    eff = m.hardware.efficiency

    reduced = 2 * 78 * 6144 * 2 * 2 * 7 / 8 / 900e9  # two ring all-reduces per layer of one BF16 hidden state
    by_hand = read / (8e12 * eff.bandwidth) + 75 * 8 * eff.expert_s + reduced
    by_hand += 78 * (eff.layer_s + eff.quantise_s + eff.index_s + eff.index_quantise_s) + eff.token_s + eff.request_s
    assert m.decode_s(1, 1, 1) == pytest.approx(by_hand, rel=1e-6)


def test_a_batch_touches_more_experts_and_never_more_than_there_are():
    m = step_model()

    assert m.experts_touched(1) == pytest.approx(8)
    assert m.experts_touched(2) == pytest.approx(256 * (1 - (31 / 32) ** 2))
    assert m.experts_touched(10_000) == pytest.approx(256)


def test_a_longer_context_makes_a_step_longer_past_the_top_k_too():
    m = step_model("speculative=off")

    assert m.decode_s(8, 8 * 9000, 8 * 2048) > m.decode_s(8, 8 * 3000, 8 * 2048)


def test_a_short_prefill_is_as_long_as_launching_its_kernels():
    m = step_model("hardware=h200")

    assert m.prefill_s(1, 0.5) == m.prefill_s(500, 500**2 / 2) == 78 * m.hardware.efficiency.eager_layer_s
    assert m.prefill_s(8192, 8192**2 / 2) > m.prefill_s(500, 500**2 / 2)


def test_4_bit_experts_with_few_columns_on_a_gpu_are_slower_than_their_bytes():
    narrow, wide = (step_model("checkpoint=glm5_nvfp4", "speculative=off", f"tp={tp}") for tp in (8, 4))

    assert narrow.decode_s(64, 64, 64) > 0.75 * wide.decode_s(64, 64, 64)  # half the bytes a GPU, and not half the time


def test_a_mixed_pass_launches_its_kernels_once():
    m = step_model("engine=vllm", "speculative=off")
    apart = m.prefill_s(4096, 4096**2 / 2) + m.decode_s(32, 32_000, 32_000)

    assert m.prefill_s(4096, 4096**2 / 2) < m.mixed_s(4096, 4096**2 / 2, 32, 32_000, 32_000) < apart


def test_glm52_computes_its_indexer_in_one_layer_of_four():
    m = step_model("speculative=off")
    every_fourth = dataclasses.replace(m, checkpoint=dataclasses.replace(m.checkpoint, index_period=4))

    assert every_fourth.prefill_s(8192, 8192 * 500_000) < 0.3 * m.prefill_s(8192, 8192 * 500_000)


def test_accepted_drafts_are_a_geometric_sum():
    m = step_model()
    half = dataclasses.replace(m, checkpoint=dataclasses.replace(m.checkpoint, mtp_accept=0.5))

    assert acceptance_length(half) == 1 + 0.5 + 0.25 + 0.125
    assert acceptance_length(step_model("speculative=off")) == 1.0


def test_glm52_accepts_the_published_2_99_tokens_at_three_steps():
    assert acceptance_length(step_model("checkpoint=glm52_fp8")) == pytest.approx(2.99, abs=0.005)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 256), st.integers(1, 20_000))
def test_more_requests_or_more_context_never_make_a_step_shorter(batch, context):
    m = step_model()

    def step(n, c):
        return m.decode_s(n, n * c, n * min(c, 2048))

    assert step(batch + 1, context) >= step(batch, context)
    assert step(batch, context + 500) >= step(batch, context)
    assert m.prefill_s(context + 1, context**2 / 2) >= m.prefill_s(context, context**2 / 2)


def test_a_closed_loop_takes_longer_where_fewer_requests_are_admitted():
    m, w = step_model(), compose().workload

    assert closed_loop_s(m, w, 64, 16, 10**7) > closed_loop_s(m, w, 64, 64, 10**7)
    assert closed_loop_s(m, w, 64, 64, 10_000) > closed_loop_s(m, w, 64, 64, 10**7)
