"""A streamed answer of the simulated server: server-sent events, and the faults that a stream can show."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import Asked, Cached, answer_body, last_chunks, role_chunk
from .engine import Engine
from .options import Options
from .scheduler import Request


def cached_of(request: Request, o: Options) -> Cached:
    """What the prefix cache had of a prompt, or what a fault makes of it."""
    if o.fault is not None and o.fault.kind == "transferred":
        return Cached(request.prompt_tokens - 1, 0, is_reported=o.limits.cache is not None)
    if o.fault is not None and o.fault.kind == "retract" and request.id % o.fault.number == 0:
        return Cached(2 * request.device_tokens, 2 * request.host_tokens, is_reported=o.limits.cache is not None)
    return Cached(request.device_tokens, request.host_tokens, is_reported=o.limits.cache is not None)


class EventStream(Response):
    """A streamed answer. Written to ASGI directly: one send per chunk. If the client disconnects, the request is aborted."""

    def __init__(
        self, engine: Engine, asked: Asked, options: Options, computed: Callable[[Asked], None], *, is_computed: bool = False
    ) -> None:
        super().__init__(None)
        self._engine, self.asked_of, self._options = engine, asked, options
        self._computed, self._is_computed = computed, is_computed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the answer is whole or cut, or the client disconnects."""
        queue: asyncio.Queue[tuple[int, bool] | None] = asyncio.Queue()
        number = self._engine.count_stream()
        wanted = self._shortened(number)

        def deliver(n: int, is_last: bool) -> None:
            queue.put_nowait((n, is_last))
            if is_last:
                self._computed(self.asked_of)

        asked = self.asked_of
        request = self._engine.submit(asked.prompt_tokens, wanted, deliver, is_computed=self._is_computed, prompt=asked.prompt)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
        gone = asyncio.create_task(_disconnected(receive))
        gone.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            await self._stream(
                queue, send, request, cut_at=wanted // 2 if self._every("cut", number) else None, lose=self._every("lost", number)
            )
        finally:
            gone.cancel()
            self._engine.abort(request)

    def _every(self, kind: str, number: int) -> bool:
        fault = self._options.fault
        return fault is not None and fault.kind == kind and number % fault.number == 0

    def _shortened(self, number: int) -> int:
        return max(1, self.asked_of.output_tokens // 2) if self._every("short", number) else self.asked_of.output_tokens

    async def _stream(
        self,
        queue: asyncio.Queue[tuple[int, bool] | None],
        send: Callable[[Any], Awaitable[None]],
        request: Request,
        *,
        cut_at: int | None,
        lose: bool,
    ) -> None:
        asked, id_, interval = self.asked_of, uuid.uuid4().hex, self._options.stream_interval
        emitted, shown, steps, last, is_cut = 0, 0, -1, False, False
        if asked.endpoint == "chat":
            await _send(send, [role_chunk(asked, id_)])
        while not last and not is_cut and (item := await queue.get()) is not None:
            tokens, last = item
            emitted, steps = emitted + tokens, steps + 1
            is_cut = cut_at is not None and emitted >= cut_at
            if lose and emitted >= 2:
                raise ConnectionResetError("the fault `lost` was asked for")
            if not is_cut and (last or shown == 0 or emitted - shown >= interval):
                cached = cached_of(request, self._options)
                chunks = [answer_body(asked, id_, emitted, shown, max(0, steps), finished=last, cached=cached)]
                await _send(send, chunks + (last_chunks(asked, id_, emitted, max(0, steps), cached) if last else []))
                shown = emitted
        await send({"type": "http.response.body", "body": b"" if is_cut else b"data: [DONE]\n\n", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Callable[[Any], Awaitable[None]], chunks: list[dict[str, Any]]) -> None:
    body = b"".join(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks)
    await send({"type": "http.response.body", "body": body, "more_body": True})
