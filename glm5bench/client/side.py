"""Requests outside the load, for a server's information. Bytes, nesting and total time are limited, whatever the server does.

They use the load client's own kind of connection, which limits the bytes of an answer. Errors are httpx's, with the cause.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from .connection import address, encoded, head
from .errors_told import UNREADABLE
from .exchange import Body, Exchange, decoded
from .transport import Transport

MOST_BYTES = 2**23  # of an answer: SGLang repeats its arguments for each rank
MOST_DEPTH = 64  # of nested JSON
WITHIN_S = 15.0
T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """A whole answer."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The JSON value in the body. Raises ValueError if it is not JSON or is nested too deeply."""
        try:
            value = json.loads(self.body)
        except UNREADABLE as error:
            raise ValueError(f"it is not JSON: {' '.join(str(error).split())[:120]}") from error
        if _depth(value) > MOST_DEPTH:
            raise ValueError(f"its JSON is nested more than {MOST_DEPTH} levels deep")
        return value


class Side:
    """Requests to one server, one after another on one connection. A context manager."""

    def __init__(self, base_url: str, headers: Iterable[tuple[str, str]]) -> None:
        self._base_url, self._headers = base_url, dict(headers)

    def __enter__(self) -> Side:
        self._loop = asyncio.new_event_loop()
        try:
            self._transport = self._run(self._made())
            self._connection = self._run(self._connected())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._transport.aclose())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _made(self) -> Transport:
        return Transport()

    async def _connected(self) -> Any:
        return self._transport.connection(address(httpx.URL(self._base_url)))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        within_s: float = WITHIN_S,
        most_bytes: int = MOST_BYTES,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Said:
        """The answer to a request. `body`: a JSON value.

        Raises httpx.HTTPError if there is none within `within_s`, or if it has more than `most_bytes`.
        """
        content = json.dumps(body).encode() if body is not None else b""
        request = httpx.Request(
            method,
            self._base_url + path,
            headers={
                "accept": "*/*",
                "accept-encoding": "identity",
                "user-agent": "glm5bench",
                **({"content-type": "application/json"} if content else {}),
                **self._headers,
                **dict(headers),
            },
        )
        what = f"{method} {path}"
        exchange = self._run(self._exchanged(encoded(head(request), content), what, within_s, most_bytes))
        if exchange.error is not None:
            raise exchange.error
        return Said(exchange.status, _plain(exchange, what, most_bytes))

    async def _exchanged(self, request: bytes, what: str, within_s: float, most_bytes: int) -> Exchange:
        try:
            return await asyncio.wait_for(self._sent(request, within_s, most_bytes), within_s)
        except (TimeoutError, asyncio.TimeoutError):
            self._connection.abort(httpx.ReadTimeout("stopped"))
            raise httpx.ReadTimeout(f"hang: no whole answer to {what} within {within_s:g} s") from None

    async def _sent(self, request: bytes, within_s: float, most_bytes: int) -> Exchange:
        """Sends it on the open connection, and once more on a new one if the server had closed the first."""
        for _ in range(2):
            if not self._connection.is_usable():
                await self._connection.open(within_s)
            exchange: Exchange = self._connection.begin(request, most_bytes)
            await exchange.ended
            if not str(exchange.error or "").startswith("stale: "):
                break
        return exchange


def _plain(exchange: Exchange, what: str, most_bytes: int) -> bytes:
    """The body without its content encoding. Raises httpx.DecodingError."""
    if exchange.encoding in ("", "identity"):
        return bytes(exchange.body)
    try:
        return decoded(Body(bytes(exchange.body), exchange.at, exchange.cuts, exchange.encoding), most_bytes).data
    except Exception as error:  # zlib, an unknown encoding, too many bytes: one error for the caller
        raise httpx.DecodingError(f"unreadable: the answer to {what}: {error}") from error


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted no further than one past the limit."""
    depth, level = 0, [value]
    while level and depth <= MOST_DEPTH:
        nested = [v for v in level if isinstance(v, list | dict)]
        level = [each for v in nested for each in (v.values() if isinstance(v, dict) else v)]
        depth += bool(nested)
    return depth
