"""The content of a streamed answer, for any server and any cuts by the network."""

import itertools
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import TESTS

from glm5bench.client import stream
from glm5bench.client.exchange import Body
from glm5bench.client.stream import UNKNOWN, fault

TRANSCRIPTS = {path.stem: path.read_bytes() for path in (TESTS / "transcripts").glob("*.txt")}
RECORDED = {  # chunks, tokens of each if the server reports them, prompt tokens, output tokens, fault
    "sglang_completions": (7, None, 5, 9, ""),
    "sglang_chat_speculative": (8, [1, 1, 1, 1, 1, 1, 2, 1], 5, 9, ""),
    "sglang_too_long": (
        0,
        None,
        UNKNOWN,
        UNKNOWN,
        "error: The input (4993 tokens) is longer than the model's context length (4096 tokens).",
    ),
    "vllm_completions": (3, None, 5, 3, ""),
    "vllm_chat": (3, [1, 1, 1], 5, 3, ""),
    "guidellm_mock": (5, None, 3, 5, ""),
    "llama_cpp_interrupted": (14, None, UNKNOWN, UNKNOWN, "cut short: no finish reason"),
    "transformers_chat": (5, None, 5, 5, ""),
}
every_server = pytest.mark.parametrize("server", sorted(RECORDED))


def parsed(pieces):
    """The answer in these (arrival, bytes)."""
    return stream.parsed(Body.of(pieces))


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


def test_an_unfinished_character_in_the_middle_is_a_token_without_text():
    assert len(answer(token("a"), token(""), token("é")).chunks) == 3
    assert len(answer(token("", n=1), token("é", n=2)).chunks) == 2


def test_a_finish_chunk_without_text_carries_no_token():
    assert len(answer(token("a"), token("", finish="stop")).chunks) == 1


def test_reasoning_counts_as_tokens():
    assert len(answer({"choices": [{"delta": {"reasoning_content": "hm"}}]}).chunks) == 1


def test_comments_and_other_fields_are_passed_over():
    body = b": ping\n\nevent: x\nid: 1\n" + events(token(n=1)) + b"retry: 5\n\n"

    assert parsed([(5, body)]).chunks == [(5, 1)]


def test_an_event_that_never_ended_is_not_counted():
    assert parsed([(5, events(token(n=1))[:-1])]).chunks == []


@pytest.mark.parametrize("garbage", [b"{", b"3", b"[]", b'"text"', b'{"choices": 3}', b'{"choices": [3]}'])
def test_an_unreadable_event_is_a_fault_and_does_not_stop_the_reading(garbage):
    read = answer(garbage, token(n=1, finish="length"), b"[DONE]")

    assert fault(read).startswith("unreadable: event")
    assert len(read.chunks) == 1


def test_an_error_event_is_a_fault_in_the_servers_words():
    assert fault(answer({"error": {"message": "out of cache"}}, b"[DONE]")) == "error: out of cache"
    assert fault(answer({"object": "error", "message": "too long"})) == "error: too long"
    assert fault(answer({"error": "aborted"})) == "error: aborted"


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ([token(n=1, finish="length"), b"[DONE]"], ""),
        ([b"[DONE]"], "empty: no token came"),
        ([token(n=1), b"[DONE]"], "cut short: no finish reason"),
        ([token(n=1, finish="length")], "cut short: no [DONE]"),
        ([token(finish="length"), b"[DONE]"], "uncounted: the server gave no token count"),
    ],
)
def test_an_answer_is_whole_when_its_tokens_its_reason_and_its_end_are_there(sent, wrong):
    assert fault(answer(*sent), is_framed=False) == wrong


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_at_all_make_the_parser_raise(pieces):
    assert fault(parsed(list(enumerate(pieces)))) != ""


def test_an_answer_that_http_ended_needs_no_done():
    assert fault(answer(token(n=1, finish="length")), is_framed=True) == ""


def test_an_answer_that_is_shorter_than_its_finish_reason_says_is_cut_short():
    read = answer(token(n=3, finish="length"), b"[DONE]")

    assert fault(read, 3) == ""
    assert fault(read, 4) == "cut short: finished by length after 3 of 4 tokens"


@every_server
@given(data=st.data())
def test_a_stream_has_the_times_of_the_bytes_that_ended_its_events_wherever_it_was_cut(server, data):
    body = TRANSCRIPTS[server]
    ends = [i + 2 for i in range(len(body) - 1) if body[i : i + 2] == b"\n\n"]
    cuts = [*sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=12))), len(body)]
    pieces = [(end, body[start:end]) for start, end in zip([0, *cuts], cuts, strict=False)]

    # arrivals encode positions: a piece that ends at byte n arrives at n
    arrivals = [next(cut for cut in cuts if cut >= end) for end in ends]

    assert [at for at, _ in parsed(pieces).chunks] == [a for a, whole in zip(arrivals, carrying(body), strict=True) if whole]


def carrying(body):
    """For each event of a body, whether it carries tokens: whether reading up to it gives one more chunk."""
    ends = [i + 2 for i in range(len(body) - 1) if body[i : i + 2] == b"\n\n"]
    n = [0, *(len(parsed([(1, body[:end])]).chunks) for end in ends)]
    return [b > a for a, b in itertools.pairwise(n)]


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_a_compressed_stream_holds_the_same(encoding, wbits):
    body = events(token(n=1), token(n=2, finish="length"), b"[DONE]")
    squeezed = zlib.compressobj(wbits=wbits)
    pieces = [(i, squeezed.compress(body[i : i + 9]) + squeezed.flush(zlib.Z_SYNC_FLUSH)) for i in range(0, len(body), 9)]

    read = stream.parsed(Body.of(pieces, encoding))

    assert [n for _, n in read.chunks] == [1, 1]
    assert fault(read) == ""


def test_a_body_that_is_not_compressed_as_it_says_is_unreadable():
    assert fault(stream.parsed(Body.of([(1, b"data: {}\n\n")], "gzip"))).startswith("unreadable: the body is not valid gzip")
    assert fault(stream.parsed(Body.of([(1, b"x")], "br"))).startswith("unreadable: the body is not valid br")


def chat(text="a", *, finish=None, usage=None, **more):
    delta = {"content": text} if text is not None else {}
    return {"choices": [{"delta": delta, "finish_reason": finish}], **({"usage": usage} if usage is not None else {}), **more}


def counted(n, prompt=7, **more):
    return {"prompt_tokens": prompt, "completion_tokens": n, **more}


END = {"choices": [], "usage": counted(4)}


@pytest.mark.parametrize(
    "counts",
    [
        [0, 0, 0, 0],
        [4, 4, 4, 4],
        [1, 1, 1, 1],
        [2, 1, 1, 1],
        [0, 1, 2, 3],
        [1, 2, 3, 3.5],
        [None] * 4,
        [1, 2, 2**40, 4],
    ],
    ids=["zero", "constant", "per chunk", "falling", "late", "fractions", "null", "huge"],
)
def test_counts_that_contradict_the_text_are_ignored_for_chunks_and_the_last_total_counts(counts):
    chunks = [chat(usage=counted(n), finish="length" if i == 3 else None) for i, n in enumerate(counts)]
    read = answer(*chunks, END, b"[DONE]")

    assert read.chunks == [(5, UNKNOWN)] * 4
    assert (read.prompt_tokens, read.output_tokens, fault(read, 4)) == (7, 4, "")


@pytest.mark.parametrize("usage", [3, [], "x", {"prompt_tokens": -1}, {"completion_tokens": True}, {"prompt_tokens_details": 3}])
def test_a_usage_object_that_cannot_be_read_is_absent(usage):
    read = answer(chat(usage=usage), chat(usage=usage, finish="length"), {"choices": [], "usage": counted(2)}, b"[DONE]")

    assert (read.tokens, read.output_tokens, fault(read, 2)) == ([UNKNOWN] * 2, 2, "")


def test_text_without_any_total_is_not_counted():
    assert fault(answer(chat(), chat(finish="stop"), b"[DONE]")) == "uncounted: the server gave no token count"
    assert fault(answer(chat(usage=counted(1)), chat(usage=counted(1)), chat(usage=counted(1), finish="length"), b"[DONE]"), 8).startswith(
        "uncounted: the server counted 1 tokens in 3 chunks with text"
    )


@pytest.mark.parametrize("event", [b"", b"null", b'""', b"ping", b"[PING]", b'"heartbeat"', b"{}", b'{"type": "ping"}'])
def test_heartbeats_among_the_data_are_neither_answers_nor_failures(event):
    read = answer(event, chat(usage=counted(1)), event, chat(usage=counted(2), finish="length"), event, b"[DONE]")

    assert (read.tokens, fault(read, 2)) == ([1, 1], "")


@pytest.mark.parametrize("payload", [b"{}", b"hello", json.dumps(token(n=1)).encode(), b'{"error": "no"}', b"{"])
@pytest.mark.parametrize("name", [b"ping", b"PING", b" keep-alive", b"heartbeat"])
def test_a_named_event_that_is_a_heartbeat_is_ignored_with_any_payload(name, payload):
    body = b"event:" + name + b"\ndata: " + payload + b"\n\n" + events(token(n=1, finish="length"), b"[DONE]")

    assert (parsed([(5, body)]).tokens, fault(parsed([(5, body)]), 1)) == ([1], "")


@pytest.mark.parametrize("name", [b"message", b"completion", b"chunk"])
def test_an_answer_may_have_a_name(name):
    body = b"".join(b"event: " + name + b"\n" + events(token(n=i, finish="length" if i == 2 else None)) for i in (1, 2))

    assert (parsed([(5, body)]).tokens, fault(parsed([(5, body)]), 2)) == ([1, 1], "")


def test_named_events_that_are_no_answers_are_told_when_nothing_else_came():
    body = b'event: delta\ndata: {"text": 3}\n\n' + events(b"[DONE]")

    assert fault(parsed([(5, body)])) == "empty: no token came; events named 'delta' were ignored"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (events({"error": {"message": "CUDA error", "code": 500}}), "error: CUDA error"),
        (events({"object": "error", "message": "too long"}), "error: too long"),
        (events({"detail": "Internal Server Error"}), "error: Internal Server Error"),
        (events({"message": "overloaded", "code": 503}), "error: overloaded"),
        (b"event: error\ndata: worker died\n\n", "error: worker died"),
        (b'event: error\ndata: {"error": {"message": "worker died"}}\n\n', "error: worker died"),
        (b'event: error\n: "worker died"\n\n', "error: worker died"),
        (events(chat(None, finish="error")), "error: the server ended the answer with finish_reason 'error'"),
    ],
)
@pytest.mark.parametrize("place", ["in the middle", "after the finish", "at the beginning"])
def test_an_error_anywhere_in_a_stream_is_a_failure_that_quotes_the_server(error, words, place):
    text, finish = events(chat(usage=counted(1))), events(chat(usage=counted(2), finish="length"))
    order = {"in the middle": text + error + finish, "after the finish": text + finish + error, "at the beginning": error + text + finish}
    wrong = fault(parsed([(5, order[place] + events(b"[DONE]"))]), 2)

    assert wrong == words or ("finish_reason" in words and place != "after the finish" and wrong == "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "overloaded"}}', "error: overloaded"),
        (b'{"detail": [{"msg": "field required"}]}', 'error: [{"msg": "field required"}]'),
        (b'{"choices": [{"text": "aa"}], "usage": {}}', "not streamed: the answer came as one JSON value: {"),
        (b"<html>Bad gateway</html>", "not streamed: the body contains no event: <html>Bad gateway</html>"),
        (b"[" * 5000, "not streamed: the body contains no event: [["),
        (b"", "empty: no token came"),
        (b": wait\n\n: wait\n\n", "empty: no token came"),
    ],
)
def test_a_body_that_is_no_stream_says_what_it_is(body, words):
    assert fault(parsed([(5, body)])).startswith(words)


def test_the_first_chunks_tokens_are_estimated_from_its_text_where_chunks_are_not_counted():
    read = answer(chat("aaaaaa"), chat("aa"), chat("aa", finish="length"), {"choices": [], "usage": counted(10)}, b"[DONE]")

    assert (read.tokens, read.first_tokens) == ([UNKNOWN] * 3, 6)


def test_tokens_that_were_thought_and_not_streamed_are_hidden():
    usage = counted(8, completion_tokens_details={"reasoning_tokens": 5}, prompt_tokens_details={"cached_tokens": 3})
    hidden = answer(chat(), chat(finish="stop"), {"choices": [], "usage": usage}, b"[DONE]")
    shown = answer({"choices": [{"delta": {"reasoning": "hm"}}]}, chat(finish="stop"), {"choices": [], "usage": usage}, b"[DONE]")

    assert (hidden.hidden_tokens, hidden.cached_tokens) == (5, 3)
    assert shown.hidden_tokens == 0
    assert answer(token(n=1)).hidden_tokens == UNKNOWN


def test_text_after_the_finish_is_a_token_and_a_chunk_without_text_is_none():
    read = answer(token("a"), token("b", finish="stop"), token("c"), token(""), {"choices": [], "usage": counted(3)}, b"[DONE]")

    assert len(read.chunks) == 3


def test_a_bomb_is_larger_than_what_it_may_unpack_to():
    squeezed = zlib.compress(b"\0" * 2**22)

    assert fault(stream.parsed(Body.of([(1, squeezed)], "deflate"), 2**20)).startswith(
        "too large: the answer has more than 1,048,576 bytes"
    )
    assert not fault(stream.parsed(Body.of([(1, squeezed)], "deflate"), 2**23)).startswith("too large")


def test_a_number_without_end_and_half_a_character_cost_no_token():
    huge = b'{"choices": [], "usage": {"prompt_tokens": ' + b"9" * 5000 + b', "completion_tokens": 1e400}}'
    cut = b'{"choices": [{"text": "\xc3", "finish_reason": null}]}'
    read = answer(cut, huge, token(n=2, finish="length"), b"[DONE]")

    assert (len(read.chunks), fault(read, 2)) == (2, "")


def test_tokens_that_still_arrive_are_seen_in_the_end_of_a_body_and_comments_are_none():
    body = Body.of([(i, events(token(n=i))) for i in range(1, 4)] + [(9, b": wait\n\n")])

    assert stream.last_token_ns(body) == 3
    assert stream.last_token_ns(Body.of([(9, b": wait\n\n" * 5)])) == UNKNOWN


@pytest.mark.parametrize(
    "chunks",
    [
        [
            {**chat(usage=counted(1)), "code": 0, "message": "success"},
            {**chat(usage=counted(2), finish="length"), "code": 200, "message": "ok"},
        ],
        [
            chat([{"type": "text", "text": "ab"}], usage=counted(1)),
            chat([{"type": "text", "text": "c"}], usage=counted(2), finish="length"),
        ],
        [chat([]), chat(usage=counted(1)), chat(usage=counted(2), finish="length")],
        [chat(usage=counted(1)), chat(usage=counted(2), finish="length"), {"choices": [], "usage": counted(0, 0)}],
        [chat(), {"choices": [{"delta": {"content": "a"}, "finish_reason": "length", "usage": counted(2)}]}],
        [chat(usage=counted(1.0)), chat(usage=counted("2"), finish="length")],
        [
            chat(),
            {"choices": [{"delta": {"content": ""}}], "usage": counted(1)},
            chat(finish="length"),
            {"choices": [{"delta": {}}], "usage": counted(2)},
        ],
    ],
    ids=["codes of success", "parts", "an empty list", "zeros at the end", "usage in a choice", "odd numbers", "usage after each text"],
)
def test_odd_but_honest_streams_have_two_tokens(chunks):
    read = answer(*chunks, b"[DONE]")

    assert (len(read.chunks), read.output_tokens, read.prompt_tokens, fault(read, 2)) == (2, 2, 7, "")


def test_usage_in_an_event_of_its_own_after_each_text_counts_for_the_text():
    texts = [
        ({"choices": [{"text": "a"}]}, {"choices": [{"text": "", "finish_reason": "length" if i == 3 else None}], "usage": counted(i)})
        for i in (1, 2, 3)
    ]
    read = answer(*itertools.chain.from_iterable(texts), b"[DONE]")

    assert (read.tokens, fault(read, 3)) == ([1, 1, 1], "")


def test_several_choices_of_one_event_are_one_arrival():
    assert len(answer({"choices": [{"index": 0, "text": "a"}, {"index": 0, "text": "b"}]}, token(finish="stop")).chunks) == 2


def test_reasoning_tokens_are_read_where_sglang_states_them_and_are_not_hidden_where_chunks_are_counted():
    hidden = answer(chat(), chat(finish="stop"), {"choices": [], "usage": counted(8, reasoning_tokens=6)}, b"[DONE]")
    shown = answer(
        *(chat(usage=counted(i, completion_tokens_details={"reasoning_tokens": i}), finish="stop" if i == 3 else None) for i in (1, 2, 3))
    )

    assert hidden.hidden_tokens == 6
    assert shown.hidden_tokens == 0


@pytest.mark.parametrize(
    "error", [b'{"error": {"message": "CUDA out of memory"}}\n\n', b'data: {"type": "error", "message": "CUDA out of memory"}\n\n']
)
def test_an_error_in_another_form_is_one(error):
    body = events(chat(usage=counted(1))) + error + events(chat(usage=counted(2), finish="length"), b"[DONE]")

    assert fault(parsed([(5, body)]), 2) == "error: CUDA out of memory"


def test_a_byte_order_mark_before_the_first_event_costs_nothing():
    body = b"\xef\xbb\xbf" + events(token(n=1), token(n=2, finish="length"), b"[DONE]")

    assert (parsed([(5, body)]).tokens, fault(parsed([(5, body)]), 2)) == ([1, 1], "")


def test_a_done_at_the_end_of_a_body_needs_no_empty_line_after_it():
    body = events(token(n=1, finish="length")) + b"data: [DONE]\n"

    assert fault(parsed([(5, body)]), 1, is_framed=False) == ""
