"""Whether tokens still arrive during a run. Bodies are parsed after the clock has stopped; here only their ends are searched, rarely.

Comments and heartbeats are not tokens: an answer that contains nothing else has stalled. Enters: exchanges in progress. Leaves: those
without a token since a given time, and when the server last sent one. All times are ns of the monotonic clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from .exchange import Body, Exchange
from .stream import last_token_ns

SEARCHED_BYTES = 2**14  # end of a body that is searched first; if it has a token, the rest is not read
SEARCHES = 16  # answers per look: each search delays the event loop


class Arriving:
    """`last_ns`: when a token, or the end of a whole answer, was last seen on any connection."""

    def __init__(self, now_ns: int) -> None:
        self.last_ns = now_ns

    def ended(self, at_ns: int) -> None:
        """Records the end of a whole answer."""
        self.last_ns = max(self.last_ns, at_ns)

    def stalled(self, exchanges: Sequence[Exchange], since_ns: float) -> list[Exchange]:
        """The exchanges without a token since then, among those that were searched."""
        late = [e for e in exchanges if e.token_ns < since_ns]
        late.sort(key=lambda e: e.last_ns)  # first those that had no byte since then
        n_silent = sum(e.last_ns < since_ns for e in late)
        return [e for e in late[: n_silent + SEARCHES] if self._searched_ns(e) < since_ns]

    def is_silent(self, exchanges: Sequence[Exchange], since_ns: float) -> bool:
        """Whether no exchange had a token since then, and none ended."""
        if self.last_ns >= since_ns:
            return False
        return not any(e.last_ns >= since_ns and self._searched_ns(e) >= since_ns and e.token_ns > e.sent_ns for e in exchanges)

    def _searched_ns(self, e: Exchange) -> int:
        """The arrival of the exchange's last token; the time it was sent if it had none."""
        found = _last_token_ns(e)
        e.token_ns = max(e.token_ns, found)
        self.last_ns = max(self.last_ns, found)
        return e.token_ns


def _last_token_ns(e: Exchange) -> int:
    """Arrival of the last token in the part that was not searched before; -1 if there is none."""
    if e.encoding not in ("", "identity"):
        return last_token_ns(Body(bytes(e.body), e.at, e.cuts, e.encoding), e.most_bytes)
    found, size, begin = -1, len(e.body), e.scanned
    if size - SEARCHED_BYTES > begin:
        begin = _after_event(e.body, e.body.find(b"\n", size - SEARCHED_BYTES), size) or begin
        found = _last_in(e, begin)
    if found < 0:
        found = _last_in(e, e.scanned)
    e.scanned = max(e.scanned, _last_event_end(e.body))
    return found


def _last_in(e: Exchange, begin: int) -> int:
    """The same for the body from `begin` on, where an event starts."""
    piece = bytes(e.body[begin:])
    if begin and b'"meta_info"' in piece:  # /generate: the first event here repeats all text before it
        begin += _after_event(e.body[begin:], 0, len(piece))
        piece = bytes(e.body[begin:])
    return last_token_ns(Body(piece, e.at, array("q", [max(0, cut - begin) for cut in e.cuts])))


def _after_event(body: bytearray, start: int, size: int) -> int:
    """The start of the next event after `start`; 0 if there is none."""
    ends = [at + len(mark) for mark in (b"\n\n", b"\n\r\n", b"\r\r") if (at := body.find(mark, max(0, start), size)) >= 0]
    return min(ends, default=0)


def _last_event_end(body: bytearray) -> int:
    return max(at + len(mark) if (at := body.rfind(mark)) >= 0 else 0 for mark in (b"\n\n", b"\n\r\n", b"\r\r"))
