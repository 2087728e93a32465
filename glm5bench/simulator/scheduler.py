"""A continuous-batching scheduler in virtual time: it schedules requests as SGLang does, without GPUs.

Enters: requests (prompt and output tokens). Leaves: steps, each with its duration and the tokens of each request. Prefill goes first, in
chunks. A request is admitted when a running slot and its reserved cache are free. A speculative step gives each request one token and a
geometric number of accepted drafts. A request that arrives while others decode waits for some passes first, because the engine overlaps
its scheduling with them (docs/roofline.md). With data-parallel attention, each group of GPUs has its own queue, slots and cache. All groups
take part in every pass. No clock and no HTTP: the server paces these steps in scaled real time.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..roofline import StepModel

NEW_TOKEN_RATIO = 0.5  # requests in flight are at all stages of their outputs: half of it on average


@dataclass(frozen=True)
class Limits:
    """What the server's flags allow. `capacity_tokens` is the KV cache of all data-parallel groups, shared by all running requests."""

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
    group: int = 0  # of data-parallel attention
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
        self._waiting: list[deque[Request]] = [deque() for _ in range(model.dp)]
        self._prefilling: list[Request] = []
        self._running: list[Request] = []
        self._reserved = [0] * model.dp

    @property
    def n_running(self) -> int:
        """Requests that hold cache."""
        return len(self._running) + len(self._prefilling)

    def running_of_groups(self, step: Step) -> Mapping[int, int]:
        """Requests of each group that hold cache, or have ended with this step."""
        ended = [request for request, _ in step.tokens if request.done]
        return Counter(r.group for r in [*self._running, *self._prefilling, *ended])

    @property
    def n_waiting(self) -> int:
        """Requests that wait to be admitted."""
        return sum(map(len, self._waiting)) + len(self._arriving)

    @property
    def used_tokens(self) -> int:
        """Cache in use, in tokens."""
        return sum(r.prefilled + r.emitted for r in self._running + self._prefilling)

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue of the group with the fewest requests.

        It reaches the queue after the host's work and the wait for passes in flight.
        """
        wait_s = self.limits.wait_passes * self._decode_s if self._running else 0.0
        request.ready_s = self._now_s + self.model.host_s + wait_s
        held = [*self._arriving, *itertools.chain(*self._waiting), *self._prefilling, *self._running] if self.model.dp > 1 else []
        of_groups = Counter(r.group for r in held)
        request.group = min(range(self.model.dp), key=lambda group: of_groups[group])
        self._arriving.append(request)

    def abort(self, request: Request) -> None:
        """Removes a request whose client disconnected."""
        if request.done:
            return
        request.done = True
        for queue in (self._arriving, *self._waiting):
            if request in queue:
                queue.remove(request)
                return
        for batch in (self._prefilling, self._running):
            if request in batch:
                batch.remove(request)
                self._reserved[request.group] -= request.reserved_tokens

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
        for request in (r for r in self._arriving if r.ready_s <= soon):
            self._waiting[request.group].append(request)
        self._arriving = [r for r in self._arriving if r.ready_s > soon]
        dp, running = self.model.dp, Counter(r.group for r in self._running + self._prefilling)
        for group, queue in enumerate(self._waiting):
            while queue and running[group] < max(1, self.limits.max_running // dp):
                head = queue[0]
                if running[group] and self._reserved[group] + head.reserved_tokens > self.limits.capacity_tokens // dp:
                    break
                queue.popleft()
                (self._prefilling if head.prefilled < head.prompt_tokens else self._running).append(head)
                self._reserved[group] += head.reserved_tokens
                running[group] += 1

    def _prefill(self) -> Step:
        budget, attended = max(1, self.limits.chunk_tokens // self.model.dp), 0.0
        taken: Counter[int] = Counter()
        finished: list[Request] = []
        for request in self._prefilling:
            take = min(budget - taken[request.group], request.prompt_tokens - request.prefilled)
            if take <= 0:
                continue
            attended += take * (request.prefilled + take / 2)
            request.prefilled += take
            taken[request.group] += take
            if request.prefilled == request.prompt_tokens:
                finished.append(request)
        self._prefilling = [r for r in self._prefilling if r.prefilled < r.prompt_tokens]
        self._running.extend(finished)
        tokens = taken.total()
        duration = self.model.prefill_s(tokens, attended, tokens / max(taken.values()))  # every group waits for the fullest
        return Step(duration, self._give(finished, np.ones(len(finished), dtype=np.int64)))

    def _decode(self) -> Step:
        batch, dp = self._running, self.model.dp
        context, group = np.array([r.prompt_tokens + r.emitted for r in batch]), np.array([r.group for r in batch])
        topk = self.model.checkpoint.architecture.index_topk or np.inf
        most = dp * int(np.bincount(group).max())  # every group waits for the fullest
        sums = [dp * float(np.bincount(group, tokens).max()) for tokens in (context, np.minimum(context, topk))]
        duration = self.model.decode_s(most, sums[0], sums[1])
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
            self._reserved[request.group] -= request.reserved_tokens
        if ended:
            self._running = [r for r in self._running if not r.done]
        return tuple(given)
