"""A server on loopback that behaves badly in one way, and the measurement of its client: problems that a verdict must detect.

Every answer has `n_tokens`, one per chunk, counted by usage. All streams step together, like a batch.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from loopback import Loopback

from glm5bench.archive.measurement import Measurement
from glm5bench.client.endpoint import Endpoint
from glm5bench.node.standalone import Asked, load
from glm5bench.values.workload import Workload

MODELS = b'{"data": [{"id": "m", "owned_by": "test"}]}'


@dataclass
class Behaviour:
    """How the server behaves. Seconds are real time.

    `cap`: requests that stream at once. `stalls`: (from, until) since the first request. `slow_from`: the request from which steps take
    `slow_times` as long. `buffered`: the share of an answer that is held back and then sent at once. `cached`: prompt tokens that come
    from the cache; None: not reported.
    """

    step_s: float = 0.004
    prefill_s: float = 0.004
    cap: int = 10**6
    stalls: tuple[float, float] = (0.0, 0.0)
    slow_from: int = 10**6
    slow_times: float = 1.0
    buffered: float = 0.0
    cached: int | None = None
    models: bytes = MODELS
    metrics: bytes = b""
    version: bytes = b""
    tokenized: bytes = b""
    info: bytes = b""


class Provoked(Loopback):
    """The server, and the bodies of the requests that it received."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.b, self.sent, self.n = behaviour, [], 0
        self.began = 0.0

    def begin(self) -> None:
        self._room = asyncio.Semaphore(self.b.cap)

    async def answer(self, path: str, body: dict) -> AsyncIterator[bytes]:
        sides = {
            "/v1/models": self.b.models,
            "/metrics": self.b.metrics,
            "/version": self.b.version,
            "/tokenize": self.b.tokenized,
            "/server_info": self.b.info,
        }
        if not path.endswith("completions"):
            said = sides.get(path, b"")
            yield b"HTTP/1.1 %s X\r\ncontent-length: %d\r\n\r\n%s" % (b"200" if said else b"404", len(said), said)
            return
        self.sent.append(body)
        number, self.n = self.n, self.n + 1
        self.began = self.began or time.monotonic()
        async with self._room:
            async for piece in self._stream(body, number):
                yield piece

    async def _stream(self, request: dict, number: int) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        n, prompt = request["max_tokens"], len(request["prompt"])
        details = {} if self.b.cached is None else {"prompt_tokens_details": {"cached_tokens": self.b.cached}}
        await asyncio.sleep(self.b.prefill_s)
        held = b""
        for i in range(1, n + 1):
            usage = {"prompt_tokens": prompt, "completion_tokens": i, **details}
            event = json.dumps({"choices": [{"text": "a", "finish_reason": "length" if i == n else None}], "usage": usage})
            held += b"%x\r\ndata: %s\n\n\r\n" % (len(event) + 8, event.encode())
            if i >= self.b.buffered * n:
                yield held
                held = b""
            if i < n:
                await self._step(number)
        yield held + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

    async def _step(self, number: int) -> None:
        begin, end = self.b.stalls
        ran = time.monotonic() - self.began
        if begin <= ran < end:
            await asyncio.sleep(end - ran)
        slow = self.b.slow_times if number >= self.b.slow_from else 1.0
        period = self.b.step_s * slow
        await asyncio.sleep(period - time.monotonic() % period if period else 0)  # the steps of all streams come together


def workload(**changes) -> Workload:
    """Short prompts and answers in a closed loop."""
    asked = {
        "id": "load", "isl_tokens": 40, "osl_tokens": 24, "range_ratio": 1.0, "endpoint": "completions", "prompts_per_concurrency": 10,
        "prompts": None, "warmups_per_concurrency": 0,
    }  # fmt: skip
    return Workload(**{**asked, **changes})


def measured_at(url: str, concurrency: int = 4, *, stall_s: float = 20.0, vocabulary: int | None = 4000, **changes) -> Measurement:
    """The load client's measurement of the server at this address."""
    asked = Asked(Endpoint(url, ""), "m", workload(**changes), concurrency, 7, {}, stall_s, vocabulary=vocabulary, processes=1)
    return load(asked, lambda: None, lambda done, of: None).measurement


def provoked(concurrency: int = 4, *, behaviour: Behaviour | None = None, **changes) -> Measurement:
    """The measurement of a server with this behaviour."""
    with Provoked(behaviour or Behaviour()) as server:
        return measured_at(server.url, concurrency, **changes)
