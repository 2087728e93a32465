"""The load client: a closed loop of streamed requests on httpx, timed in ns of the monotonic clock.

Enters: encoded prompts, a server, a concurrency. Leaves: raw times and bytes; parsing waits until the window is over. One httpx
client a slot (the shared pool of httpx 0.28 is quadratic in connections), connections opened beforehand, garbage collection held.
A dead or silent server ends the run within seconds.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from ..analysis.metrics import Requests
from .server import Server
from .stream import UNKNOWN, fault, parsed
from .workload import Prompt

TICK_S = 0.05
WATCH_S = 0.25
SENT_EVENT = "http11.send_request_headers.started"


@dataclass
class Trace:
    """One request as it went, ns of the monotonic clock; -1 where it never came to that."""

    prompt: Prompt
    due_ns: int = -1
    sent_ns: int = -1
    end_ns: int = -1
    status: int = -1
    error: str = ""
    pieces: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """What one run of the client saw."""

    traces: list[Trace]
    start_ns: int
    lag_p99_s: float


Progress = Callable[[int, int], None]


def run_load(server: Server, path: str, prompts: Sequence[Prompt], concurrency: int, progress: Progress) -> Load:
    """Sends every prompt, `concurrency` at a time, and waits for all answers.

    Raises ServerError when the server dies or no byte comes for the engine's stall timeout, Stopped when the job is asked to stop.
    """
    gc.collect()
    gc.disable()
    try:
        return _run(_closed_loop(server, path, prompts, concurrency, progress))
    finally:
        gc.enable()


def _run(work: Coroutine[Any, Any, Load]) -> Load:
    try:
        import uvloop
    except ImportError:  # no Linux
        return asyncio.run(work)
    return uvloop.run(work)


async def _closed_loop(server: Server, path: str, prompts: Sequence[Prompt], concurrency: int, progress: Progress) -> Load:
    traces = [Trace(p) for p in prompts]
    waiting = list(reversed(traces))
    context = ssl.create_default_context()
    clients = [_client(server, context) for _ in range(min(concurrency, len(traces)))]
    try:
        await asyncio.gather(*(c.get("/v1/models") for c in clients), return_exceptions=True)  # connections are open before the clock
        start_ns = time.monotonic_ns()
        lags: list[float] = []
        slots = [asyncio.create_task(_slot(client, path, waiting)) for client in clients]
        watch, clock = asyncio.create_task(_watch(server, traces, progress)), asyncio.create_task(_lateness(lags))
        work = asyncio.ensure_future(asyncio.wait(slots))
        await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            for slot in slots:
                slot.cancel()
            await work
            watch.result()  # raises what it found
        watch.cancel()
        clock.cancel()
        for slot in slots:
            slot.result()  # raises a defect of this client, if there is one
    finally:
        await asyncio.gather(*(c.aclose() for c in clients))
    return Load(traces, start_ns, float(np.percentile(lags, 99)) if lags else 0.0)


def _client(server: Server, context: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
    timeout = httpx.Timeout(2 * server.arm.engine.stall_timeout_s, connect=30, pool=None)  # of one request; _watch looks at all
    return httpx.AsyncClient(
        base_url=server.base_url, headers=server.headers, limits=limits, timeout=timeout, trust_env=False, verify=context
    )


async def _slot(client: httpx.AsyncClient, path: str, waiting: list[Trace]) -> None:
    while waiting:
        await _request(client, path, waiting.pop())


async def _request(client: httpx.AsyncClient, path: str, trace: Trace) -> None:
    async def on_event(name: str, info: dict[str, Any]) -> None:
        if name == SENT_EVENT and trace.sent_ns < 0:
            trace.sent_ns = time.monotonic_ns()

    trace.due_ns = time.monotonic_ns()
    request = client.build_request(
        "POST", path, content=trace.prompt.body, headers={"content-type": "application/json"}, extensions={"trace": on_event}
    )
    pieces = trace.pieces
    try:
        response = await client.send(request, stream=True)
        trace.status = response.status_code
        async for data in response.aiter_raw():
            pieces.append((time.monotonic_ns(), data))
        await response.aclose()
    except httpx.HTTPError as error:
        trace.error = f"{type(error).__name__}: {error}".rstrip(": ")
    trace.end_ns = time.monotonic_ns()


async def _lateness(lags: list[float]) -> None:
    """How late the event loop wakes what sleeps, whatever holds it up. Returns never."""
    while True:
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        lags.append(time.monotonic() - due)


async def _watch(server: Server, traces: Sequence[Trace], progress: Progress) -> None:
    """Looks at the server and the flow of bytes; returns never, raises when the run is over."""
    seen, since = -1, time.monotonic()
    while True:
        await asyncio.sleep(WATCH_S)
        await asyncio.to_thread(server.alive_or_raise)  # it reads the log, and a shared disk may take its time
        pieces, ended = sum(len(t.pieces) for t in traces), sum(t.end_ns >= 0 for t in traces)
        progress(ended, len(traces))
        if pieces + ended != seen:
            seen, since = pieces + ended, time.monotonic()
        elif time.monotonic() - since > server.arm.engine.stall_timeout_s:
            raise server.error(
                f"sent no byte for {server.arm.engine.stall_timeout_s:g} s, {ended} of {len(traces)} requests done", "server_hung"
            )


def requests(load: Load) -> Requests:
    """The raw times of a run as columns, each answer parsed and judged."""
    columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
    errors, chunk_ns, chunk_tokens, offsets = [], [], [], [0]
    for trace in load.traces:
        answer = parsed(trace.pieces)
        wrong = trace.error or (f"HTTP {trace.status}" if trace.status != 200 else fault(answer))
        at = [t for t, _ in answer.chunks]
        chunk_ns += [t - load.start_ns for t in at]
        chunk_tokens += [n for _, n in answer.chunks]
        offsets.append(len(chunk_ns))
        errors.append(wrong)
        stamps = (
            trace.due_ns,
            trace.sent_ns,
            trace.pieces[0][0] if trace.pieces else -1,
            at[0] if at else -1,
            at[-1] if at else -1,
            trace.end_ns,
        )
        for name, stamp in zip(COLUMNS, stamps, strict=False):
            columns[name].append(stamp - load.start_ns if stamp >= 0 else -1)
        columns["prompt_tokens"].append(answer.prompt_tokens if answer.prompt_tokens != UNKNOWN else 0)
        columns["output_tokens"].append(answer.output_tokens if answer.output_tokens != UNKNOWN else 0)
        columns["asked_tokens"].append(trace.prompt.output_tokens)
        columns["status"].append(trace.status)
    arrays = {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
    return Requests(
        **arrays,
        error=tuple(errors),
        chunk_ns=np.array(chunk_ns, dtype=np.int64),
        chunk_tokens=np.array(chunk_tokens, dtype=np.int64),
        chunk_offsets=np.array(offsets, dtype=np.int64),
    )


COLUMNS = (
    "due_ns", "sent_ns", "first_byte_ns", "first_token_ns", "last_token_ns", "end_ns",
    "prompt_tokens", "output_tokens", "asked_tokens", "status",
)  # fmt: skip
