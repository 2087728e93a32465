"""A continuous-batching scheduler in virtual time: it schedules requests as SGLang does, without GPUs.

Enters: requests (prompt and output tokens). Leaves: steps, each with its duration and the tokens of each request. Prefill goes first, in
chunks. A request is admitted when a running slot and its reserved cache are free. A speculative step gives each request one token and a
geometric number of accepted drafts. A request that arrives while others decode waits for some passes first, because the engine overlaps
its scheduling with them (docs/roofline.md). No clock and no HTTP: the server paces these steps in scaled real time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from ..roofline import StepModel

NEW_TOKEN_RATIO = 0.5  # requests in flight are at all stages of their outputs: half of it on average


@dataclass(frozen=True)
class Limits:
    """What the server's flags allow. `capacity_tokens` is the KV cache, shared by all running requests."""

    max_running: int
    capacity_tokens: int
    chunk_tokens: int
    wait_passes: float = 0.0  # decode passes between the arrival of a request and its prefill, if others run


@dataclass
class Request:
    """One request inside the scheduler. The counts only grow."""

    id: int
    prompt_tokens: int
    output_tokens: int
    prefilled: int = 0
    emitted: int = 0
    ready_s: float = 0.0  # the scheduler's own time from which it can be admitted
    verify_steps: int = 0
    done: bool = False

    @property
    def reserved_tokens(self) -> int:
        """Cache reserved when it is admitted. SGLang reserves only a part of the output; its ratio falls from 0.7."""
        return self.prompt_tokens + int(NEW_TOKEN_RATIO * self.output_tokens)


@dataclass(frozen=True)
class Step:
    """One forward pass: how long it takes (seconds), and the tokens that come out at its end."""

    duration_s: float
    tokens: tuple[tuple[Request, int], ...]


class Scheduler:
    """The waiting queue, the running batch and the cache of one server."""

    def __init__(self, model: StepModel, limits: Limits, *, seed: int = 0) -> None:
        self.model, self.limits = model, limits
        self._rng = np.random.default_rng(seed)
        self._now_s, self._decode_s = 0.0, 0.0  # time since the start without idle time; the latest decode step
        self._arriving: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._prefilling: list[Request] = []
        self._running: list[Request] = []
        self._reserved = 0

    @property
    def n_running(self) -> int:
        """Requests that hold cache."""
        return len(self._running) + len(self._prefilling)

    @property
    def n_waiting(self) -> int:
        """Requests that wait to be admitted."""
        return len(self._waiting) + len(self._arriving)

    @property
    def used_tokens(self) -> int:
        """Cache in use, in tokens."""
        return sum(r.prefilled + r.emitted for r in self._running + self._prefilling)

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue, which it reaches after the host's work and the wait for passes in flight."""
        wait_s = self.limits.wait_passes * self._decode_s if self._running else 0.0
        request.ready_s = self._now_s + self.model.host_s + wait_s
        self._arriving.append(request)

    def abort(self, request: Request) -> None:
        """Removes a request whose client disconnected."""
        if request.done:
            return
        request.done = True
        for queue in (self._arriving, self._waiting):
            if request in queue:
                queue.remove(request)
                return
        for batch in (self._prefilling, self._running):
            if request in batch:
                batch.remove(request)
                self._reserved -= request.reserved_tokens

    def step(self) -> Step | None:
        """The next forward pass, or None when there is nothing to do. Steps without tokens: a chunk, or time until a request is ready."""
        self._admit()
        step = self._prefill() if self._prefilling else self._decode() if self._running else self._idle()
        self._now_s += step.duration_s if step is not None else 0.0
        return step

    def _idle(self) -> Step | None:
        if not self._arriving:
            return None
        return Step(max(0.0, min(r.ready_s for r in self._arriving) - self._now_s), ())

    def _admit(self) -> None:
        soon = self._now_s + 1e-9
        self._waiting.extend(r for r in self._arriving if r.ready_s <= soon)
        self._arriving = [r for r in self._arriving if r.ready_s > soon]
        while self._waiting and self.n_running < self.limits.max_running:
            head = self._waiting[0]
            if self.n_running and self._reserved + head.reserved_tokens > self.limits.capacity_tokens:
                return
            self._prefilling.append(self._waiting.popleft())
            self._reserved += head.reserved_tokens

    def _prefill(self) -> Step:
        budget, tokens, attended = self.limits.chunk_tokens, 0, 0.0
        finished: list[Request] = []
        for request in self._prefilling:
            take = min(budget - tokens, request.prompt_tokens - request.prefilled)
            if take <= 0:
                break
            attended += take * (request.prefilled + take / 2)
            request.prefilled += take
            tokens += take
            if request.prefilled == request.prompt_tokens:
                finished.append(request)
        self._prefilling = [r for r in self._prefilling if r.prefilled < r.prompt_tokens]
        self._running.extend(finished)
        return Step(self.model.prefill_s(tokens, attended), self._give(finished, np.ones(len(finished), dtype=np.int64)))

    def _decode(self) -> Step:
        batch = self._running
        context = np.array([r.prompt_tokens + r.emitted for r in batch])
        topk = self.model.checkpoint.architecture.index_topk or np.inf
        duration = self.model.decode_s(len(batch), float(context.sum()), float(np.minimum(context, topk).sum()))
        self._decode_s = duration
        for request in batch:
            request.verify_steps += 1
        return Step(duration, self._give(batch, 1 + self._accepted(len(batch))))

    def _accepted(self, n: int) -> np.ndarray:
        """Accepted drafts of each of n requests, (n,): drafts are accepted until the first refusal."""
        steps = self.model.speculative.steps
        if not steps:
            return np.zeros(n, dtype=np.int64)
        taken = self._rng.random((n, steps)) < self.model.checkpoint.mtp_accept
        accepted: np.ndarray = np.cumprod(taken, axis=1).sum(axis=1)
        return accepted

    def _give(self, batch: list[Request], tokens: np.ndarray) -> tuple[tuple[Request, int], ...]:
        given = []
        for request, drawn in zip(batch, tokens.tolist(), strict=True):
            n = min(drawn, request.output_tokens - request.emitted)
            request.emitted += n
            given.append((request, n))
        ended = [r for r in batch if r.emitted >= r.output_tokens]
        for request in ended:
            request.done = True
            self._reserved -= request.reserved_tokens
        if ended:
            self._running = [r for r in self._running if not r.done]
        return tuple(given)
