"""The scheduler, paced in scaled real time: the part of the simulated server between HTTP and virtual time.

Enters: requests with a callback. Leaves: calls of the callback as tokens are generated. Steps end at absolute deadlines, so a late event
loop does not slow the simulation down. Its lateness is counted, because the figures of a server that lags are not those of its model.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .gpus import Meter, meter
from .options import Options
from .radix import pages_of
from .scheduler import Request, Scheduler

Deliver = Callable[[int, bool], None]  # new tokens, and whether the request is done
Prompt = str | Sequence[int]


@dataclass
class Counters:
    """The counters of /metrics and /server_info, since the start or the last flush."""

    requests: int = 0
    prompt_tokens: int = 0
    device_tokens: int = 0  # of prompts, found in the prefix cache in GPU memory
    host_tokens: int = 0
    generation_tokens: int = 0
    verify_steps: int = 0
    verified_tokens: int = 0
    peaks: dict[int, int] = field(default_factory=dict)  # most running requests of each data-parallel group
    worst_lag_s: float = 0.0  # real seconds behind schedule
    late_steps: int = 0
    steps: int = 0


@dataclass
class Engine:
    """One running simulation."""

    options: Options
    scheduler: Scheduler = field(init=False)
    counters: Counters = field(default_factory=Counters)
    total: Counters = field(default_factory=Counters)
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.options.model, self.options.limits)
        self.meter = meter(self.options)
        self._deliver: dict[int, Deliver] = {}
        self._arrived = asyncio.Event()
        self._next_id = 0
        self.streams = 0  # streamed requests, which faults count; health checks do not stream
        self.last_throughput = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether any request is running or waiting."""
        return self.scheduler.n_running + self.scheduler.n_waiting > 0

    def submit(
        self, prompt_tokens: int, output_tokens: int, deliver: Deliver, *, is_computed: bool = False, prompt: Prompt = ()
    ) -> Request:
        """Queues a request. `deliver` is called in the event loop. `is_computed`: its cache and first token came from a prefill worker.

        `prompt`: its token ids or its text, for the prefix cache.
        """
        self._next_id += 1
        for counters in (self.counters, self.total):
            counters.requests += 1
            counters.prompt_tokens += prompt_tokens
        request = Request(self._next_id, prompt_tokens, output_tokens)
        if (cache := self.options.limits.cache) is not None:
            request.pages = pages_of(prompt, cache.page_tokens)
        self._deliver[request.id] = deliver
        if is_computed:
            request.prefilled, request.emitted, request.done = prompt_tokens, 1, output_tokens == 1
            self._give(request, 1)
        if not request.done:
            self.scheduler.add(request)
        self._arrived.set()
        return request

    def abort(self, request: Request) -> None:
        """Removes a request whose client disconnected."""
        self._deliver.pop(request.id, None)
        self.scheduler.abort(request)

    def flush(self) -> None:
        """Empties the prefix cache, and resets the counters since the last flush, for a new measurement."""
        self.counters = Counters()
        for radix in self.scheduler.radix:
            radix.clear()

    def count_stream(self) -> int:
        """The number of this streamed request, from 1. Exits the process if the fault `die` is due, and resets the counters at `reset`."""
        self.streams += 1
        if self.options.fault is not None and (self.options.fault.kind, self.options.fault.number) == ("reset", self.streams):
            self.total = Counters()
        self._die_if_asked()
        return self.streams

    def _die_if_asked(self) -> None:
        fault = self.options.fault
        if fault is None or fault.kind not in ("die", "panic") or self.streams <= fault.number:
            return
        print("Scheduler hit an exception: RuntimeError: CUDA error: an illegal memory access", file=sys.stderr, flush=True)
        if fault.kind == "die":
            os._exit(1)

    @property
    def _is_hung(self) -> bool:
        fault = self.options.fault
        return fault is not None and fault.kind in ("hang", "panic") and self.streams > fault.number

    async def run(self) -> None:
        """Runs steps until it is cancelled."""
        scale = self.options.time_scale
        deadline = time.monotonic()
        while True:
            step = self.scheduler.step() if not self._is_hung else None
            self.meter.turn(busy=step is not None)
            if step is None:
                self._arrived.clear()
                await self._arrived.wait()
                deadline = time.monotonic()
                continue
            deadline += step.duration_s / scale
            await self._until(deadline, self.scheduler.running_of_groups(step))
            for request, tokens in step.tokens:
                self._give(request, tokens)
            self.last_throughput = sum(n for _, n in step.tokens) / step.duration_s if step.duration_s else 0.0

    async def _until(self, deadline: float, running: Mapping[int, int]) -> None:
        left = deadline - time.monotonic()
        await asyncio.sleep(max(0.0, left))
        late = time.monotonic() - deadline
        for counters in (self.counters, self.total):
            counters.steps += 1
            counters.peaks |= {group: n for group, n in running.items() if n > counters.peaks.get(group, 0)}
            counters.worst_lag_s = max(counters.worst_lag_s, late)
            counters.late_steps += left < 0

    def _give(self, request: Request, tokens: int) -> None:
        for counters in (self.counters, self.total):
            counters.generation_tokens += tokens
            if request.done:
                counters.device_tokens += request.device_tokens
                counters.host_tokens += request.host_tokens
            if request.done and request.verify_steps:
                counters.verify_steps += request.verify_steps
                counters.verified_tokens += request.emitted - 1
        deliver = self._deliver.pop(request.id, None) if request.done else self._deliver.get(request.id)
        if deliver is not None:
            deliver(tokens, request.done)
