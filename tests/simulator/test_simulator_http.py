"""The simulated server over real HTTP: the shapes of SGLang, compared with transcripts of a real server."""

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from program import ROOT, bench, until

from glm5bench.node.server import free_port

ENDLESS = {"model": "m", "prompt": [1] * 3000, "max_tokens": 150_000, "stream": True}


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    """A B200 server, started as a user starts one."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "glm5bench",
        "simulate",
        "--port",
        str(port),
        "engine.time_scale=50",
        "hardware=b200",
        "concurrency=64",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        until(lambda: answers(client), "a ready server")
        yield client
    process.terminate()
    process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def events(client: httpx.Client, path: str, body: dict) -> list:
    text = client.post(path, json=body).text
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [d if d == "[DONE]" else json.loads(d) for d in data]


def test_a_completions_stream_ends_with_its_finish_reason_usage_and_done(server):
    body = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 70, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events(server, "/v1/completions", body)

    assert done == "[DONE]"
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 3, "total_tokens": 73, "completion_tokens": 70})
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(c["usage"] is None for c in chunks)


def test_a_stream_interval_puts_many_tokens_into_a_chunk(server):
    body = {"model": "m", "prompt": [1], "max_tokens": 100, "stream": True}
    chunks = events(server, "/v1/completions", body)[:-1]

    assert chunks[0]["choices"][0]["text"] == " tok"
    assert len(chunks) < 8
    assert sum(c["choices"][0]["text"].count("tok") for c in chunks) == 100


def test_continuous_usage_counts_up_on_every_chunk(server):
    body = {"model": "m", "prompt": [1], "max_tokens": 100, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    counts = [c["usage"]["completion_tokens"] for c in events(server, "/v1/completions", body)[:-1]]

    assert counts == sorted(set(counts))
    assert counts[-1] == 100


def test_chat_opens_with_an_empty_role_chunk(server):
    body = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 5, "stream": True}
    first, second = events(server, "/v1/chat/completions", body)[:2]

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "usage" not in first
    assert second["choices"][0]["delta"]["content"]


def test_generate_is_cumulative_and_counts_verify_steps_at_its_end(server):
    body = {"text": "a b", "sampling_params": {"max_new_tokens": 65}, "stream": True}
    chunks = events(server, "/generate", body)[:-1]

    assert [c["meta_info"]["completion_tokens"] for c in chunks] == [c["text"].count("tok") for c in chunks]
    assert chunks[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 65}
    assert 65 / 4 <= chunks[-1]["meta_info"]["spec_verify_ct"] + 1 <= 65


def test_without_streaming_the_whole_answer_comes_at_once(server):
    whole = server.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 7}).json()

    assert whole["usage"]["completion_tokens"] == 7
    assert whole["choices"][0]["message"]["content"] == " tok" * 7


def test_server_info_says_that_it_is_simulated_and_what_was_resolved(server):
    info = server.get("/server_info").json()

    assert (info["simulated"], info["time_scale"]) == (True, 50)
    assert info["internal_states"][0]["effective_max_running_requests_per_dp"] == 64
    assert info["max_total_num_tokens"] == 1_173_952
    assert server.get("/get_server_info").status_code == 200


def test_metrics_carry_sglang_s_names_and_the_word_simulated(server):
    lines = server.get("/metrics").text.splitlines()

    running = next(line for line in lines if line.startswith("sglang:num_running_reqs"))
    assert 'simulated="true"' in running
    assert any(line.startswith("sglang:generation_tokens_total") for line in lines)


def test_the_cache_is_not_flushed_while_a_request_runs_and_is_when_its_client_went_away(server):
    with server.stream("POST", "/v1/completions", json=ENDLESS) as answer:
        pieces = answer.iter_raw()  # kept: a dropped generator closes the connection
        next(pieces)
        assert httpx.post(f"{server.base_url}/flush_cache").status_code == 400

    until(lambda: server.post("/flush_cache").status_code == 200, "an empty server")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [1], "max_tokens": 999_999}),
        ("/v1/completions", {}),
        ("/v1/completions", []),
        ("/generate", {"text": 3}),
    ],
)
def test_a_request_that_cannot_be_is_400(server, path, body):
    assert server.post(path, json=body).status_code == 400


def test_generate_says_too_long_inside_a_200_as_sglang_does(server):
    error, done = events(server, "/generate", {"text": "a", "sampling_params": {"max_new_tokens": 999_999}, "stream": True})

    assert "longer than" in error["error"]["message"]
    assert done == "[DONE]"


def test_a_port_in_use_is_exit_code_3(server, tmp_path):
    done = bench(tmp_path, "simulate", "--port", str(server.base_url.port))

    assert done.returncode == 3
    assert "--port" in done.stderr
