"""A server's own token counts, from its Prometheus page."""

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from program import TESTS

from glm5bench.client import counters
from glm5bench.client.counters import Counted, counted, counted_since
from glm5bench.client.endpoint import Endpoint
from glm5bench.client.metrics import values
from glm5bench.node.server import free_port

SGLANG = """\
# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{engine_type="unified",model_name="glm-5-fp8"} 8192.0
# HELP sglang:generation_tokens_total Number of generation tokens processed.
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{engine_type="unified",model_name="glm-5-fp8"} 1024.0
sglang:cached_tokens_total{engine_type="unified",model_name="glm-5-fp8"} 77.0
sglang:spec_accept_length{engine_type="unified",model_name="glm-5-fp8"} NaN
"""
VLLM = """\
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="zai-org/GLM-5-FP8"} 1.6384e+06
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="zai-org/GLM-5-FP8"} 1.7480736e+09
vllm:generation_tokens_total{engine="0",model_name="zai-org/GLM-5-FP8"} 204800.0
vllm:generation_tokens_created{engine="0",model_name="zai-org/GLM-5-FP8"} 1.7480736e+09
vllm:request_prompt_tokens_sum{engine="0",model_name="zai-org/GLM-5-FP8"} 5.0
"""
NOTHING_YET = Counted(0, 0)
GAUGE_ONLY = """\
sglang:cache_hit_rate{engine_type="unified",model_name="glm-5-fp8"} 0.97
sglang:prompt_tokens_total{engine_type="unified",model_name="glm-5-fp8"} 8192.0
sglang:generation_tokens_total{engine_type="unified",model_name="glm-5-fp8"} 1024.0
"""  # the gauge is that of the last prefill batch


def page(prompt, generated):
    return f"sglang:prompt_tokens_total {prompt}\nsglang:generation_tokens_total {generated}\n"


@dataclass
class Serving(Endpoint):
    """A server that returns these pages in turn, then the last one. `n_asked`: the number of requests."""

    base_url: str = ""
    api_key: str = "key"
    pages: list[str] = field(default_factory=list)
    n_asked: int = 0


@contextlib.contextmanager
def serving(*pages):
    said = Serving(pages=list(pages))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            is_right = self.path == "/metrics" and self.headers["authorization"] == "Bearer key"
            body = said.pages[min(said.n_asked, len(said.pages) - 1)].encode() if is_right else b"no"
            said.n_asked += 1
            self.send_response(200 if is_right else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Requests are not logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        said.base_url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield said
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("body", "tokens"), [(SGLANG, (8192, 1024)), (VLLM, (1_638_400, 204_800))], ids=["sglang", "vllm"])
def test_each_engine_s_own_counters_are_read(body, tokens):
    with serving(body) as server:
        assert counted(server) == Counted(*tokens)


def test_a_recorded_server_s_metrics_are_read():
    """Two of 82 families, plus histograms; no radix cache was on."""
    page = (TESTS / "data/sglang_cpu/metrics.txt").read_text()
    with serving(page) as server:
        assert counted(server) == Counted(27510, 6863)
    assert values(page) == {
        "running": 7.0, "queued": 0.0, "kv_usage": 0.03, "generation_tput": pytest.approx(1690.39, abs=0.01), "cache_hit_rate": 0.0,
        "prompt_tokens": 27510.0, "generation_tokens": 6863.0,
    }  # fmt: skip


def test_the_ranks_of_a_server_are_summed():
    ranks = "".join(
        f'sglang:{name}_tokens_total{{dp_rank="{rank}",tp_rank="0"}} {n}.0\n'
        for rank, n in enumerate((100, 20, 3))
        for name in ("prompt", "generation")
    )
    with serving(ranks) as server:
        assert counted(server) == Counted(123, 123)


def test_counters_without_labels_are_read():
    with serving(page(7, 5)) as server:
        assert counted(server) == Counted(7, 5)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "sglang:prompt_tokens_total 5\n",
        "sglang:generation_tokens_total 5\n",
        page("NaN", 5),
        page(5, "NaN"),
        "other:prompt_tokens_total 5\nother:generation_tokens_total 5\n",
        "# sglang:prompt_tokens_total 5\n# sglang:generation_tokens_total 5\n",
        "<html>404</html>",
    ],
)
def test_a_page_without_both_counters_tells_nothing(body):
    with serving(body) as server:
        assert counted(server) is None


def test_one_rank_that_is_no_number_spoils_the_sum():
    with serving(SGLANG + 'sglang:prompt_tokens_total{dp_rank="1"} NaN\n') as server:
        assert counted(server) is None


def test_a_server_that_does_not_let_the_client_in_tells_nothing():
    with serving(SGLANG) as server:
        server.api_key = "wrong"
        assert counted(server) is None


def test_a_server_that_is_gone_tells_nothing():
    assert counted(Serving(f"http://127.0.0.1:{free_port()}")) is None


def test_what_was_counted_since_is_the_difference():
    with serving(page(108, 42)) as server:
        assert counted_since(server, Counted(100, 40), Counted(8, 2)) == Counted(8, 2)
        assert server.n_asked == 1


def test_counters_that_settle_late_are_waited_for():
    with serving(page(0, 0), page(60, 0), page(60, 12), page(60, 20), page(61, 21)) as server:
        assert counted_since(server, NOTHING_YET, Counted(60, 20)) == Counted(60, 20)
        assert server.n_asked == 4


def test_counters_that_never_agree_are_told_as_they_are(monkeypatch):
    monkeypatch.setattr(counters, "SETTLE_S", -1.0)

    with serving(page(61, 20)) as server:
        assert counted_since(server, NOTHING_YET, Counted(60, 20)) == Counted(61, 20)


def test_without_a_count_from_before_there_is_none_since():
    with serving(page(60, 20)) as server:
        assert counted_since(server, None, Counted(60, 20)) is None
        assert server.n_asked == 0


def test_counters_that_went_away_tell_nothing_since():
    with serving(page(1, 1), "") as server:
        assert counted_since(server, NOTHING_YET, Counted(60, 20)) is None


@pytest.mark.parametrize("value", ["+Inf", "-Inf", "many"])
def test_a_counter_that_is_no_number_is_no_counter(value):
    with serving(f"sglang:prompt_tokens_total {value}\nsglang:generation_tokens_total 5\n") as server:
        assert counted(server) is None


def test_a_brace_in_a_label_hides_no_counter():
    page = 'sglang:prompt_tokens_total{model_name="a}b"} 5\nsglang:generation_tokens_total{model_name="a}b"} 6\n'
    with serving(page) as server:
        assert counted(server) == Counted(5, 6)


@pytest.mark.parametrize(
    ("labels", "running"),
    [
        ([f'tp_rank="{i}",dp_rank="{i}"' for i in range(8)], 256),  # data-parallel attention
        ([f'tp_rank="{i}"' for i in range(8)], 32),  # one replica, whose ranks all report the same
        ([f'engine="{i}"' for i in range(2)], 64),
        ([f'tp_rank="0",priority="{i}"' for i in range(2)], 64),  # parts of one total
    ],
)
def test_replicas_add_up_and_the_ranks_of_one_do_not(labels, running):
    assert values("".join(f"sglang:num_running_reqs{{{label}}} 32\n" for label in labels)) == {"running": running}


def test_a_gauge_of_the_last_batch_is_no_count_of_hits():
    with serving(GAUGE_ONLY) as server:
        assert counted(server) == Counted(8192, 1024)
        assert counted(server).cache_hits is None


def test_names_without_a_colon_are_the_same_counters():
    with serving(SGLANG.replace("sglang:", "sglang_")) as server:
        found = counted(server)

    assert (found.prompt_tokens, found.generation_tokens, found.cache_hits) == (8192, 1024, 77)


@pytest.mark.parametrize(
    ("before", "after", "since"),
    [
        (Counted(10, 5, cache_hits=None), Counted(30, 9, cache_hits=7), Counted(20, 4, cache_hits=7)),  # it appears with the first hit
        (Counted(10, 5, cache_hits=3), Counted(30, 9, cache_hits=7), Counted(20, 4, cache_hits=4)),
        (Counted(10, 5), Counted(30, 9), Counted(20, 4)),
        (Counted(10, 5, cache_hits=3), Counted(30, 9, cache_hits=1), None),  # reset, and counted again
        (Counted(10, 5), Counted(3, 1), None),
        (Counted(10, 5, cache_hits=3), Counted(30, 9), None),
    ],
)
def test_a_counter_that_goes_back_is_unknown(before, after, since):
    found = after.since(before)

    assert found == since
    assert since is None or found.cache_hits == since.cache_hits
