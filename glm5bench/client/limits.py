"""The limit of an answer's size, the wait until a request is due, and callbacks of a run's tasks."""

from __future__ import annotations

import asyncio
import time

from .connection import Connection

ANSWER_BYTES, TOKEN_BYTES, MOST_ANSWER_BYTES = 2**20, 2**12, 2**30  # limits of an answer: fixed part, per token, in total
SPIN_S = 0.002  # before a request is due the loop does not sleep, because its timers have millisecond resolution


def most_answer_bytes(asked_tokens: int, *, is_cumulative: bool = False) -> int:
    """The limit in bytes of an answer with this many tokens, HTTP included. `is_cumulative`: each event repeats the text before it."""
    repeated = 16 * asked_tokens**2 if is_cumulative else 0
    return min(ANSWER_BYTES + TOKEN_BYTES * asked_tokens + repeated, MOST_ANSWER_BYTES)


def why(watch: asyncio.Task[None]) -> Exception:
    """The error that ended the watch. Raises it if it is not an Exception: Ctrl-C, or a defect of the watch."""
    error = watch.exception()
    if not isinstance(error, Exception):
        raise error or AssertionError("the watch ends by raising only")
    return error


def freed(free: asyncio.Queue[Connection], connection: Connection, _: object) -> None:
    """Puts the connection back into the queue of free ones."""
    free.put_nowait(connection)


async def until(due_ns: int) -> None:
    """Waits until this instant of the monotonic clock."""
    while (ahead_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
        await asyncio.sleep(ahead_s - SPIN_S if ahead_s > 2 * SPIN_S else 0)
