"""Models beside GLM-5, from conf/ alone: their sizes, caches and passes, and shapes that no model can have."""

import dataclasses
import json

import pytest
from conftest import compose
from program import SMALL, bench

from glm5bench import recipe
from glm5bench.contradictions import impossible
from glm5bench.errors import SettingsError
from glm5bench.memory import kv_bytes_per_token, memory_fit, state_bytes, total_parameters
from glm5bench.prediction import predict, serving
from glm5bench.roofline import StepModel

VLLM = ("engine=vllm", "engine.version=0.22.0", "speculative=off")
SHIPPED = [
    ("deepseek_v32_fp8", "h200", 8, ()),
    ("deepseek_v32_fp8", "b200", 8, ()),
    ("deepseek_v32_fp8", "mi355x", 8, ()),
    ("deepseek_v32_fp8", "h200", 8, ("engine=vllm", "engine.version=0.18.0")),
    ("deepseek_v32_nvfp4", "b200", 4, ()),
    ("kimi_k25_int4", "h200", 8, VLLM),
    ("kimi_k25_int4", "b200", 8, VLLM),
    ("kimi_k25_nvfp4", "b200", 4, VLLM),
    ("kimi_k25_mxfp4", "mi355x", 4, ("engine=vllm_rocm", "speculative=off")),
    ("minimax_m25_fp8", "h200", 4, VLLM),
    ("minimax_m25_fp8", "b200", 2, VLLM),
    ("minimax_m25_fp8", "mi355x", 2, ("engine=vllm_rocm", "speculative=off")),
    ("qwen35_fp8", "h200", 8, ("engine.version=0.5.14",)),
    ("qwen35_fp8", "mi355x", 4, ("engine.version=0.5.16",)),
    ("qwen35_nvfp4", "b200", 4, ("engine.version=0.5.14",)),
]


def arm_of(checkpoint, hardware="b200", tp=8, words=()):
    return compose(f"checkpoint={checkpoint}", f"hardware={hardware}", f"tp={tp}", *words).arm


def model_of(checkpoint, tp=8, **architecture):
    a = arm_of(checkpoint, tp=tp, words=("engine=simulated", "speculative=off"))
    shape = dataclasses.replace(a.checkpoint.architecture, **architecture)
    return StepModel(a.hardware, dataclasses.replace(a.checkpoint, architecture=shape), tp, a.speculative, "bf16")


@pytest.mark.parametrize(
    ("checkpoint", "parameters"),
    [("deepseek_v32_fp8", 672e9), ("kimi_k25_int4", 1026e9), ("minimax_m25_fp8", 229e9), ("qwen35_fp8", 396e9)],
)
def test_a_model_has_as_many_parameters_as_its_publisher_says(checkpoint, parameters):
    assert total_parameters(
        arm_of(checkpoint, words=("speculative=off", "engine=simulated")).checkpoint.architecture, draft=False
    ) == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(
    ("checkpoint", "kv_dtype", "tp", "n_bytes"),
    [
        ("deepseek_v32_fp8", "fp8", 8, 61 * (576 + 132)),
        ("kimi_k25_int4", "bf16", 8, 70_272),  # no indexer, so no keys of one
        ("kimi_k25_int4", "fp8", 8, 35_136),
        ("minimax_m25_fp8", "bf16", 1, 253_952),
        ("minimax_m25_fp8", "fp8", 4, 126_976 / 4),  # eight heads of keys on four GPUs
        ("qwen35_fp8", "bf16", 1, 30_720),  # of 60 layers, 15 have a cache
        ("qwen35_fp8", "bf16", 8, 30_720 / 2),  # two heads of keys, so four GPUs have copies
    ],
)
def test_a_token_needs_the_published_bytes_of_cache(checkpoint, kv_dtype, tp, n_bytes):
    c = arm_of(checkpoint, words=("speculative=off", "engine=simulated")).checkpoint

    assert kv_bytes_per_token(c, kv_dtype, draft=False, tp=tp) == n_bytes


def test_linear_attention_keeps_98_mb_for_each_sequence_and_takes_it_from_the_cache():
    a = arm_of("qwen35_nvfp4", tp=4, words=("engine=simulated", "speculative=off"))
    few, many = (memory_fit(a, fraction=0.8, kv_dtype="bf16", running=n).kv_gib for n in (1, 129))

    assert state_bytes(a.checkpoint.architecture) == pytest.approx(98e6, rel=0.01)
    assert (few - many) * 2**30 == pytest.approx(128 * state_bytes(a.checkpoint.architecture) / 4)


def test_without_an_indexer_attention_reads_every_earlier_token():
    dense = model_of("kimi_k25_int4")
    short, long = (dense.decode_s(64, 64 * n, 64 * n) for n in (8_000, 64_000))

    read_s = 64 * 56_000 * 70_272 / (dense.hardware.bandwidth_tb_s * 1e12 * dense.hardware.efficiency.bandwidth)
    assert long - short == pytest.approx(read_s, rel=0.05)


def test_an_indexer_makes_decoding_shorter_at_long_contexts_and_longer_at_short_ones():
    sparse = model_of("deepseek_v32_fp8")
    dense = model_of("deepseek_v32_fp8", index_heads=0, index_dim=0, index_topk=0)

    assert sparse.decode_s(64, 64 * 100_000, 64 * 2048) < dense.decode_s(64, 64 * 100_000, 64 * 100_000)
    assert sparse.decode_s(4, 4000, 4000) > dense.decode_s(4, 4000, 4000)


def test_layers_with_a_window_read_the_window():
    all_of_it, half = model_of("minimax_m25_fp8"), model_of("minimax_m25_fp8", window=128, window_layers=31)
    shorter_s = all_of_it.decode_s(32, 32 * 50_000, 32 * 50_000) - half.decode_s(32, 32 * 50_000, 32 * 50_000)
    rate = all_of_it.hardware.bandwidth_tb_s * 1e12 * all_of_it.hardware.efficiency.bandwidth

    assert shorter_s == pytest.approx(31 * 32 * (50_000 - 128) * 2 * 128 * 2 / rate, rel=0.01)  # one head of keys on each of eight GPUs


@pytest.mark.parametrize(("checkpoint", "hardware", "tp", "words"), SHIPPED)
def test_a_shipped_model_is_planned_and_predicted(checkpoint, hardware, tp, words):
    a = arm_of(checkpoint, hardware, tp, words)
    bound = recipe.bound(a, 16)
    p = predict(serving(a, bound), dataclasses.replace(a.workload, prompts=32), 16)

    assert impossible(a, (16,)) is None
    assert not [word for word in bound.argv if word == "None"]
    assert 0.002 < p.tpot_median_s < 0.1
    assert p.total_tput_per_gpu_tok_s > 0


@pytest.mark.parametrize(
    ("checkpoint", "words", "field"),
    [
        ("minimax_m25_fp8", ["kv_heads=5"], "heads is 48, not a multiple of kv_heads = 5"),
        ("minimax_m25_fp8", ["head_dim=0"], "head_dim is 0"),
        ("minimax_m25_fp8", ["kv_heads=0", "head_dim=0"], "kv_heads and kv_lora_rank are 0"),
        ("deepseek_v32_fp8", ["+kv_heads=8", "+head_dim=128"], "kv_heads is 8 and kv_lora_rank 512"),
        ("deepseek_v32_fp8", ["index_heads=0"], "index_heads is 0"),
        ("deepseek_v32_fp8", ["active_experts=300"], "active_experts is 300"),
        ("deepseek_v32_fp8", ["+window=128"], "window is 128 and window_layers 0"),
        ("qwen35_fp8", ["linear_layers=70"], "window_layers + linear_layers is 70"),
        ("qwen35_fp8", ["linear_dim=0"], "linear_dim is 0"),
    ],
    ids=str,
)
def test_a_shape_that_no_model_can_have_is_refused_by_its_field(checkpoint, words, field):
    overrides = [word.replace("+", "+checkpoint.architecture.") if "+" in word else f"checkpoint.architecture.{word}" for word in words]
    with pytest.raises(SettingsError) as told:
        compose(f"checkpoint={checkpoint}", "engine=simulated", "speculative=off", *overrides)

    assert field in str(told.value)


def test_tp_divides_the_heads():
    a = arm_of("minimax_m25_fp8", words=("engine=simulated", "speculative=off"))

    assert impossible(dataclasses.replace(a, tp=5)) == "TP=5 does not divide the 48 attention heads of minimax_m25_fp8"


@pytest.mark.parametrize(("checkpoint", "tp"), [("deepseek_v32_fp8", 8), ("kimi_k25_int4", 8), ("minimax_m25_fp8", 4), ("qwen35_fp8", 8)])
def test_a_model_goes_from_conf_to_a_simulated_table(checkpoint, tp, tmp_path):
    words = [f"checkpoint={checkpoint}", f"tp={tp}", "hardware=h200", "speculative=off", "concurrency=4", "name=c", "wait=true"]
    done = bench(tmp_path, "sweep", *SMALL, *words)
    [point] = json.loads(bench(tmp_path, "tables", "outputs/c", "--format", "json").stdout)["points"]

    assert done.returncode == 0, done.stderr
    assert point["source"] == "simulated"
    assert point["total_tput_per_gpu_tok_s"] > 0
