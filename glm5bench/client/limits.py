"""When an answer is too long, when a request is due, and when a server counts as gone."""

from __future__ import annotations

import asyncio
import time

from .connection import Connection

ANSWER_BYTES, TOKEN_BYTES, MOST_ANSWER_BYTES = 2**20, 2**12, 2**30  # most of an answer: for itself, for each token, in all
SPIN_S = 0.002  # before a request is due the loop does not sleep: its timers know milliseconds


def most_answer_bytes(asked_tokens: int, *, is_cumulative: bool = False) -> int:
    """The most bytes of an answer of so many tokens, HTTP included. `is_cumulative`: each event repeats the text before it."""
    repeated = 16 * asked_tokens**2 if is_cumulative else 0
    return min(ANSWER_BYTES + TOKEN_BYTES * asked_tokens + repeated, MOST_ANSWER_BYTES)


def why(watch: asyncio.Task[None]) -> Exception:
    """What ended the watch. Raises it where it is no plain error: Ctrl-C, or a defect of the watch's own."""
    error = watch.exception()
    if not isinstance(error, Exception):
        raise error or AssertionError("the watch ends by raising only")
    return error


def freed(free: asyncio.Queue[Connection], connection: Connection, _: object) -> None:
    """The connection is free again."""
    free.put_nowait(connection)


async def until(due_ns: int) -> None:
    """Returns at this instant of the monotonic clock."""
    while (ahead_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
        await asyncio.sleep(ahead_s - SPIN_S if ahead_s > 2 * SPIN_S else 0)
