"""Agent sessions drawn from stated statistics. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from pydantic import FiniteFloat

from ..values.workload import Natural, Positive, Seconds
from .file import Call, Session, Sessions, joined

SPREAD = 0.6  # standard deviation of the logarithm of lengths, pauses and numbers of requests

Share = Annotated[FiniteFloat, Ge(0), Le(1)]


@dataclass(frozen=True)
class Statistics:
    """Means of lognormal distributions, whose logarithms have the standard deviation SPREAD. Lengths in tokens.

    A session begins with the shared prompt and a first message. Each further request adds the answer before it and new tokens: results of
    tools, or a message. `subagent_share`: of the requests of the first agent, which start a sub-agent that the next request waits for.
    """

    sessions: Positive = 50
    requests: Positive = 30  # of the first agent
    shared_tokens: Natural = 8192  # system prompt and tools, the same in all sessions
    first_tokens: Positive = 4096
    new_tokens: Positive = 1500
    output_tokens: Positive = 500
    delay_s: Seconds = 3.0
    subagent_share: Share = 0.05
    subagent_requests: Positive = 6
    block_tokens: Positive = 64
    seed: Natural = 0


def generated(s: Statistics) -> Sessions:
    """The sessions. The same statistics give the same sessions."""
    rng = np.random.default_rng(s.seed)
    n_shared = s.shared_tokens // s.block_tokens
    return Sessions(tuple(_session(f"generated-{i}", s, n_shared, rng) for i in range(s.sessions)), n_shared)


def _session(name: str, s: Statistics, n_shared: int, rng: np.random.Generator) -> Session:
    calls: list[Call] = []
    next_id = n_shared
    threads = 0

    def drawn(mean: float) -> float:
        return float(rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD)) if mean else 0.0

    def whole(mean: float) -> int:
        return max(1, round(drawn(mean)))

    def thread(number: int, n: int, waits_for: tuple[int, ...], first_tokens: float) -> int:
        """Adds the requests of one agent. Returns the position of its last one."""
        nonlocal next_id, threads
        own: list[tuple[int, int]] = [(0, n_shared)] if n_shared else []
        said, in_blocks, after = whole(first_tokens), 0, waits_for
        for i in range(n):
            more = said // s.block_tokens - in_blocks
            if more:
                own.append((next_id, more))
                next_id, in_blocks = next_id + more, in_blocks + more
            n_out = whole(s.output_tokens)
            delay = drawn(s.delay_s) if calls else 0.0
            here = len(calls)
            calls.append(Call(here, number, after, delay, joined(own), said - in_blocks * s.block_tokens, n_out))
            said += n_out + whole(s.new_tokens)
            after = (here,)
            if number == 0 and i + 1 < n and rng.random() < s.subagent_share:
                threads += 1
                after = (here, thread(threads, whole(s.subagent_requests), (here,), s.first_tokens / 2))
        return len(calls) - 1

    thread(0, whole(s.requests), (), s.first_tokens)
    return Session(name, s.block_tokens, tuple(_filled(call) for call in calls))


def _filled(call: Call) -> Call:
    """A prompt without blocks has at least one token."""
    return call if call.runs or call.tail_tokens else Call(call.id, call.thread, call.after, call.delay_s, (), 1, call.output_tokens)
