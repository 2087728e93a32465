"""Memory, start-up times and settings from engines' logs. The lines are from real servers, combined here."""

import pytest
from program import TESTS

from glm5bench.engines.known import engines

LOGS = TESTS / "data" / "engine_logs"
RECORDED = TESTS / "data" / "sglang_cpu"
SGLANG = (LOGS / "sglang.log").read_text()
VLLM = (LOGS / "vllm.log").read_text()


def test_sglang_says_its_memory_of_target_and_draft_the_highest_over_the_ranks():
    assert engines()["sglang"].log.memory(SGLANG) == {
        "weights_gib": pytest.approx(90.4), "load_s": pytest.approx(30.76), "kv_gib": pytest.approx(27.4),
        "graphs_gib": pytest.approx(1.92), "graphs_s": pytest.approx(42.65),
    }  # fmt: skip


def test_a_recorded_server_says_its_memory():
    """Two layers in BF16: 65,536 tokens x 2 heads x 32 x 2 bytes x 2 layers = 0.016 GiB of keys, and of values; the log rounds each."""
    assert engines()["sglang"].log.memory((RECORDED / "server.log").read_text()) == {"weights_gib": 0.0, "load_s": 0.01, "kv_gib": 0.04}


def test_vllm_says_its_memory():
    assert engines()["vllm"].log.memory(VLLM) == {
        "weights_gib": 88.66, "load_s": 31.657031, "kv_gib": 64.49, "graphs_gib": 1.92, "graphs_s": 21.0, "compile_s": 14.85,
        "kv_tokens": 1823372.0,
    }  # fmt: skip


def test_separate_keys_and_values_add_up():
    line = "[2026-07-01 15:19:55 TP10] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 387968, K size: 5.92 GB, V size: 5.92 GB"

    assert engines()["sglang"].log.memory(line) == {"kv_gib": pytest.approx(11.84)}


def test_later_versions_say_tokens_and_concurrency_in_one_line():
    line = "INFO [x.py:1] GPU KV cache size: 5,000 tokens, Maximum concurrency for 1,000 tokens per request: 5.00x"

    assert engines()["vllm"].log.memory(line)["kv_tokens"] == 5000


def test_vllm_says_its_settings():
    assert engines()["vllm"].settings(VLLM) == {
        "model": "/m/GLM-5", "tensor_parallel_size": "8", "max_model_len": "32768", "trust_remote_code": True,
        "kv_cache_dtype": "auto", "quantization": "fp8",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "non-default args: {'a': open('x')}", "non-default args: {", "\x00\xff KV Cache is allocated."])
def test_what_says_nothing_is_nothing(text):
    assert engines()["sglang"].log.memory(text) == engines()["vllm"].log.memory(text) == engines()["vllm"].settings(text) == {}


def test_replicas_are_told_apart_and_not_added_up():
    line = "[2026-07-14 07:51:02 DP{} TP0] Load weight end. elapsed=20.5 s, type=X, avail mem=49.1 GB, mem usage=89.40 GB.\n"

    assert engines()["sglang"].log.memory(line.format(0) + line.format(1)) == {"weights_gib": 89.4, "load_s": 20.5}
