"""Every recorded stream gives the same result when it is framed as HTTP, cut at random places, and mixed with comments and other lines."""

import asyncio
import bisect
import itertools
import json
import random
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import TESTS
from scripted import Scripted, chunk, head, loaded, sessions

from glm5bench.client import stream
from glm5bench.client.clock import Clock
from glm5bench.client.connection import Connection
from glm5bench.client.exchange import Body, Readings
from glm5bench.client.stream import UNKNOWN, fault, parsed

TRANSCRIPTS = {path.stem: path.read_bytes() for path in (TESTS / "transcripts").glob("*.txt")}
VERDICTS = {  # tokens of each chunk, prompt tokens, output tokens, finish reason, fault
    "guidellm_mock": ([UNKNOWN] * 5, 3, 5, "stop", ""),
    "guidellm_mock_chat": ([UNKNOWN] * 4, 1, 4, "stop", ""),
    "llama_cpp_chat": ([UNKNOWN] * 4, UNKNOWN, UNKNOWN, "length", "uncounted: the server gave no token count"),
    "llama_cpp_completions": ([UNKNOWN] * 4, UNKNOWN, UNKNOWN, "length", "uncounted: the server gave no token count"),
    "llama_cpp_interrupted": ([UNKNOWN] * 14, UNKNOWN, UNKNOWN, "", "cut short: no finish reason"),
    "sglang_chat_speculative": ([1, 1, 1, 1, 1, 1, 2, 1], 5, 9, "length", ""),
    "sglang_completions": ([UNKNOWN] * 7, 5, 9, "length", ""),
    "sglang_generate_aborted": ([1, 1, 1, 265], 3, 268, "abort", "cut short: the server aborted it"),  # the middle is left out
    "sglang_generate_speculative": ([1, 1, 3, 1, 1, 1, 1], 5, 9, "length", ""),
    "sglang_too_long": (
        [], UNKNOWN, UNKNOWN, "", "error: The input (4993 tokens) is longer than the model's context length (4096 tokens)."
    ),
    "transformers_chat": ([UNKNOWN] * 5, 5, 5, "length", ""),
    "transformers_completions": ([UNKNOWN] * 4, 5, 4, "length", ""),
    "vllm_chat": ([1, 1, 1], 5, 3, "length", ""),
    "vllm_completions": ([UNKNOWN] * 3, 5, 3, "length", ""),
}  # fmt: skip
LACE = [b": keep-alive", b":", b"event: message", b"id: 7", b"retry: 100", b"unknown"]
every_stream = pytest.mark.parametrize("name", sorted(TRANSCRIPTS))


def events(name):
    """The events of a transcript, each without the empty line that ends it."""
    return TRANSCRIPTS[name].removesuffix(b"\n\n").split(b"\n\n")


def said(answer):
    """The content of an answer without its times."""
    return [n for _, n in answer.chunks], answer.prompt_tokens, answer.output_tokens, answer.finish_reason, fault(answer)


@st.composite
def laced(draw, name):
    """(body, where each event ends): with any line end, and with comments, empty events and other fields at the borders."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    body, ends = bytearray(), []
    for event in events(name):
        if draw(st.booleans()):  # a separate event without data
            body += draw(st.sampled_from(LACE)) + end * 2
        lines = [*draw(st.lists(st.sampled_from(LACE), max_size=2)), event]
        body += end.join(draw(st.permutations(lines))) + end * 2
        ends.append(len(body))
    return bytes(body), ends


def pieces_of(draw, body, most=12):
    """The body in pieces, and where each ends."""
    cuts = [*sorted(draw(st.sets(st.integers(1, len(body) - 1), max_size=most))), len(body)]
    return [body[a:b] for a, b in zip([0, *cuts], cuts, strict=False)], cuts


def carrying(name):
    """Which events of a transcript carry tokens: those for which reading up to the event gives one more chunk."""
    bodies = itertools.accumulate(event + b"\n\n" for event in events(name))
    n = [0, *(len(stream.parsed(Body.of([(1, body)])).chunks) for body in bodies)]
    return [b > a for a, b in itertools.pairwise(n)]


def test_every_transcript_has_its_verdict():
    assert set(VERDICTS) == set(TRANSCRIPTS)


@every_stream
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_stream_laced_and_cut_anywhere_has_the_same_tokens_times_and_verdict(name, data):
    body, ends = data.draw(laced(name))
    pieces, cuts = pieces_of(data.draw, body)

    read = stream.parsed(Body.of(zip(cuts, pieces, strict=True)))  # a piece that ends at byte n arrives at n

    assert said(read) == VERDICTS[name]
    arrivals = [next(cut for cut in cuts if cut >= end) for end in ends]
    assert [at for at, _ in read.chunks] == [at for at, carries in zip(arrivals, carrying(name), strict=True) if carries]


async def taken(wire_pieces):
    """The exchange of a connection that reads these bytes from a socket, and the times between which it received each piece."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    clock, readings, times = Clock(), Readings(), []
    connection = Connection(("http", "localhost", 80), clock, readings, memoryview(bytearray(2**16)))
    connection._sock = ours
    asyncio.get_running_loop().add_reader(ours.fileno(), connection._readable)
    exchange = connection.begin(b"GET / HTTP/1.1\r\n\r\n")
    for piece in wire_pieces:
        before, reads = time.monotonic_ns(), readings.reads
        theirs.sendall(piece)
        while readings.reads == reads:
            await asyncio.sleep(0)
        times.append((before, time.monotonic_ns()))
    await asyncio.wait_for(exchange.ended, 20)
    connection.close(), theirs.close(), clock.close()
    return exchange, times


def framed(draw, body, ends, how):
    """The body as an HTTP answer, in chunks cut anywhere or with its length; and the positions where the events end."""
    if how == "length":
        before = head(f"content-length: {len(body)}")
        return before + body, [len(before) + end for end in ends]
    chunks, cuts = pieces_of(draw, body, most=6)
    wire, begins = bytearray(head("transfer-encoding: chunked")), []
    for data in chunks:
        begins.append(len(wire) + len(b"%x\r\n" % len(data)))
        wire += chunk(data)
    which = [bisect.bisect_left(cuts, end) for end in ends]
    return bytes(wire) + chunk(b""), [begins[i] + end - (cuts[i] - len(chunks[i])) for i, end in zip(which, ends, strict=True)]


@every_stream
@pytest.mark.parametrize("how", ["chunked", "length"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_stream_that_a_connection_read_cut_anywhere_has_the_same_tokens_times_and_verdict(name, how, data):
    body, ends = data.draw(laced(name))
    wire, wire_ends = framed(data.draw, body, ends, how)
    pieces, cuts = pieces_of(data.draw, wire)

    exchange, times = asyncio.run(taken(pieces))
    read = stream.parsed(Body(bytes(exchange.body), exchange.at, exchange.cuts))

    assert (exchange.error, bytes(exchange.body), said(read)) == (None, body, VERDICTS[name])
    came = [times[bisect.bisect_left(cuts, end)] for end, carries in zip(wire_ends, carrying(name), strict=True) if carries]
    assert all(before <= at <= after for (at, _), (before, after) in zip(read.chunks, came, strict=True))
    assert times[-1][0] <= exchange.end_ns <= times[-1][1]


def test_every_stream_has_its_verdict_through_the_whole_client():
    """A server sends each stream in pieces of a few bytes, cut anywhere."""

    def play(request):
        body = TRANSCRIPTS[sorted(TRANSCRIPTS)[request.said["session"]]]
        parts = [body[i : i + 97] for i in range(0, len(body), 97)]
        return [head("transfer-encoding: chunked"), *map(chunk, [*parts, b""])]

    with Scripted(play) as server:
        r = loaded(server.url, sessions(len(TRANSCRIPTS), n_out=3), concurrency=2).requests

    verdicts = [VERDICTS[name] for name in sorted(TRANSCRIPTS)]
    chunks = [r.chunk_tokens[a:b].tolist() for a, b in itertools.pairwise(r.chunk_offsets)]
    assert chunks == [tokens for tokens, *_ in verdicts]
    assert r.output_tokens.tolist() == [max(0, n) for _, _, n, _, _ in verdicts]
    assert r.prompt_tokens.tolist() == [max(0, n) for _, n, _, _, _ in verdicts]
    assert list(r.error) == [wrong for *_, wrong in verdicts]


def drawn_event(draw: random.Random, i: int) -> bytes:
    choice = {"index": 0, "text": draw.choice([" a", "", "b c"]), "finish_reason": "length" if draw.random() < 0.02 else None}
    usage = {"prompt_tokens": 3, "completion_tokens": i + (draw.choice([0, 0, 1, -1]) if draw.random() < 0.3 else 0)}
    told = {"choices": [choice], **({"usage": usage} if draw.random() < 0.7 else {})}
    odd = [{"error": {"message": "x"}}, {"choices": [], "usage": usage}, {"choices": [{"delta": {"role": "assistant"}}]}, {}]
    return b"data: " + json.dumps(draw.choice(odd) if draw.random() < 0.05 else told).encode()


def drawn_body(draw: random.Random) -> bytes:
    events = [drawn_event(draw, i + 1) for i in range(draw.randint(1, 12))]
    body = b"".join(event + b"\n\n" for event in events) + (b"data: [DONE]\n\n" if draw.random() < 0.7 else b"")
    for _ in range(draw.choice([0, 0, 0, 1, 2])):  # damage
        at = draw.randrange(len(body))
        piece = draw.choice([b"\n", b"\n\n", b"\n\ndata: ", b",", b"{", b"", b"\n\ndata: {", b": c\n\n", b"\r", b"]"])
        body = body[:at] + piece + body[at + draw.choice([0, 1]) :]
    return body


def test_a_comment_before_an_answer_changes_nothing_whatever_the_answer_is():
    """With a comment the events are parsed one by one; without a comment, all at once."""
    draw = random.Random(5)
    for _ in range(2000):
        body = drawn_body(draw)
        if not body.startswith(b"data: {"):
            continue
        pieces = [(10 * at, body[at : at + 37]) for at in range(0, len(body), 37)]
        assert parsed(Body.of([(0, b": c\n\n"), *pieces])) == parsed(Body.of(pieces)), body
