"""A server that records the true times: `python benchmarks/truth.py` streams simulated tokens and records when it wrote each of them.

Enters: OpenAI's completions and chat completions over HTTP/1.1; the times of tokens are set on the command line. Leaves: the streams, and
at GET /truth a .npz with what really happened (all times in CLOCK_MONOTONIC):

- `number`, `request_id` (the header x-request-id), `prompt_sha`, `prompt_tokens`, `tokens`;
- `received_ns`: the kernel's timestamp of the first bytes of the request;
- `offsets` and `chunk_ns`: the clock right before the only send of each chunk;
- `held_back`: how many sends a socket did not accept completely;
- `unstamped`: how many requests had no kernel timestamp, so that the time of reading is used.

The text of the first token is ` r<number>`, which connects an answer to its record. The server does not simulate an engine. It exists to
measure load clients (benchmarks/client.py).

Each chunk is one send of bytes made beforehand. A timerfd wakes the loop, because epoll alone would round to milliseconds. One wake-up
writes everything that is due within TICK_NS. The server sustains 50,000 chunks/s on one core.
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
import itertools
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
from chunks import Chunks, as_json

SO_TIMESTAMPNS = 35  # Linux; not defined in the socket module
SPACE = socket.CMSG_SPACE(16)  # one struct timespec
TICK_NS = 100_000
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly for any count
ABSOLUTE = 1  # TFD_TIMER_ABSTIME
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
MODEL = {"id": "truth", "object": "model", "created": 0, "owned_by": "simulated", "root": "truth", "parent": None, "max_model_len": 1 << 20}
GIVES: dict[str, Callable[[Server], tuple[str, bytes]]] = {
    "GET /v1/models": lambda server: ("application/json", as_json({"object": "list", "data": [MODEL]})),
    "GET /health": lambda server: ("text/plain", b""),
    "GET /version": lambda server: ("application/json", b'{"version":"simulated-truth"}'),
    "GET /metrics": lambda server: ("text/plain", b'num_requests_total{simulated="true"} %d\n' % len(server.streams)),
    "GET /truth": lambda server: ("application/octet-stream", server.truth()),
    "POST /truth/reset": lambda server: ("text/plain", server.reset()),
}


@dataclass(frozen=True)
class Pace:
    """The times at which tokens are due."""

    ttft_ns: int
    period_ns: int
    aligned: bool
    jitter: bool
    tokens_per_chunk: int

    def first_ns(self, number: int, received_ns: int) -> int:
        """When the first chunk of a request is due. Aligned streams have the same instants, jittered streams have different ones."""
        due = received_ns + self.ttft_ns
        if self.aligned:
            return -(-due // self.period_ns) * self.period_ns
        return due + (int(number * GOLDEN % 1 * self.period_ns) if self.jitter else 0)


class Stream:
    """One answer: the chunks that are not written yet, and the times of the others."""

    __slots__ = ("chunks", "connection", "left", "middle", "number", "prompt_sha", "received_ns", "request_id", "stamps")

    def __init__(self, connection: Connection, number: int, body: dict[str, Any], *, is_chat: bool) -> None:
        self.connection, self.number, self.received_ns, self.request_id = connection, number, connection.received_ns, connection.request_id
        self.chunks = Chunks(number, body, is_chat=is_chat)
        self.prompt_sha = hashlib.sha256(as_json(self.chunks.prompt)).hexdigest()
        self.left, self.middle, self.stamps = self.chunks.tokens, b"", array("q")

    def write(self, tokens_per_chunk: int) -> bool:
        """Sends the next chunk in one send. Returns whether another follows."""
        tokens, chunks, is_first = min(tokens_per_chunk, self.left), self.chunks, not self.stamps
        self.left -= tokens
        if is_first or not self.left or chunks.continuous:
            data = chunks.chunk(tokens, self.left, is_first=is_first)
        else:
            data = self.middle = self.middle or chunks.chunk(tokens, self.left, is_first=False)
        if is_first and chunks.is_chat:
            self.connection.send(chunks.role())  # vLLM sends the role right before the first token
        self.stamps.append(time.monotonic_ns())
        self.connection.send(data)
        if not self.left:
            self.connection.send(chunks.ending())
            self.connection.stream = None
        return self.left > 0


class Connection:
    """A connection of a client: requests follow one another, never two at once."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.stream: Stream | None = None
        self.unsent = b""
        self.parser = httptools.HttpRequestParser(self)
        self._forget()

    def _forget(self) -> None:
        self.url, self.body, self.request_id, self.received_ns = b"", b"", "", 0

    def readable(self) -> None:
        """Reads the data that arrived. The kernel provides the time of arrival."""
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
        """Called by the parser. Answers the request, or begins a stream."""
        asked = f"{self.parser.get_method().decode()} {self.url.decode()}"
        if asked in ("POST /v1/completions", "POST /v1/chat/completions"):
            self.server.begin(self, json.loads(self.body), is_chat="chat" in asked)
        elif asked in GIVES:
            self.answer(*GIVES[asked](self.server))
        else:
            self.answer("text/plain", b"Not here.\n", status="404 Not Found")
        self._forget()

    def answer(self, kind: str, body: bytes, status: str = "200 OK") -> None:
        """Sends a complete answer."""
        self.send(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    def send(self, data: bytes) -> None:
        """Sends at once. Bytes that the socket does not accept are sent later and counted."""
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
        """Closes the connection. Its stream ends unfinished."""
        if self.sock.fileno() >= 0:
            self.server.loop.remove_reader(self.sock.fileno())
            self.server.loop.remove_writer(self.sock.fileno())
            self.sock.close()
        if self.stream:
            self.stream.left = 0


class Server:
    """All streams, and the timer for the next chunk."""

    def __init__(self, pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        self.pace, self.loop = pace, loop
        self.streams: list[Stream] = []
        self.held_back = self.unstamped = 0
        self._due: list[tuple[int, int, Stream]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, 0o4000)  # TFD_NONBLOCK
        self._armed_ns = 0
        self._realtime_ahead_ns, self._calibrated_ns = _realtime_ahead_ns(1000), time.monotonic_ns()
        loop.add_reader(self._timer, self._wake)

    def accept(self, listening: socket.socket) -> None:
        """Accepts all waiting connections."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listening.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.loop.add_reader(sock.fileno(), Connection(self, sock).readable)

    def monotonic_ns(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """The kernel's timestamp on this clock. Without one: the present time, counted in `unstamped`."""
        now = time.monotonic_ns()
        if now - self._calibrated_ns > 1_000_000_000:  # the clocks drift apart while one of them is corrected
            self._realtime_ahead_ns, self._calibrated_ns = _realtime_ahead_ns(50), now
        for _, kind, data in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, ns = struct.unpack("qq", data)
                return int(seconds * 1_000_000_000 + ns - self._realtime_ahead_ns)
        self.unstamped += 1
        return now

    def begin(self, connection: Connection, body: dict[str, Any], *, is_chat: bool) -> None:
        """Starts to answer a request. The header of its stream is sent at once, the first chunk when it is due."""
        stream = Stream(connection, len(self.streams), body, is_chat=is_chat)
        if not body.get("stream"):
            return connection.answer("application/json", stream.chunks.whole())
        self.streams.append(stream)
        connection.stream = stream
        connection.send(STREAM)
        heapq.heappush(self._due, (self.pace.first_ns(stream.number, stream.received_ns), stream.number, stream))
        return self._arm()

    def _arm(self) -> None:
        if self._due and (not self._armed_ns or self._due[0][0] < self._armed_ns):
            at = -(-self._due[0][0] // TICK_NS) * TICK_NS
            spec = struct.pack("qqqq", 0, 0, at // 1_000_000_000, at % 1_000_000_000)
            self._libc.timerfd_settime(self._timer, ABSOLUTE, spec, None)
            self._armed_ns = at

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the timer was set again after epoll returned
            os.read(self._timer, 8)
        self._armed_ns = 0
        due, now, period, tokens = self._due, time.monotonic_ns(), self.pace.period_ns, self.pace.tokens_per_chunk
        while due and due[0][0] <= now:
            at, number, stream = due[0]
            if stream.left and stream.write(tokens):
                # a stream that is more than one step late continues from now, because a late engine does not catch up
                heapq.heapreplace(due, (at + period if at + 2 * period > now else now + period, number, stream))
            else:
                heapq.heappop(due)
        self._arm()

    def truth(self) -> bytes:
        """The recorded times, as the bytes of a .npz."""
        held, streams = io.BytesIO(), self.streams
        arrays: dict[str, Any] = {
            "number": [s.number for s in streams],
            "received_ns": [s.received_ns for s in streams],
            "prompt_tokens": [s.chunks.prompt_tokens for s in streams],
            "tokens": [s.chunks.tokens for s in streams],
            "offsets": [0, *itertools.accumulate(len(s.stamps) for s in streams)],
            "chunk_ns": np.concatenate([np.frombuffer(s.stamps, np.int64) for s in streams] or [np.empty(0, np.int64)]),
            "held_back": self.held_back,
            "unstamped": self.unstamped,
        }
        arrays = {name: np.asarray(values, np.int64) for name, values in arrays.items()}
        arrays |= {name: np.array([getattr(s, name) for s in streams], np.str_) for name in ("request_id", "prompt_sha")}
        np.savez(held, **arrays)
        return held.getvalue()

    def reset(self) -> bytes:
        """Removes all recorded requests. Streams that are still running continue but are not recorded."""
        self.streams, self.held_back, self.unstamped = [], 0, 0
        gc.collect()
        return b""


def _realtime_ahead_ns(n: int) -> int:
    """How far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC, from the fastest of n readings."""
    readings = ((time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(n))
    before, real, after = min(readings, key=lambda r: r[2] - r[0])
    return real - (before + after) // 2


def _pace(argv: Sequence[str] | None) -> tuple[int, Pace]:
    parser = argparse.ArgumentParser(prog="python benchmarks/truth.py", description="Simulated streams whose times are known.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; the first line of output shows which")
    parser.add_argument("--ttft-s", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=15.0, help="chunks per second of one stream")
    parser.add_argument("--aligned", action="store_true", help="all streams send at the same instants")
    parser.add_argument("--phase-jitter", action="store_true", help="spread the phases of the streams evenly over a step")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    o = parser.parse_args(argv)
    return o.port, Pace(int(o.ttft_s * 1e9), int(1e9 / o.rate), o.aligned, o.phase_jitter, o.tokens_per_chunk)


def main(argv: Sequence[str] | None = None) -> None:
    """Serves on 127.0.0.1 until the process is stopped."""
    port, pace = _pace(argv)
    early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # the kernel starts timestamps some time after the first request
    early.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listening = socket.create_server(("127.0.0.1", port), backlog=4096)
    listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # inherited by the connections
    listening.setblocking(False)
    loop = asyncio.new_event_loop()
    server = Server(pace, loop)
    loop.add_reader(listening.fileno(), server.accept, listening)
    gc.freeze()
    gc.disable()  # a collection would delay every stream
    print(f"port {listening.getsockname()[1]}", flush=True)
    loop.run_forever()


if __name__ == "__main__":
    main()
