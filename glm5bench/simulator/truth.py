"""A server that knows the truth: `python -m glm5bench.simulator.truth` streams simulated tokens and remembers when it wrote each.

Enters: OpenAI's completions and chat completions over HTTP/1.1, and on the command line when tokens come. Leaves: the streams, and at
GET /truth a .npz of what really happened: `number`, `received_ns` (the kernel's stamp of the first bytes of the request), `offsets` and
`chunk_ns` (the clock read right before each chunk's only send), all CLOCK_MONOTONIC; `request_id` (the header x-request-id), `prompt_sha`,
`prompt_tokens`, `tokens`, and `held_back`, how many sends a socket did not take whole. The first token's text is ` r<number>`, so an answer
names its truth. It models nothing and knows no engine: it exists to measure load clients (benchmarks/client.py).

Each chunk is one send of bytes made beforehand; a timerfd wakes the loop (epoll alone would round to milliseconds), and one wake writes all
that is due within TICK_NS. Sustains 50,000 chunks/s on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import hashlib
import heapq
import io
import json
import math
import os
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httptools
import numpy as np

SO_TIMESTAMPNS = 35  # Linux; socket does not name it
SPACE = socket.CMSG_SPACE(16)  # one struct timespec
TICK_NS = 100_000
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, are spread evenly at every count
ABSOLUTE = 1  # TFD_TIMER_ABSTIME
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
MODEL = {"id": "truth", "object": "model", "created": 0, "owned_by": "simulated", "root": "truth", "parent": None, "max_model_len": 1 << 20}
GIVES: dict[str, Callable[[Server], tuple[str, bytes]]] = {
    "GET /v1/models": lambda server: ("application/json", _json({"object": "list", "data": [MODEL]})),
    "GET /health": lambda server: ("text/plain", b""),
    "GET /version": lambda server: ("application/json", b'{"version":"simulated-truth"}'),
    "GET /metrics": lambda server: ("text/plain", b'num_requests_total{simulated="true"} %d\n' % len(server.streams)),
    "GET /truth": lambda server: ("application/octet-stream", server.truth()),
    "POST /truth/reset": lambda server: ("text/plain", server.reset()),
}


@dataclass(frozen=True)
class Pace:
    """When tokens come."""

    ttft_ns: int
    period_ns: int
    aligned: bool
    jitter: bool
    tokens_per_chunk: int

    def first_ns(self, number: int, received_ns: int) -> int:
        """When the first chunk of a request is due: aligned streams share their instants, jittered ones share none."""
        due = received_ns + self.ttft_ns
        if self.aligned:
            return -(-due // self.period_ns) * self.period_ns
        return due + (int(number * GOLDEN % 1 * self.period_ns) if self.jitter else 0)


class Stream:
    """One answer: what is still to be written, and when the rest was."""

    __slots__ = (
        *("connection", "left", "middle", "number", "prompt_sha", "prompt_tokens"),
        *("received_ns", "render", "request_id", "stamps", "tokens"),
    )

    def __init__(self, connection: Connection, number: int, body: dict[str, Any], *, is_chat: bool, received_ns: int) -> None:
        self.connection, self.number, self.received_ns = connection, number, received_ns
        prompt = body["messages"] if is_chat else body["prompt"]
        self.prompt_sha = hashlib.sha256(_json(prompt)).hexdigest()
        self.prompt_tokens = len(prompt) if isinstance(prompt, list) and not is_chat else len(str(prompt).split())
        self.tokens = self.left = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        self.request_id = connection.request_id
        self.stamps = array("q")
        options = body.get("stream_options") or {}
        self.render = Renderer(self, body, is_chat, bool(options.get("include_usage")), bool(options.get("continuous_usage_stats")))
        self.middle = b""

    def write(self, tokens_per_chunk: int) -> bool:
        """Sends the next chunk, by one send. Returns whether another follows."""
        tokens = min(tokens_per_chunk, self.left)
        self.left -= tokens
        if not self.stamps or not self.left or self.render.continuous:
            data = self.render.chunk(tokens, first=not self.stamps, last=not self.left)
        else:
            data = self.middle = self.middle or self.render.chunk(tokens, first=False, last=False)
        if not self.stamps and self.render.is_chat:
            self.connection.send(self.render.role())  # vLLM sends the role just ahead of the first token
        self.stamps.append(time.monotonic_ns())
        self.connection.send(data)
        if not self.left:
            self.connection.send(self.render.ending())
            self.connection.stream = None
        return self.left > 0


class Renderer:
    """The bytes of one stream's events, in vLLM's shape and with the chunked encoding's frame."""

    def __init__(self, stream: Stream, body: dict[str, Any], is_chat: bool, usage: bool, continuous: bool) -> None:
        self.stream, self.is_chat, self.usage, self.continuous = stream, is_chat, usage, continuous and usage
        kind, id_ = ("chat.completion.chunk", "chatcmpl") if is_chat else ("text_completion", "cmpl")
        made = {"id": f"{id_}-{stream.prompt_sha[:24]}{stream.number:08x}", "object": kind, "created": int(time.time())}
        self.envelope = {**made, "model": str(body.get("model", "truth"))}

    def chunk(self, tokens: int, *, first: bool, last: bool) -> bytes:
        """One event with tokens."""
        text = " tok" * tokens
        if first:
            text = f" r{self.stream.number}" + " tok" * (tokens - 1)
        spoken = {"delta": {"content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, **spoken, "logprobs": None, "finish_reason": "length" if last else None, "stop_reason": None}
        more = {} if self.is_chat else {"prompt_token_ids": None, "token_ids": None}
        return self._event({"choices": [{**choice, **more}], **({"usage": self._usage()} if self.continuous else {})})

    def role(self) -> bytes:
        """The event before the first token of a chat."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return self._event({"choices": [choice]})

    def ending(self) -> bytes:
        """All that follows the last token."""
        usage = self._event({"choices": [], "usage": self._usage()}) if self.usage else b""
        return usage + _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def whole(self) -> bytes:
        """The answer to a request that asked for no stream."""
        text = " tok" * self.stream.tokens
        spoken = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        self.stream.left = 0
        return _json({**self.envelope, "choices": [{"index": 0, **spoken, "finish_reason": "length"}], "usage": self._usage()})

    def _event(self, more: dict[str, Any]) -> bytes:
        return _frame(b"data: " + _json({**self.envelope, **more}) + b"\n\n")

    def _usage(self) -> dict[str, int]:
        done = self.stream.tokens - self.stream.left
        return {"prompt_tokens": self.stream.prompt_tokens, "total_tokens": self.stream.prompt_tokens + done, "completion_tokens": done}


class Connection:
    """One client's connection: requests one after the other, never two at once."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.stream: Stream | None = None
        self.unsent = b""
        self._begin()

    def _begin(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url, self.body, self.request_id, self.received_ns = b"", b"", "", 0

    def readable(self) -> None:
        """Reads what came; the kernel says when."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 18, SPACE)
        except BlockingIOError:
            return None
        except OSError:
            data, ancillary = b"", []
        if not data:
            return self.close()
        self.received_ns = self.received_ns or self.server.monotonic_ns(ancillary)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self.answer("text/plain", f"{error.__cause__ or error}\n".encode(), status="400 Bad Request")
            self.close()
        return None

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"x-request-id":
            self.request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.body += body

    def on_message_complete(self) -> None:
        """Called by the parser: answers, or begins a stream."""
        asked = f"{self.parser.get_method().decode()} {self.url.decode()}"
        if asked in ("POST /v1/completions", "POST /v1/chat/completions"):
            self.server.begin(self, json.loads(self.body), is_chat="chat" in asked, received_ns=self.received_ns)
        elif asked in GIVES:
            self.answer(*GIVES[asked](self.server))
        else:
            self.answer("text/plain", b"Not here.\n", status="404 Not Found")
        self._begin()

    def answer(self, kind: str, body: bytes, status: str = "200 OK") -> None:
        """A whole answer."""
        self.send(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    def send(self, data: bytes) -> None:
        """Sends at once; what the socket does not take waits its turn, and is counted."""
        try:
            sent = 0 if self.unsent else self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # gone
            return self.close()
        if sent < len(data):
            self.server.held_back += 1
            if not self.unsent:
                self.server.loop.add_writer(self.sock.fileno(), self._writable)
            self.unsent += data[sent:]
        return None

    def _writable(self) -> None:
        waiting, self.unsent = self.unsent, b""
        self.server.loop.remove_writer(self.sock.fileno())
        self.send(waiting)

    def close(self) -> None:
        """Forgets the connection; its stream ends unfinished."""
        if self.sock.fileno() >= 0:
            self.server.loop.remove_reader(self.sock.fileno())
            self.server.loop.remove_writer(self.sock.fileno())
            self.sock.close()
        if self.stream:
            self.stream.left = 0


class Server:
    """All streams, and the timer that wakes for the next chunk."""

    def __init__(self, pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        self.pace, self.loop = pace, loop
        self.streams: list[Stream] = []
        self.held_back = 0
        self._due: list[tuple[int, int, Stream]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, 0o4000)  # TFD_NONBLOCK
        self._armed_ns = 0
        self._realtime_ahead_ns = _realtime_ahead_ns()
        loop.add_reader(self._timer, self._wake)

    def accept(self, listening: socket.socket) -> None:
        """Takes every connection that waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listening.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.loop.add_reader(sock.fileno(), Connection(self, sock).readable)

    def monotonic_ns(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """The kernel's stamp on this clock, or now."""
        for _, kind, data in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, ns = struct.unpack("qq", data)
                return int(seconds * 1_000_000_000 + ns - self._realtime_ahead_ns)
        return time.monotonic_ns()

    def begin(self, connection: Connection, body: dict[str, Any], *, is_chat: bool, received_ns: int) -> None:
        """Takes a request: its stream's header goes out at once, its first chunk when it is due."""
        stream = Stream(connection, len(self.streams), body, is_chat=is_chat, received_ns=received_ns)
        if not body.get("stream"):
            return connection.answer("application/json", stream.render.whole())
        self.streams.append(stream)
        connection.stream = stream
        connection.send(STREAM)
        heapq.heappush(self._due, (self.pace.first_ns(stream.number, received_ns), stream.number, stream))
        return self._arm()

    def _arm(self) -> None:
        if self._due and (not self._armed_ns or self._due[0][0] < self._armed_ns):
            at = -(-self._due[0][0] // TICK_NS) * TICK_NS
            spec = struct.pack("qqqq", 0, 0, at // 1_000_000_000, at % 1_000_000_000)
            self._libc.timerfd_settime(self._timer, ABSOLUTE, spec, None)
            self._armed_ns = at

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew between epoll and here
            os.read(self._timer, 8)
        self._armed_ns = 0
        due, now, period, tokens = self._due, time.monotonic_ns(), self.pace.period_ns, self.pace.tokens_per_chunk
        while due and due[0][0] <= now:
            at, number, stream = due[0]
            if stream.left and stream.write(tokens):
                # one that is more than a step late goes on from now: an engine that was late does not hurry
                heapq.heapreplace(due, (at + period if at + 2 * period > now else now + period, number, stream))
            else:
                heapq.heappop(due)
        self._arm()

    def truth(self) -> bytes:
        """What happened, as the bytes of a .npz."""
        counts = np.array([len(s.stamps) for s in self.streams], dtype=np.int64)
        held = io.BytesIO()
        np.savez(
            held,
            number=np.array([s.number for s in self.streams], dtype=np.int64),
            received_ns=np.array([s.received_ns for s in self.streams], dtype=np.int64),
            request_id=np.array([s.request_id for s in self.streams], dtype="U128"),
            prompt_sha=np.array([s.prompt_sha for s in self.streams], dtype="U64"),
            prompt_tokens=np.array([s.prompt_tokens for s in self.streams], dtype=np.int64),
            tokens=np.array([s.tokens for s in self.streams], dtype=np.int64),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            chunk_ns=np.concatenate([np.frombuffer(s.stamps, np.int64) for s in self.streams] or [np.empty(0, np.int64)]),
            held_back=np.array(self.held_back),
        )
        return held.getvalue()

    def reset(self) -> bytes:
        """Forgets every request; streams that still run go on unseen."""
        self.streams, self.held_back = [], 0
        gc.collect()
        return b""


def _realtime_ahead_ns() -> int:
    """How far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC: from the closest of a thousand readings."""
    readings = ((time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(1000))
    before, real, after = min(readings, key=lambda r: r[2] - r[0])
    return real - (before + after) // 2


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _pace(argv: Sequence[str] | None) -> tuple[int, Pace]:
    parser = argparse.ArgumentParser(prog="python -m glm5bench.simulator.truth", description="Simulated streams whose times are known.")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free; the first line of output says which")
    parser.add_argument("--ttft-s", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=15.0, help="chunks per second of one stream")
    parser.add_argument("--aligned", action="store_true", help="all streams step at the same instants")
    parser.add_argument("--phase-jitter", action="store_true", help="phases of the streams spread evenly over a step")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    o = parser.parse_args(argv)
    return o.port, Pace(int(o.ttft_s * 1e9), int(1e9 / o.rate), o.aligned, o.phase_jitter, o.tokens_per_chunk)


def main(argv: Sequence[str] | None = None) -> None:
    """Serves on 127.0.0.1 until it is ended."""
    port, pace = _pace(argv)
    early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # the kernel begins to stamp some time after the first socket asks for it
    early.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listening = socket.create_server(("127.0.0.1", port), backlog=4096)
    listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # inherited by the connections
    listening.setblocking(False)
    loop = asyncio.new_event_loop()
    server = Server(pace, loop)
    loop.add_reader(listening.fileno(), server.accept, listening)
    gc.freeze()
    gc.disable()  # a collection would hold up every stream
    print(f"port {listening.getsockname()[1]}", flush=True)
    loop.run_forever()


if __name__ == "__main__":
    main()
