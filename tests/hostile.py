"""A server on loopback that is hostile in one way: endless, nested, compressed or very slow answers, to a request or to another path."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator

from loopback import Loopback

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MEGABYTE = b"a" * 2**20


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def sized(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def event(i: int, n: int) -> bytes:
    usage = {"prompt_tokens": 16, "completion_tokens": i}
    return (
        b"data: %s\n\n" % json.dumps({"choices": [{"text": "a", "finish_reason": "length" if i == n else None}], "usage": usage}).encode()
    )


async def endless(*start: bytes, piece: bytes, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for data in start:
        yield data
    while True:
        yield piece
        await asyncio.sleep(pause_s)


async def once(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def honest(n: int) -> AsyncIterator[bytes]:
    yield STREAM
    for i in range(1, n + 1):
        yield chunk(event(i, n))
        await asyncio.sleep(0.002)
    yield chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def bomb(head: bytes) -> AsyncIterator[bytes]:
    squeezer = zlib.compressobj(1, zlib.DEFLATED, 31)
    yield head
    for _ in range(16):
        if piece := squeezer.compress(b"\0" * 2**20):
            yield chunk(piece)
    yield chunk(squeezer.flush()) + b"0\r\n\r\n"


GZIP = STREAM.replace(b"content-type", b"content-encoding: gzip\r\ncontent-type")
ANSWERS = {  # to a streamed request
    "endless head": lambda: endless(b"HTTP/1.1 200 OK\r\n", piece=b"x: " + b"a" * 1000 + b"\r\n"),
    "endless header": lambda: endless(b"HTTP/1.1 200 OK\r\nx: ", piece=b"a" * 65536),
    "endless interim answers": lambda: endless(piece=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless body": lambda: endless(STREAM, piece=chunk(MEGABYTE)),
    "endless events": lambda: endless(STREAM, piece=chunk(event(1, 2) * 5000)),
    "endless comments": lambda: endless(STREAM, piece=chunk(b": wait\n\n"), pause_s=0.05),
    "bomb": lambda: bomb(GZIP),
    "nested events": lambda: once(STREAM, chunk(b"data: " + b"[" * 500_000 + b"\n\n"), chunk(event(8, 8)), b"0\r\n\r\n"),
    "endless refusal": lambda: endless(b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n", piece=chunk(MEGABYTE)),
}
NESTED = b'{"a":' * 900 + b"1" + b"}" * 900
SIDE = {  # path -> its answer; the load itself is answered correctly
    "endless information": ("/server_info", lambda: endless(STREAM, piece=chunk(MEGABYTE))),
    "nested information": ("/server_info", lambda: once(sized(NESTED))),
    "information of other types": (
        "/server_info",
        lambda: once(sized(json.dumps({"simulated": 7, "time_scale": "x", "version": ["a"], "tp_size": {}, "model_path": 3}).encode())),
    ),
    "endless metrics": ("/metrics", lambda: endless(STREAM, piece=chunk(b"a 1\n" * 2**18))),
    "metrics that are no numbers": (
        "/metrics",
        lambda: once(sized(b"sglang:prompt_tokens_total NaN\nsglang:generation_tokens_total 1e400\n")),
    ),
    "a bomb of metrics": ("/metrics", lambda: bomb(GZIP)),
}
MODELS = {  # answers of /v1/models
    "endless models": lambda: endless(STREAM, piece=chunk(MEGABYTE)),
    "nested models": lambda: once(sized(b"[" * 200_000 + b"]" * 200_000)),
    "models elsewhere": lambda: once(sized(b"", status="302 Found", headers="location: file:///etc/passwd\r\n")),
}


class Hostile(Loopback):
    """The server in this mode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def answer(self, path: str, body: dict) -> AsyncIterator[bytes]:
        where, side = SIDE.get(self.mode, ("", None))
        if path == where:
            return side()
        if path == "/v1/models":
            return MODELS[self.mode]() if self.mode in MODELS else once(sized(b'{"data": [{"id": "m"}]}'))
        if path == "/v1/completions":
            return ANSWERS[self.mode]() if self.mode in ANSWERS else honest(body["max_tokens"])
        return once(sized(b"", status="404 Not Found"))
