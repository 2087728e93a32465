"""What a streamed answer held, whatever the server and however the network cut it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.node.stream import UNKNOWN, fault, parsed

TRANSCRIPTS = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "transcripts").glob("*.txt")}
RECORDED = {  # chunks, tokens of each where the server said, prompt tokens, output tokens, fault
    "sglang_completions": (7, None, 5, 9, ""),
    "sglang_chat_speculative": (8, [1, 1, 1, 1, 1, 1, 2, 1], 5, 9, ""),
    "sglang_too_long": (0, None, UNKNOWN, UNKNOWN, "The input (4993 tokens) is longer than the model's context length (4096 tokens)."),
    "vllm_completions": (3, None, 5, 3, ""),
    "vllm_chat": (3, [1, 1, 1], 5, 3, ""),
    "guidellm_mock": (5, None, 3, 5, ""),
    "llama_cpp_interrupted": (14, None, UNKNOWN, UNKNOWN, "cut short: no finish reason"),
    "transformers_chat": (5, None, 5, 5, "cut short: no [DONE]"),
}
every_server = pytest.mark.parametrize("server", sorted(RECORDED))


def events(*contents, end=b"\n\n"):
    return b"".join(b"data: " + (c if isinstance(c, bytes) else json.dumps(c).encode()) + end for c in contents)


def token(text="a", *, finish=None, n=None, prompt=7):
    usage = {} if n is None else {"usage": {"prompt_tokens": prompt, "completion_tokens": n}}
    return {"choices": [{"text": text, "finish_reason": finish}], **usage}


def answer(*contents, **how):
    return parsed([(5, events(*contents, **how))])


@every_server
def test_a_recorded_stream_holds_what_its_server_sent(server):
    n_chunks, tokens, prompt, output, wrong = RECORDED[server]
    read = parsed([(1, TRANSCRIPTS[server])])

    assert (len(read.chunks), read.prompt_tokens, read.output_tokens, fault(read)) == (n_chunks, prompt, output, wrong)
    assert [n for _, n in read.chunks] == (tokens or [UNKNOWN] * n_chunks)


@every_server
@given(data=st.data())
def test_a_stream_cut_anywhere_holds_the_same(server, data):
    body = TRANSCRIPTS[server]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=12)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    whole, cut = parsed([(1, body)]), parsed([(1, piece) for piece in pieces])

    assert cut == whole


@given(data=st.data())
def test_a_stream_with_carriage_returns_cut_anywhere_holds_the_same(data):
    body = events(token("ä", n=1), token(n=3, finish="length"), b"[DONE]", end=b"\r\n\r\n")
    cut = data.draw(st.integers(1, len(body) - 1))

    assert parsed([(1, body[:cut]), (1, body[cut:])]) == parsed([(1, body)])
    assert parsed([(1, body)]).chunks == [(1, 1), (1, 2)]


def test_a_stream_whose_lines_end_in_carriage_returns_alone_is_read():
    assert len(answer(token(n=1), token(n=2), end=b"\r\r").chunks) == 2


def test_an_event_counts_when_its_last_byte_arrives():
    body = events(token(n=1), token(n=2))
    middle = body.index(b"\n\n") + 1

    assert parsed([(10, body[:middle]), (20, body[middle:-1]), (30, body[-1:])]).chunks == [(20, 1), (30, 1)]


def test_a_chunk_carries_the_tokens_by_which_the_count_grew():
    assert answer(token(n=1), token(n=4), token(n=6)).chunks == [(5, 1), (5, 3), (5, 2)]


def test_a_chunk_whose_count_did_not_grow_carries_none():
    assert answer(token(n=1), token("", n=1, finish="length")).chunks == [(5, 1)]


def test_an_unfinished_character_is_a_token_without_text():
    assert len(answer(token(""), token("é")).chunks) == 2


def test_a_finish_chunk_without_text_carries_no_token():
    assert len(answer(token("a"), token("", finish="stop")).chunks) == 1


def test_reasoning_counts_as_tokens():
    assert len(answer({"choices": [{"delta": {"reasoning_content": "hm"}}]}).chunks) == 1


def test_comments_and_other_fields_are_passed_over():
    body = b": ping\n\nevent: x\nid: 1\n" + events(token(n=1)) + b"retry: 5\n\n"

    assert parsed([(5, body)]).chunks == [(5, 1)]


def test_an_event_that_never_ended_is_not_counted():
    assert parsed([(5, events(token(n=1))[:-1])]).chunks == []


@pytest.mark.parametrize("garbage", [b"{", b"3", b"null", b"[]", b'"text"', b'{"choices": 3}', b'{"choices": [3]}', b'{"usage": {"a": 1}}'])
def test_an_unreadable_event_is_a_fault_and_does_not_stop_the_reading(garbage):
    read = answer(garbage, token(n=1, finish="length"), b"[DONE]")

    assert fault(read).startswith("unreadable event")
    assert len(read.chunks) == 1


def test_an_error_event_is_a_fault_in_the_servers_words():
    assert fault(answer({"error": {"message": "out of cache"}}, b"[DONE]")) == "out of cache"
    assert fault(answer({"object": "error", "message": "too long"})) == "too long"
    assert fault(answer({"error": "aborted"})) == "aborted"


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ([token(n=1, finish="length"), b"[DONE]"], ""),
        ([b"[DONE]"], "no token came"),
        ([token(n=1), b"[DONE]"], "cut short: no finish reason"),
        ([token(n=1, finish="length")], "cut short: no [DONE]"),
        ([token(finish="length"), b"[DONE]"], "the server gave no token count"),
    ],
)
def test_an_answer_is_whole_when_its_tokens_its_reason_and_its_end_are_there(sent, wrong):
    assert fault(answer(*sent)) == wrong


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_at_all_make_the_parser_raise(pieces):
    assert fault(parsed(list(enumerate(pieces)))) != ""
