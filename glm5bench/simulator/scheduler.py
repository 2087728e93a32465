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
from dataclasses import dataclass, field

import numpy as np

from ..roofline import StepModel
from .radix import Held, Page, Radix

NEW_TOKEN_RATIO = 0.5  # requests in flight are at all stages of their outputs: half of it on average


@dataclass(frozen=True)
class Limits:
    """What the server's flags allow. `capacity_tokens` is the KV cache of all data-parallel groups, shared by all running requests."""

    max_running: int
    capacity_tokens: int
    chunk_tokens: int
    wait_passes: float = 0.0  # decode passes between the arrival of a request and its prefill, if others run
    cache: Cache | None = None  # None: there is no prefix cache


@dataclass(frozen=True)
class Cache:
    """A prefix cache. `kept_back`: last tokens of a prompt that are always computed; with EAGLE's drafts one more."""

    page_tokens: int
    kept_back: int = 1
    host_tokens: int = 0  # size of the host tier of each group
    host_token_s: float = 0.0  # time to load the cache of a token from the host


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
    pages: list[Page] = field(default_factory=list)  # of the prompt, if there is a prefix cache
    held: Held | None = None  # of these, since it was admitted
    device_tokens: int = 0  # of the prompt, found in the prefix cache in GPU memory
    host_tokens: int = 0  # and in host memory

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the prefix cache had."""
        return self.device_tokens + self.host_tokens

    @property
    def reserved_tokens(self) -> int:
        """Cache reserved when it is admitted, besides pages of the prefix cache.

        SGLang reserves only a part of the output; its ratio falls from 0.7.
        """
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
        cache = limits.cache
        self.radix = [Radix(cache.page_tokens, cache.host_tokens // cache.page_tokens) for _ in range(model.dp)] if cache else []
        self._loading_s = 0.0  # time to load cache from the host for requests that were just admitted

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
        """Cache in use by requests, in tokens. Pages that several requests hold count once; what nobody holds can be evicted."""
        own = sum(r.prefilled + r.emitted - self._held_tokens(r) for r in self._running + self._prefilling)
        return own + sum(radix.held_pages * radix.page_tokens for radix in self.radix)

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
                self._release(request)

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
                self._find(head)
                if running[group] and self._needed(group, head) > self.limits.capacity_tokens // dp:
                    self._release(head)
                    break
                queue.popleft()
                if head.held is not None and self.limits.cache is not None:
                    head.device_tokens, head.host_tokens = (n * self.limits.cache.page_tokens for n in (head.held.device, head.held.host))
                    self._loading_s += head.host_tokens * self.limits.cache.host_token_s
                head.prefilled = max(head.prefilled, head.cached_tokens)
                (self._prefilling if head.prefilled < head.prompt_tokens else self._running).append(head)
                running[group] += 1
                self._evict(group)

    def _find(self, request: Request) -> None:
        """Holds the pages of the prompt that the prefix cache has."""
        if self.limits.cache is not None and request.pages:
            most = max(0, request.prompt_tokens - self.limits.cache.kept_back) // self.limits.cache.page_tokens
            request.held = self.radix[request.group].take(request.pages, most)

    def _release(self, request: Request) -> None:
        """Releases the pages of a request that has ended or was not admitted."""
        if request.held is not None:
            self.radix[request.group].release(request.held, request.emitted)
            request.held = None
            self._evict(request.group)

    def _needed(self, group: int, *more: Request) -> int:
        """Cache that the running requests of a group need, and these more. Pages that several of them hold count once."""
        own = sum(self._own(r) for r in (*self._running, *self._prefilling, *more) if r.group == group)
        return own + (self.radix[group].held_pages * self.radix[group].page_tokens if self.radix else 0)

    def _own(self, r: Request) -> int:
        return r.reserved_tokens - self._held_tokens(r)

    def _held_tokens(self, r: Request) -> int:
        """Tokens of a request in pages of the prefix cache."""
        return r.held.n_own * self.limits.cache.page_tokens if r.held is not None and self.limits.cache is not None else 0

    def _evict(self, group: int) -> None:
        """Makes room for what running requests need."""
        if self.radix:
            room = self.limits.capacity_tokens // self.model.dp - self._needed(group)
            self.radix[group].evict(room // self.radix[group].page_tokens)

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
        for request in finished:
            if request.held is not None:
                self.radix[request.group].commit(request.held)
        self._prefilling = [r for r in self._prefilling if r.prefilled < r.prompt_tokens]
        self._running.extend(finished)
        tokens = taken.total()
        duration = self.model.prefill_s(tokens, attended, tokens / max(taken.values()))  # every group waits for the fullest
        loading_s, self._loading_s = self._loading_s, 0.0
        return Step(duration + loading_s, self._give(finished, np.ones(len(finished), dtype=np.int64)))

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
        if (pinned := self.model.speculative.pinned) is not None:  # the nearest whole numbers, with the right mean
            return np.floor(pinned - 1 + self._rng.random(n)).astype(np.int64)
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
        if ended:
            self._running = [r for r in self._running if not r.done]
        for request in ended:
            self._release(request)
        return tuple(given)
