import http.client
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from program import ROOT


@pytest.fixture(scope="module")
def port():
    command = [sys.executable, str(ROOT / "benchmarks" / "truth.py"), "--rate", "500", "--ttft-s", "0.05", "--tokens-per-chunk", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline().split()[1])
        server.terminate()


@pytest.fixture
def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def asked(method, path, body=None, **headers):
        connection.request(method, path, body and json.dumps(body), headers)
        return connection.getresponse().read()

    yield asked
    connection.close()


def events(answer):
    return [line.removeprefix("data: ") for line in answer.decode().split("\n\n") if line]


def streamed(ask, tokens, path="/v1/completions", **more):
    prompt = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a b c"}
    return events(ask("POST", path, {"model": "m", "max_tokens": tokens, "stream": True, **prompt, **more}, **{"X-Request-ID": "mine"}))


def truth(ask):
    return np.load(io.BytesIO(ask("GET", "/truth")))


def test_the_first_token_names_the_request_in_the_truth(ask):
    first = json.loads(streamed(ask, 5)[0])["choices"][0]["text"]

    assert first.split()[0] == f"r{truth(ask)['number'][-1]}"
    assert truth(ask)["request_id"][-1] == "mine"


def test_every_chunk_has_its_time_and_none_comes_before_it_is_due(ask):
    ask("POST", "/truth/reset")
    streamed(ask, 5)
    streamed(ask, 4)
    held = truth(ask)

    assert held["offsets"].tolist() == [0, 3, 5]  # two tokens per chunk
    assert (held["chunk_ns"][held["offsets"][:-1]] - held["received_ns"] >= 50e6).all()
    assert (np.diff(held["chunk_ns"]) > 0).all()
    assert held["held_back"] == 0


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_usage_comes_last_or_on_every_chunk_as_asked(ask, path):
    said = [[json.loads(e).get("usage") for e in streamed(ask, 5, path, stream_options=o)[-5:-1]] for o in ({"include_usage": True},)]

    assert [u and u["completion_tokens"] for u in said[0]] == [None, None, None, 5]
    every = streamed(ask, 5, path, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [json.loads(e)["usage"]["completion_tokens"] for e in every[-5:-1]] == [2, 4, 5, 5]
    assert every[-1] == "[DONE]"


def test_a_stream_without_usage_has_none(ask):
    assert len(streamed(ask, 5)) == 4


def test_what_it_serves_is_marked_as_simulated(ask):
    assert json.loads(ask("GET", "/v1/models"))["data"][0]["owned_by"] == "simulated"


def test_a_request_that_cannot_be_read_is_refused(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/completions", "{")

    with connection.getresponse() as answer:
        assert answer.status == 400
    connection.close()
