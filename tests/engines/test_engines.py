"""The interface to engines: the facts of each engine, and the handling of a configuration file's text."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import compose

from glm5bench.analysis.held import settings_changed
from glm5bench.client.metrics import METRICS
from glm5bench.engines.adapter import Adapter
from glm5bench.engines.known import adapter, engines, serving
from glm5bench.errors import SettingsError
from glm5bench.node.command import with_files
from glm5bench.settings.validated import group_values


def test_there_are_three_engines():
    assert list(engines()) == ["sglang", "simulated", "vllm"]


def test_every_engine_of_conf_is_known():
    for name in group_values("engine"):
        assert isinstance(adapter(compose(f"engine={name}", *(["hardware=mi355x"] if name.endswith("rocm") else [])).engine), Adapter)


@pytest.mark.parametrize(
    ("info", "owner", "name"),
    [
        ({"tp_size": 8, "version": "0.5.12"}, "", "sglang"),
        ({"tp_size": 8, "simulated": True}, "sglang", "simulated"),
        ({"version": "simulated 1"}, "", "simulated"),
        ({"version": "0.16.0"}, "vllm", "vllm"),
        ({}, "sglang", "sglang"),  # a router in front of it reports no settings
        ({"version": "1.0"}, "tensorrt_llm", None),
        ({}, "", None),
    ],
)
def test_a_server_is_recognised_by_what_it_says_and_a_simulated_one_always(info, owner, name):
    found = serving(info, owner)

    assert (found and found.name) == name


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"engine\.flavor=sgland: unknown engine") as refused:
        compose("engine.flavor=sgland")
    assert refused.value.next_step == "use one of sglang, simulated, vllm"


@pytest.mark.parametrize(("compute", "dtype"), [("sm90", "bf16"), ("sm100", "fp8"), ("sm103", "fp8"), ("sm120", "fp8"), ("gfx950", "bf16")])
def test_sglang_chooses_the_type_of_its_cache_by_the_compute_capability(compute, dtype):
    hardware = dataclasses.replace(compose().arm.hardware, compute=compute)

    assert engines()["sglang"].kv_dtype(hardware, "auto") == dtype
    assert engines()["vllm"].kv_dtype(hardware, "auto") == "bf16"


def test_a_configuration_file_is_not_compared_with_what_the_server_states():
    argv = ["python3", "-m", "sglang.launch_server", "--config", '{"a": 1}', "--tp-size", "8"]

    assert settings_changed(argv, {"config": "/job/config.yaml", "tp_size": 4}) == (("--tp-size", "8", "4"),)


def test_every_metric_of_an_engine_is_one_that_is_read():
    for engine in engines().values():
        assert set(engine.metrics) <= {m.name for m in METRICS}


@pytest.mark.parametrize("name", ["sglang", "vllm"])
def test_the_text_of_a_configuration_file_is_written_where_the_server_runs(tmp_path, name):
    text = json.dumps({"max-model-len": 1000})

    made = with_files(engines()[name], ["serve", "--config", text, "--port", "1"], tmp_path)

    assert made == ["serve", "--config", str(tmp_path / "config.yaml"), "--port", "1"]
    assert json.loads(Path(made[2]).read_text()) == {"max-model-len": 1000}


def test_a_path_of_a_configuration_file_and_other_flags_stay_as_they_are(tmp_path):
    argv = ["serve", "--config", "/etc/a.yaml", "--speculative-config", '{"method": "mtp"}']

    assert with_files(engines()["vllm"], argv, tmp_path) == argv
    assert list(tmp_path.iterdir()) == []


def test_every_engine_that_ships_refuses_requests_without_its_key():
    assert all(engine.takes_key for engine in engines().values())
    assert not Adapter("other").takes_key


def test_an_engine_that_says_nothing_of_itself_has_safe_answers(tmp_path):
    plain = Adapter("other")

    assert plain.keyed(["serve"], tmp_path) == ["serve"]
    assert (plain.admitted({}, {}, ()), plain.kv_tokens({}), plain.gpus({})) == (None, None, None)
    assert plain.observed({}) == plain.log.memory("") == {}
