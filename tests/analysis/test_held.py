"""Whether a server ran with the settings that were asked for, and whether its counters match its answers."""

import dataclasses

import pytest
from conftest import besides_waves, compose, measured, raw, three_requests
from hypothesis import given
from hypothesis import strategies as st

from glm5bench import recipe
from glm5bench.analysis.held import settings_changed
from glm5bench.analysis.metrics import figures
from glm5bench.analysis.reasons import FLAGGED, INVALID
from glm5bench.analysis.validity import Circumstances, verdict

CALM = Circumstances(2, None, None, None, None, None, None, engine_version=None, has_no_container=False)
B200 = {  # settings that SGLang reports with the recipe of a B200, at concurrency 64
    "model_path": "/shared/models/zai-org/GLM-5-FP8",
    "host": "127.0.0.1",
    "port": 54155,
    "trust_remote_code": True,
    "tp_size": 8,
    "dp_size": 1,
    "ep_size": 1,
    "tool_call_parser": "glm47",
    "reasoning_parser": "glm45",
    "mem_fraction_static": 0.85,
    "kv_cache_dtype": "fp8_e4m3",
    "attention_backend": "nsa",
    "nsa_decode_backend": "trtllm",
    "nsa_prefill_backend": "trtllm",
    "moe_runner_backend": "flashinfer_trtllm",
    "cuda_graph_max_bs": 64,
    "max_running_requests": 64,
    "chunked_prefill_size": 32768,
    "max_prefill_tokens": 32768,
    "enable_flashinfer_allreduce_fusion": True,
    "disable_radix_cache": True,
    "stream_interval": 30,
    "model_loader_extra_config": '{"enable_multithread_load":true}',
    "quantization": "fp8",
    "speculative_algorithm": "EAGLE",
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
    "watchdog_timeout": 300,
    "version": "0.5.12",
}


def asked_of_b200():
    return recipe.bound(compose().arm, 64).argv


def judged(requests, **circumstances):
    return besides_waves(verdict(requests, figures(requests), dataclasses.replace(CALM, **circumstances)))


def test_a_server_that_runs_as_its_recipe_asks_has_changed_nothing():
    assert settings_changed(asked_of_b200(), B200) == ()


@pytest.mark.parametrize(
    ("name", "has", "told"),
    [
        ("speculative_num_draft_tokens", 5, ("--speculative-num-draft-tokens", "4", "5")),
        ("chunked_prefill_size", 4096, ("--chunked-prefill-size", "32768", "4096")),
        ("max_running_requests", 48, ("--max-running-requests", "64", "48")),
        ("tp_size", 4, ("--tensor-parallel-size", "8", "4")),
        ("dp_size", 8, ("--data-parallel-size", "1", "8")),
        ("ep_size", 8, ("--expert-parallel-size", "1", "8")),
        ("kv_cache_dtype", "bfloat16", ("--kv-cache-dtype", "fp8_e4m3", "bfloat16")),
        ("disable_radix_cache", False, ("--disable-radix-cache", "true", "false")),
        ("quantization", None, ("--quantization", "fp8", "null")),
        ("mem_fraction_static", 0.8, ("--mem-fraction-static", "0.85", "0.8")),
    ],
)
def test_a_setting_that_the_server_changed_is_told_with_what_was_asked(name, has, told):
    assert settings_changed(asked_of_b200(), {**B200, name: has}) == (told,)


@pytest.mark.parametrize(
    ("asked", "has"),
    [
        (["--x", "0.90"], 0.9),
        (["--x", "8"], 8),
        (["--x=8"], 8),
        (["--x"], True),
        (["--x", "true"], True),
        (["--x", "FP8_E4M3"], "fp8_e4m3"),
        (["--x", '{"a": 1, "b": 2}'], '{"b":2,"a":1}'),
        (["--x", '{"a": 1}'], {"a": 1}),
        (["--x", "-1"], -1),
        (["--x", "1", "--x", "2"], 2),
        (["--x", "--y", "3"], True),
    ],
)
def test_the_same_value_in_other_words_is_no_change(asked, has):
    assert settings_changed(["python3", "-m", "sglang.launch_server", *asked], {"x": has}) == ()


@pytest.mark.parametrize("word", ["$HEAD", "$NNODES", "$RANK", "$BOOTSTRAP"])
def test_what_the_node_replaces_is_no_change(word):
    """Otherwise every server over several nodes and every prefill worker is refused: it reports the address that it was given."""
    assert settings_changed(["--dist-init-addr", word], {"dist_init_addr": "10.0.0.1:5000"}) == ()


def roles_of(decode_has):
    """A point of two decode workers and a prefill worker behind a router, in which the second decode worker has this page size."""
    argv = {role: ["python3", "-m", "sglang.launch_server", "--page-size", page] for role, page in (("prefill", "32"), ("decode", "64"))}
    router = ["python3", "-m", "sglang_router.launch_router", "--policy", "random"]
    roles = [{"role": role, "recipe": {"argv": words}} for role, words in argv.items()]
    stated = {"prefill-0.0": 32, "decode-0.0": 64, "decode-1.0": decode_has}
    info = {"page_size": 64, "policy": "fcfs", "workers": {name: {"page_size": page} for name, page in stated.items()}}
    return measured(recipe={"argv": router, "roles": roles}, server={"info": info})


def test_every_worker_is_compared_with_the_command_of_its_own_role():
    """`--policy` of the router is not the scheduling policy of a worker."""
    assert "server_settings" not in roles_of(64).verdict().codes

    (reason,) = (r for r in roles_of(32).verdict().reasons if r.code == "server_settings")
    assert "--page-size 64 became 32" in reason.text


def test_what_the_server_leaves_at_auto_is_no_change():
    assert settings_changed(asked_of_b200(), {**B200, "kv_cache_dtype": "auto"}) == ()


def test_what_the_server_adds_by_itself_is_no_change():
    assert settings_changed(["--tp-size", "8"], {"tp_size": 8, "page_size": 64, "max_running_requests": 48}) == ()


def test_what_the_server_does_not_state_is_no_change():
    assert settings_changed(asked_of_b200(), {"version": "0.16.0"}) == ()
    assert settings_changed(asked_of_b200(), {}) == ()


@pytest.mark.parametrize("flag", ["--model-path", "--host", "--port", "--tokenizer-path", "--api-key", "--facts"])
def test_what_the_node_gives_is_not_compared(flag):
    assert settings_changed([flag, "$GIVEN"], {flag[2:].replace("-", "_"): "/shared/models"}) == ()


def test_the_last_of_a_repeated_flag_is_what_was_asked():
    argv = [*asked_of_b200(), "--max-running-requests", "32"]

    assert settings_changed(argv, B200) == (("--max-running-requests", "32", "64"),)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_no_value_that_is_stated_as_it_was_asked_is_a_change(value):
    assert settings_changed(["--x", str(value)], {"x": value}) == ()


@given(st.integers(), st.integers())
def test_two_numbers_are_a_change_where_they_differ(asked, has):
    assert bool(settings_changed(["--x", str(asked)], {"x": has})) == (asked != has)


def test_another_setting_makes_a_point_invalid_and_another_count_flags_it():
    assert "token_counters" in FLAGGED
    assert "server_settings" in INVALID


def test_a_server_that_changed_its_settings_flags_a_point_and_each_is_told():
    v = judged(three_requests(), settings_changed=(("--tp-size", "8", "4"), ("--x", "true", "false")))

    assert (v.validity, v.codes) == ("invalid", ("server_settings",))
    assert v.reasons[0].text == "the server runs with other settings than asked: --tp-size 8 became 4, --x true became false"


def test_counters_that_agree_with_the_answers_leave_a_point_valid():
    assert judged(three_requests(), counted_tokens=(60, 20)).validity == "valid"


@pytest.mark.parametrize("counted", [(61, 20), (60, 21), (60, 19), (0, 0)])
def test_counters_that_say_otherwise_than_the_answers_flag_a_point(counted):
    v = judged(three_requests(), counted_tokens=counted)

    assert (v.validity, v.codes) == ("flagged", ("token_counters",))


def test_both_counts_are_told():
    v = judged(raw([0, 0], [1, 1], [3, 3], prompt=[8000, 2000], out=[600, 500]), counted_tokens=(10_001, 1100))

    told = "the server counted 10,001 prompt and 1,100 output tokens, but its answers add up to 10,000 prompt and 1,100 output tokens"
    assert v.reasons[0].text == told


def test_counters_are_not_held_against_a_point_whose_requests_failed():
    assert judged(three_requests(error=["", "reset", ""]), counted_tokens=(9, 9)).codes == ("failed_requests",)


def test_a_server_without_counters_is_not_held_against_a_point():
    assert judged(three_requests(), counted_tokens=None).codes == ()


def test_a_measurement_compares_its_own_command_with_what_its_server_said():
    argv = ["python3", "-m", "sglang.launch_server", "--tp-size", "8", "--kv-cache-dtype", "fp8_e4m3"]
    changed = measured(recipe={"argv": argv}, server={"info": {"tp_size": 8, "kv_cache_dtype": "bfloat16"}})
    same = measured(recipe={"argv": argv}, server={"info": {"tp_size": 8, "kv_cache_dtype": "fp8_e4m3"}})

    assert besides_waves(changed.verdict()).codes == ("server_settings",)
    assert besides_waves(same.verdict()).codes == ()


def test_a_measurement_compares_its_answers_with_what_its_server_counted():
    def told(prompt, generated):
        return besides_waves(measured(server={"counted_tokens": {"prompt_tokens": prompt, "generation_tokens": generated}}).verdict()).codes

    assert told(60, 20) == ()
    assert told(60, 22) == ("token_counters",)
    assert besides_waves(measured(server={"counted_tokens": None}).verdict()).codes == ()


def test_a_list_of_values_is_compared_as_one():
    assert settings_changed(["--cuda-graph-bs", "1", "2", "4"], {"cuda_graph_bs": [1, 2, 4]}) == ()
    assert settings_changed(["--cuda-graph-bs", "1", "2"], {"cuda_graph_bs": [1, 2, 4]}) == (("--cuda-graph-bs", "1 2", "[1, 2, 4]"),)


def test_what_was_left_to_the_server_to_choose_is_no_change():
    assert settings_changed(["--kv-cache-dtype", "auto"], {"kv_cache_dtype": "bfloat16"}) == ()


@pytest.mark.parametrize(
    ("argv", "info"),
    [
        (["--speculative-algorithm", "NEXTN"], {"speculative_algorithm": "EAGLE"}),
        (["--grammar-backend", "none"], {"grammar_backend": None}),
        (["--trust-remote-code", "-tp", "8"], {"trust_remote_code": True}),
        (["--attention-backend", "nsa"], {"attention_backend": "dsa"}),
        (["--nsa-decode-backend", "trtllm"], {"dsa_decode_backend": "trtllm"}),
        (["--dsa-decode-backend", "trtllm"], {"nsa_decode_backend": "trtllm"}),
        (["--cuda-graph-max-bs", "64"], {"cuda_graph_max_bs_decode": 64}),
        (["--kv-cache-dtype", "fp8"], {"kv_cache_dtype": "fp8_ds_mla"}),
        (["--kv-cache-dtype", "bf16"], {"kv_cache_dtype": "bfloat16"}),
        (["--max-model-len", "32k"], {"max_model_len": "32000"}),
        (["--max-model-len", "32K"], {"max_model_len": 32768}),
        (
            ["--enable-flashinfer-allreduce-fusion"],
            {"enable_flashinfer_allreduce_fusion": False, "flashinfer_allreduce_fusion_backend": "auto"},
        ),
    ],
)
def test_two_words_for_one_thing_are_no_change(argv, info):
    assert settings_changed(argv, info) == ()


def test_a_simulated_server_states_what_it_simulates_and_no_setting_of_its_is_said_to_have_changed():
    told = {"recipe": {"argv": ["--kv-cache-dtype", "fp8_e4m3"]}}
    server = {"info": {"kv_cache_dtype": "bfloat16"}}
    real = measured(server=server, **told)

    assert "server_settings" in besides_waves(real.verdict()).codes
    assert "server_settings" not in besides_waves(dataclasses.replace(real, source="simulated").verdict()).codes


def test_every_data_parallel_rank_is_looked_at():
    ranks = [{"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "bfloat16"}]
    changed = settings_changed(["--kv-cache-dtype", "fp8_e4m3"], {"kv_cache_dtype": "fp8_e4m3", "internal_states": ranks})

    assert changed == (("--kv-cache-dtype", "fp8_e4m3", "bfloat16"),)


def test_another_backend_under_its_later_name_is_a_change():
    assert settings_changed(["--nsa-decode-backend", "trtllm"], {"dsa_decode_backend": "fa3"}) == (
        ("--nsa-decode-backend", "trtllm", "fa3"),
    )


def test_what_the_user_says_may_differ_is_not_compared():
    engine = {"settings_may_differ": ["--kv-cache-dtype"]}
    m = measured(server={"info": {"kv_cache_dtype": "bfloat16"}}, recipe={"argv": ["--kv-cache-dtype", "fp8_e4m3"]}, arm={"engine": engine})

    assert besides_waves(m.verdict()).validity == "valid"


def test_vllm_is_held_to_what_its_log_states():
    recipe = {"argv": ["--tensor-parallel-size", "8", "--max-model-len", "32768", "--gpu-memory-utilization", "0.90"]}
    stated = {"tensor_parallel_size": "4", "max_model_len": "32768", "gpu_memory_utilization": 0.9}

    assert [
        r.text for r in besides_waves(measured(server={"info": {"version": "0.16.0"}, "settings": stated}, recipe=recipe).verdict()).reasons
    ] == ["the server runs with other settings than asked: --tensor-parallel-size 8 became 4"]


def test_a_fusion_that_is_off_under_both_of_its_names_is_a_change():
    stated = {"enable_flashinfer_allreduce_fusion": False, "flashinfer_allreduce_fusion_backend": None}

    assert settings_changed(["--enable-flashinfer-allreduce-fusion"], stated)
