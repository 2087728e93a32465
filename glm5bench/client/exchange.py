"""One request on its connection and its answer: unparsed bytes with their arrival times.

All times are integer ns of the monotonic clock; -1 if the event did not happen.
"""

from __future__ import annotations

import asyncio
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib


class Exchange:
    """Filled in by a connection while the answer arrives. `head` and `ended` are then set; `error` is why the answer is not whole.

    `most_bytes`: limit of the whole answer. `is_reused`: the connection has received an answer before. `token_ns`: arrival of the last
    known token, at first the time when the request was sent; `scanned`: how much of the body was searched for tokens.
    """

    __slots__ = (
        "at", "body", "cuts", "end_ns", "ended", "error", "head", "headers", "is_framed", "is_reused", "last_ns", "most_bytes", "n_bytes",
        "scanned", "sent_ns", "status", "token_ns",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, most_bytes: int, *, is_reused: bool = False) -> None:
        self.sent_ns = self.end_ns = self.last_ns = self.token_ns = self.status = -1
        self.n_bytes = self.scanned = 0
        self.most_bytes, self.is_reused = most_bytes, is_reused
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.at: array[int] = array("q")  # arrival of each read
        self.cuts: array[int] = array("q")  # length of the body after each read
        self.error: Exception | None = None
        self.is_framed = True  # HTTP itself marked the end of the body
        self.head: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    @property
    def first_byte_ns(self) -> int:
        """Arrival of the first bytes of the answer; -1 if there are none."""
        return self.at[0] if self.at else -1

    @property
    def encoding(self) -> str:
        """The content encoding of the body, in lower case; empty for none."""
        return self.header(b"content-encoding").decode("latin-1").lower()

    def header(self, name: bytes) -> bytes:
        """The value of a header of the answer, empty if there is none. `name` in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


@dataclass(frozen=True)
class Body:
    """The body of an answer as it arrived. `at` and `cuts`: arrival of each read, and the length of the body after it."""

    data: bytes
    at: array[int]
    cuts: array[int]
    encoding: str = ""  # of the body as it was sent: gzip, deflate; empty for none

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, bytes]], encoding: str = "") -> Body:
        """The body that arrived in these pieces: (arrival in ns, bytes)."""
        data, at, cuts = bytearray(), array("q"), array("q")
        for arrival, piece in pieces:
            data += piece
            at.append(arrival)
            cuts.append(len(data))
        return cls(bytes(data), at, cuts, encoding)

    @property
    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(arrival in ns, bytes) of each piece."""
        start = 0
        for at, end in zip(self.at, self.cuts, strict=True):
            yield at, self.data[start:end]
            start = end


def decoded(body: Body, most_bytes: int | None = None) -> Body:
    """The body without its content encoding. The decoded bytes of a piece have the arrival time of the piece.

    Raises zlib.error, KeyError for an unknown encoding, and OverflowError for more than `most_bytes`.
    """
    decoder, pieces, left = zlib.decompressobj(WBITS[body.encoding]), [], most_bytes
    for at, piece in body.pieces:
        plain = decoder.decompress(piece, left + 1 if left is not None else 0)
        if left is not None:
            left -= len(plain)
            if left < 0:
                raise OverflowError(f"the answer has more than {most_bytes:,} bytes when it is decompressed")
        pieces.append((at, plain))
    return Body.of(pieces)


@dataclass
class Readings:
    """Counts of the reads of a client's connections, from which the client's own error is known."""

    reads: int = 0
    stamped: int = 0
    connects: int = 0
    resends: int = 0  # requests that were sent once more, because the server had closed the idle connection
    lag_ns: array[int] = field(default_factory=lambda: array("q"))  # from the kernel's stamp to the read, one for each stamped read

    def clear(self) -> None:
        """Resets the counts."""
        self.reads = self.stamped = self.connects = self.resends = 0
        del self.lag_ns[:]
