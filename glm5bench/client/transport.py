"""An httpx transport over connections that have the kernel's stamps on received bytes, and leave all other work for later.

httpx's own path needs a parser in Python, four nested generators and a task switch for every chunk.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import httpx

from .clock import Clock
from .connection import READ_BYTES, Address, Connection, address, encoded, head
from .exchange import Exchange, Readings


def system_trust() -> ssl.SSLContext:
    """The certificates that this system trusts, which httpx does not use because it has its own."""
    return ssl.create_default_context()


class Transport(httpx.AsyncBaseTransport):
    """The transport for httpx.AsyncClient: one pool of connections for each address, with as many as are in use at once."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.clock, self.readings, self._context = Clock(), Readings(), context
        self._buffer = memoryview(bytearray(READ_BYTES))  # one for all connections: the bytes are copied before the next read
        self._idle: dict[Address, list[Connection]] = {}
        self._all: list[Connection] = []

    def connection(self, where: Address) -> Connection:
        """A new connection for the caller, not yet open."""
        if where[0] == "https" and self._context is None:
            self._context = system_trust()  # takes 30 ms, so only once
        made = Connection(where, self.clock, self.readings, self._buffer, self._context)
        self._all.append(made)
        return made

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request and returns when the head of its answer has arrived. Raises httpx's errors."""
        where, timeouts = address(request.url), request.extensions.get("timeout", {})
        body = b"".join([part async for part in request.stream])  # type: ignore[union-attr]
        idle = self._idle.setdefault(where, [])
        connection = next((c for c in iter(lambda: idle.pop() if idle else None, None) if c.is_usable()), None) or self.connection(where)
        if not connection.is_open:
            await connection.open(timeouts.get("connect"))
        exchange = connection.begin(encoded(head(request), body))
        await _within(exchange.head, exchange, timeouts.get("read"), connection)
        if exchange.error is not None and exchange.status < 0:
            raise exchange.error
        stream = _Body(exchange, connection, idle, timeouts.get("read"))
        return httpx.Response(exchange.status, headers=exchange.headers, stream=stream, extensions={"exchange": exchange})

    async def aclose(self) -> None:
        """Closes every connection."""
        for connection in self._all:
            connection.abort(httpx.ReadError("stopped: the client was closed"))
        self.clock.close()


async def _within(future: asyncio.Future[None], exchange: Exchange, timeout_s: float | None, connection: Connection) -> None:
    """Waits as long as bytes arrive. If the wait is cancelled in the middle of an answer, the connection is closed."""
    try:
        while not future.done():
            silent_s = (time.monotonic_ns() - exchange.last_ns) / 1e9
            if timeout_s is not None and silent_s >= timeout_s:
                connection.abort(httpx.ReadTimeout(f"hang: nothing came for {timeout_s:g} s"))
            else:
                await asyncio.wait([future], timeout=None if timeout_s is None else timeout_s - silent_s)
    except asyncio.CancelledError:
        connection.abort(httpx.ReadError("stopped: the answer was not awaited"))
        raise


class _Body(httpx.AsyncByteStream):
    """The body for httpx, returned when it is whole."""

    def __init__(self, exchange: Exchange, connection: Connection, idle: list[Connection], timeout_s: float | None) -> None:
        self._exchange, self._connection, self._idle, self._timeout_s = exchange, connection, idle, timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await _within(self._exchange.ended, self._exchange, self._timeout_s, self._connection)
        if self._exchange.error is not None:
            raise self._exchange.error
        yield bytes(self._exchange.body)

    async def aclose(self) -> None:
        """Returns the connection to the pool, or closes it if the answer was not awaited."""
        if not self._exchange.ended.done():
            self._connection.abort(httpx.ReadError("stopped: the answer was not awaited"))
        elif self._connection.is_open and self._connection not in self._idle:
            self._idle.append(self._connection)
