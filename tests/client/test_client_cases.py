"""Streams of servers and proxies from public bug reports, and the load client's result for each."""

import json

import pytest
from program import BUSY, TESTS
from provoked import measured_at
from scripted import End, Scripted, chunk, head, sized

CASES = TESTS / "data" / "client_cases"
HONEST = [  # the usage object is odd, or some events are not answers: still eight tokens, one every 10 ms after 50 ms
    "good_chat", "zero_usage_each_chunk", "zero_usage_each_chunk_separate_end", "partial_usage_first_chunk", "null_usage_fields",
    "completions_empty_first_chunk", "completions_usage_with_empty_choice",
]  # fmt: skip
FLAGGED = {
    "prompt_tokens_zero": "no_prompt_tokens",
    "three_times_too_long": "long_outputs",
    "buffered_by_proxy": "buffered_answers",
    "first_chunk_of_many_tokens": "first_chunk",
    "hidden_reasoning": "hidden_tokens",
}
FAILED = {
    "json_error_in_200_not_sse": "error: Model is overloaded, try again",
    "answer_not_streamed": "not streamed: the answer came as one JSON value: {",
    "finish_reason_error": "error: the server ended the answer with finish_reason 'error'",
    "never_ends_with_comments": "hang: no next token for 0.6 s",
}


def answer(name):
    steps = [head("content-type: text/event-stream", "transfer-encoding: chunked")]
    for delay, text in map(json.loads, (CASES / f"{name}.jsonl").read_text().splitlines()):
        steps += [float(delay), chunk(text.encode())]
    return [*steps, chunk(b"")]


def measured(name, **changes):
    def play(request):
        if not request.path.endswith("completions"):
            return [sized(b"{}", status="404 Not Found")]
        if not request.said.get("stream"):
            n = len(request.said["messages"][0]["content"].split()) + 4
            return [sized(json.dumps({"usage": {"prompt_tokens": n}}).encode())]
        return answer(name)

    with Scripted(play) as server:
        asked = {"endpoint": "completions" if name.startswith("completions") else "chat", "isl_tokens": 64, "osl_tokens": 8, "prompts": 5}
        return measured_at(server.url, 1, **{**asked, **changes})


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_stream_is_read_whatever_its_usage_contains(name):
    m = measured(name)
    f = m.figures()

    assert (f.n_failed, f.prompt_tokens, f.output_tokens) == (0, 320, 40)
    assert 0.050 <= f.ttft.median < 0.5  # a busy machine makes it later, never earlier
    assert 0.0095 < f.tpot.median < 0.1
    assert {reason.code for reason in m.verdict().reasons} <= {*BUSY, "stalled"}


def test_an_empty_event_before_the_first_is_no_answer():
    assert 0.068 < measured("empty_data_heartbeat").figures().ttft.median < 0.5


@pytest.mark.parametrize("name", FLAGGED)
def test_a_stream_whose_figures_would_be_wrong_is_flagged_and_they_are_left_out(name):
    m = measured(name)
    f = m.figures()

    assert FLAGGED[name] in m.verdict().codes
    assert m.verdict().validity == "flagged"
    assert (f.tpot.n == 0) == (name not in ("prompt_tokens_zero", "three_times_too_long"))
    assert (f.total_tput_tok_s == f.total_tput_tok_s) == (name != "prompt_tokens_zero")


@pytest.mark.parametrize("name", FAILED)
def test_an_answer_that_is_none_is_a_failed_request_that_quotes_the_server(name):
    m = measured(name, prompts=1) if name != "never_ends_with_comments" else measured(name, prompts=1, stall_s=0.6)

    assert m.requests.error[0].startswith(FAILED[name])
    assert m.verdict().validity == "invalid"


def test_a_connection_that_the_server_closes_while_it_is_used_again_costs_no_request():
    closed = set()

    def play(request):
        if not request.path.endswith("completions"):
            return [sized(b"{}", status="404 Not Found")]
        if request.body not in closed:  # the connection was idle, and the server has closed it
            closed.add(request.body)
            return [End.RESET]
        return answer("completions_usage_with_empty_choice")

    with Scripted(play) as server:
        m = measured_at(server.url, 1, isl_tokens=64, osl_tokens=8, prompts=5)

    assert m.figures().n_failed == 0
    assert m.provenance["client"]["resends"] == len(closed) == 5


def test_a_connection_that_breaks_while_it_is_new_is_a_failed_request():
    with Scripted(lambda request: [End.RESET]) as server:
        m = measured_at(server.url, 1, isl_tokens=64, osl_tokens=8, prompts=1)

    assert [e.partition(":")[0] for e in m.requests.error] == ["reset"]
