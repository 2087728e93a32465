"""The state of a ready server, over real HTTP: memory and start phases in its log, and whether its settings are those requested."""

import contextlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from program import TESTS

from glm5bench.engines.known import adapter, engines
from glm5bench.errors import ServerError
from glm5bench.node.command import Place
from glm5bench.node.log import Log, Phase
from glm5bench.node.server import Server
from glm5bench.node.settled import refuse_other_settings, start_facts
from glm5bench.recipe import bound
from glm5bench.settings.overrides import compose

RECORDED = TESTS / "data" / "sglang_cpu"
B200 = {
    "version": "0.5.12", "model_path": "/m/GLM-5", "tp_size": 8, "dp_size": 1, "ep_size": 1, "kv_cache_dtype": "fp8_e4m3",
    "quantization": "fp8", "attention_backend": "nsa", "max_total_num_tokens": 430067,
    "internal_states": [{"effective_max_running_requests_per_dp": 64, "memory_usage": {"token_capacity": 430067}}],
}  # fmt: skip


@contextlib.contextmanager
def answering(tmp_path, info, *, log="", overrides=("hardware=b200",)):
    """A server of this recipe that reports this information."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(info).encode()
            self.send_response(200 if self.path == "/server_info" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_): ...

    arm = compose(*overrides).arm
    path = tmp_path / "server.log"
    told = Log(path, {}, [], lambda text: text.replace("s3cret", "<redacted>"))
    path.write_text(log)
    told.reached = [Phase("loading weights", 20.0, ""), Phase("preparing kernels", 620.0, ""), Phase("capturing graphs", 800.0, "")]
    place = Place(tmp_path, "/m/GLM-5", "gpu7", lambda: False)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{http.server_port}", "s3cret", bound(arm, 64), arm, place, process, told, 900.0)
        finally:
            http.shutdown()
            thread.join()
            process.communicate(b"\n")


def test_its_start_and_memory_are_told(tmp_path):
    log = "[2026-07-14 07:51:02 TP0] Load weight end. elapsed=20.5 s, type=X, avail mem=49.1 GB, mem usage=89.40 GB. s3cret\n"
    with answering(tmp_path, B200, log=log) as server:
        told = start_facts(server, server.recipe)

    assert told["startup"] | {"kv_tokens_predicted": 0} == {
        "start_s": 900.0, "image_s": 20.0, "load_s": 20.5, "compile_s": 180.0, "graphs_s": 100.0, "weights_gib": 89.4,
        "kv_tokens": 430067.0, "kv_tokens_predicted": 0,
    }  # fmt: skip
    assert told["startup"]["kv_tokens_predicted"] > 1e6
    assert told["model_path"] == "/m/GLM-5"


def test_the_caches_of_data_parallel_ranks_add_up(tmp_path):
    two = {**B200, "internal_states": [{"memory_usage": {"token_capacity": 1000}}, {"memory_usage": {"token_capacity": 900}}]}
    with answering(tmp_path, two) as server:
        assert start_facts(server, server.recipe)["startup"]["kv_tokens"] == 1900


def test_a_recorded_server_is_told_apart_from_the_one_that_was_asked_for(tmp_path):
    recorded = json.loads((RECORDED / "server_info.json").read_text())
    with answering(tmp_path, recorded, log=(RECORDED / "server.log").read_text()) as server:
        facts = start_facts(server, server.recipe)
        with pytest.raises(ServerError) as raised:
            refuse_other_settings(server, facts)

    assert {name: facts["startup"][name] for name in ("kv_tokens", "kv_gib", "weights_gib")} == {
        "kv_tokens": 65536.0, "kv_gib": 0.04, "weights_gib": 0.0,
    }  # fmt: skip
    model = "the checkpoint /m/GLM-5 became /work/eng3/models/test/tiny"
    for says in ("--tensor-parallel-size 8 became 1", "--attention-backend nsa became torch_native", model):
        assert says in str(raised.value)


def test_the_server_that_was_asked_for_is_measured(tmp_path):
    with answering(tmp_path, B200) as server:
        assert refuse_other_settings(server, start_facts(server, server.recipe)) is None


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"kv_cache_dtype": "bfloat16"}, "--kv-cache-dtype fp8_e4m3 became bfloat16"),
        ({"tp_size": 4}, "--tensor-parallel-size 8 became 4"),
        ({"model_path": "/m/GLM-5-other"}, "the checkpoint /m/GLM-5 became /m/GLM-5-other"),
        ({"internal_states": [{"quantization": "fp8"}, {"quantization": "modelopt_fp4"}]}, "--quantization fp8 became modelopt_fp4"),
    ],
)
def test_another_server_is_refused_before_it_costs_an_hour(tmp_path, other, says):
    with answering(tmp_path, {**B200, **other}) as server, pytest.raises(ServerError, match=says) as raised:
        refuse_other_settings(server, start_facts(server, server.recipe))

    assert raised.value.failure_class == "server_settings"
    assert "engine.settings_may_differ" in raised.value.next_step


def test_what_may_differ_does_not_refuse_it(tmp_path):
    asked = ("hardware=b200", "engine.settings_may_differ=[--kv-cache-dtype]")
    with answering(tmp_path, {**B200, "kv_cache_dtype": "bfloat16"}, overrides=asked) as server:
        assert refuse_other_settings(server, start_facts(server, server.recipe)) is None


def test_a_server_that_says_nothing_of_itself_is_taken(tmp_path):
    with answering(tmp_path, {}) as server:
        assert refuse_other_settings(server, start_facts(server, server.recipe)) is None


@pytest.mark.parametrize(
    ("overrides", "flags"),
    [
        (("hardware=b200",), ["--enable-metrics"]),
        (("hardware=b200", "engine.extra_args=[--enable-metrics]"), []),
        (("hardware=b200", "engine=vllm", "speculative=off"), []),
        (("hardware=b200", "engine=simulated"), []),
    ],
)
def test_the_node_asks_sglang_for_its_metrics_and_no_recipe_does(overrides, flags):
    arm = compose(*overrides).arm

    assert adapter(arm.engine).flags_of_the_node(bound(arm, 4).argv) == flags


@pytest.mark.parametrize(
    ("settings", "extra", "admitted"),
    [
        ({"max_num_seqs": "64"}, [], 64),
        ({}, ["--max-num-seqs", "32"], 32),
        ({}, ["--max-num-seqs=16"], 16),
        ({}, [], None),
        ({"max_num_seqs": "x"}, [], None),
    ],
)
def test_how_many_requests_vllm_admits_is_read_from_its_log_or_its_command(settings, extra, admitted):
    assert engines()["vllm"].admitted({"version": "0.33.0"}, settings, extra) == admitted
