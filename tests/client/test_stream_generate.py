"""SGLang's own endpoint: counts in every chunk, and errors inside a 200."""

import json

import pytest
from conftest import compose
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.client import stream
from glm5bench.client.exchange import Body
from glm5bench.client.stream import UNKNOWN, fault
from glm5bench.client.workload import PATHS, prompts
from glm5bench.contradictions import contradiction
from glm5bench.values.point import Point

LENGTH = {"type": "length", "length": 9}
DONE = "data: [DONE]\n\n"
TOO_LONG = {"error": {"message": "The input (4993 tokens) is longer than the model's context length (4096 tokens).", "code": 400}}
ABORTED = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}


def parsed(pieces):
    """The answer in these (arrival, bytes)."""
    return stream.parsed(Body.of(pieces))


def event(content):
    return f"data: {json.dumps(content)}\n\n"


def chunk(n, *, text="a", finish=None, **more):
    """One chunk after n tokens, text and ids cumulative, as SGLang 0.5.23 sends it."""
    meta = {"id": "e0eb", "finish_reason": finish, "prompt_tokens": 5, "weight_version": "default", "reasoning_tokens": 0}
    return event({"text": text * n, "output_ids": [7] * n, "meta_info": {**meta, "completion_tokens": n, "cached_tokens": 0, **more}})


SPECULATIVE = [chunk(1), chunk(2), chunk(5), chunk(6), chunk(9, finish=LENGTH, e2e_latency=0.51, spec_verify_ct=6), DONE]


def arrived(*events):
    """An answer whose events arrived at 10, 20, 30, ..."""
    return parsed([(10 * i, text.encode()) for i, text in enumerate(events, start=1)])


def test_a_whole_answer_holds_the_tokens_by_which_each_chunk_grew():
    read = arrived(*SPECULATIVE)

    assert read.chunks == [(10, 1), (20, 1), (30, 3), (40, 1), (50, 3)]
    assert (read.prompt_tokens, read.output_tokens, read.finish_reason) == (5, 9, "length")
    assert fault(read) == ""


@given(data=st.data())
def test_an_answer_cut_anywhere_by_the_network_holds_the_same_tokens(data):
    body = "".join(SPECULATIVE).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=12)))
    pieces = [(1, body[a:b]) for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    assert parsed(pieces) == parsed([(1, body)])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_the_chunks_of_an_answer_add_up_to_its_tokens(gains):
    counts = [sum(gains[: i + 1]) for i in range(len(gains))]

    read = arrived(*(chunk(n, finish=LENGTH if n == counts[-1] else None) for n in counts), DONE)

    assert [n for _, n in read.chunks] == gains
    assert read.output_tokens == sum(gains)


def test_a_chunk_without_a_new_token_carries_none():
    read = arrived(chunk(1), chunk(1), chunk(3), chunk(3, finish=LENGTH), DONE)

    assert read.chunks == [(10, 1), (30, 2)]
    assert fault(read) == ""


def test_a_token_without_text_is_a_token():
    assert arrived(chunk(1, text=""), chunk(2, text="", finish=LENGTH), DONE).chunks == [(10, 1), (20, 1)]


def test_an_error_inside_a_200_is_a_fault_in_the_server_s_words():
    read = arrived(event(TOO_LONG), DONE)

    assert fault(read) == "error: " + TOO_LONG["error"]["message"]
    assert (read.prompt_tokens, read.output_tokens, read.chunks) == (UNKNOWN, UNKNOWN, [])


def test_an_error_after_some_tokens_is_a_fault_too():
    read = arrived(chunk(1), chunk(2), event({"error": {"message": "CUDA error"}}), DONE)

    assert fault(read) == "error: CUDA error"
    assert read.output_tokens == 2


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ([chunk(1), chunk(4)], "cut short: no finish reason"),
        ([chunk(1), chunk(4), DONE], "cut short: no finish reason"),
        ([chunk(1), chunk(9, finish=LENGTH)], "cut short: no [DONE]"),
        ([chunk(1), chunk(9, finish=LENGTH)[:-30], DONE], "unreadable: event"),
        ([DONE], "empty: no token came"),
        ([chunk(0, finish=LENGTH), DONE], "empty: no token came"),
        ([], "empty: no token came"),
    ],
)
def test_an_answer_that_was_cut_short_is_not_whole(sent, wrong):
    assert fault(arrived(*sent), is_framed=False).startswith(wrong)


def test_an_aborted_answer_says_that_it_was_and_how_far_it_came():
    read = arrived(chunk(1), chunk(268, finish=ABORTED), DONE)

    assert (read.finish_reason, read.output_tokens) == ("abort", 268)


@pytest.mark.parametrize("meta", [3, [], {}, {"completion_tokens": 1}, {"completion_tokens": "x", "prompt_tokens": 5}])
def test_a_chunk_whose_counts_cannot_be_read_carries_tokens_by_its_text(meta):
    read = arrived(event({"text": "a", "meta_info": meta}), chunk(2), chunk(9, finish=LENGTH), DONE)

    assert fault(read) == ""
    assert [at for at, _ in read.chunks] == [10, 20, 30]
    assert read.output_tokens == 9


def test_a_request_to_it_has_the_drawn_number_of_ids_and_ignores_the_end_of_the_text():
    workload = compose("engine=simulated", "workload.endpoint=generate", "workload.isl_tokens=50").workload
    _, (first, *_) = prompts(workload, Point("k", "a", 1, 0, 0, 1), "model")
    body = json.loads(first.body)

    assert PATHS["generate"] == "/generate"
    assert len(body["input_ids"]) == first.prompt_tokens
    assert body["sampling_params"] == {"max_new_tokens": first.output_tokens, "temperature": 0, "ignore_eos": True}
    assert body["stream"] is True


def test_an_engine_without_this_endpoint_cannot_measure_it():
    vllm = compose("engine=vllm", "speculative=off", "workload.endpoint=generate").arm
    sglang = compose("engine=sglang", "workload.endpoint=generate").arm

    assert contradiction(vllm) == "workload.endpoint=generate is not available in vllm; it is available in sglang, simulated"
    assert contradiction(sglang) is None


def test_the_verify_steps_of_an_answer_are_read_on_both_endpoints():
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}
    first = {"choices": [{"text": "a", "finish_reason": "length"}], "usage": None}
    told = {**usage, "sglext": {"spec_tokens_details": {"spec_verify_ct": 6, "spec_num_correct_drafts": 3}}}

    assert arrived(*SPECULATIVE).verify_steps == 6
    assert arrived(event(first), event(told), DONE).verify_steps == 6
    assert arrived(event(first), event(usage), DONE).verify_steps == UNKNOWN


@pytest.mark.parametrize("odd", [3.0, -1, "6", [6], None, True, 2**40])
def test_verify_steps_that_are_none_spoil_no_answer(odd):
    ending = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}
    first = event({"choices": [{"text": "a", "finish_reason": "length"}], "usage": None})
    others = [{"spec_tokens_details": {"spec_verify_ct": odd}}, {"spec_tokens_details": [odd]}, [odd], odd]

    for sglext in others:
        read = arrived(first, event({**ending, "sglext": sglext}), DONE)
        assert (fault(read), read.output_tokens, read.verify_steps) == ("", 9, UNKNOWN)
    read = arrived(chunk(1), chunk(9, finish=LENGTH, spec_verify_ct=odd), DONE)
    assert (fault(read), read.verify_steps) == ("", UNKNOWN)


def test_where_cached_tokens_were_is_read_on_both_endpoints():
    places = {"device": 64, "host": 32, "storage_backend": None}
    first = {"choices": [{"text": "a", "finish_reason": "length"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 96}}}
    generated = arrived(chunk(9, finish=LENGTH, cached_tokens=96, cached_tokens_details=places), DONE)
    openai = arrived(event(first), event({"choices": [], "sglext": {"cached_tokens_details": places}}), event(usage), DONE)
    odd = arrived(event(first), event({**usage, "sglext": {"cached_tokens_details": {"device": "x"}}}), DONE)

    for read in (generated, openai):
        assert (read.cached_tokens, read.device_tokens, read.host_tokens, read.storage_tokens) == (96, 64, 32, 0)
    assert (odd.cached_tokens, odd.device_tokens, odd.host_tokens) == (96, UNKNOWN, UNKNOWN)
