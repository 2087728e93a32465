"""One run of the load client: requests sent in a closed or an open loop, answers kept as bytes with their times.

Enters: encoded conversations, an address, a concurrency. Leaves: raw times and bytes, which are parsed after the window. Connections
are opened and requests encoded beforehand, garbage collection is paused, and an answer wakes no task before it has ended. A dead server
ends the run within seconds, a silent one after the stall timeout. A request on a connection that the server was closing is sent once
more on a new one. No other request is retried: failed requests keep their error class.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx

from ..errors import ServerError
from .arriving import Arriving
from .connection import Connection, address, encoded, head
from .exchange import Exchange, Readings
from .limits import freed, most_answer_bytes, until, why
from .side import WITHIN_S
from .spool import Spool
from .traffic import Prepared, Target, Trace, Traffic
from .transport import Transport
from .watching import PAUSE_S, cpu_s, stopped_s, wanted_cpu_s
from .workload import PATHS

TICK_S = 0.05
WATCH_S = 0.25
MOST_FAILURES = 16  # requests in a row without any answer, plus two for each user: the server is gone
GONE_S = 5.0  # it is also gone after MOST_FAILURES requests in a row if they failed over a longer time than this


@dataclass
class Load:
    """The raw result of one run of the client. `ended_by`: why it ended before all answers were there; None if it did not."""

    traces: list[Trace]
    start_ns: int
    spool: Spool
    readings: Readings
    lags_s: list[float]
    clock_steps_ns: list[int]
    event_loop: str
    cpu_s: float
    duration_s: float
    ended_by: Exception | None = None
    is_open_loop: bool = False
    paused_s: float = 0.0


Progress = Callable[[int, int], None]
Take = Callable[[], "int | None"]


def run_load(target: Target, prepared: Prepared, traffic: Traffic, progress: Progress) -> Load:
    """Sends every conversation and waits for all answers, or until the run is ended.

    An error raised by `target.check` ends it, and a ServerError if the server is gone or sends no token for the stall timeout.
    """
    took = iter(range(len(prepared.sessions)))
    run = Run(target, prepared, traffic, lambda: next(took, None))
    return run_quietly(run.whole(progress))


def run_quietly(work: Coroutine[Any, Any, Load]) -> Load:
    """Runs the coroutine on the fastest event loop available, without garbage collection."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        import uvloop
    except ImportError:  # not on Linux
        return asyncio.run(work)
    else:
        return uvloop.run(work)
    finally:
        gc.enable()
        gc.unfreeze()


class Run:
    """One run in one process. `take` returns the number of the next conversation, None after the last; `ended_by`: why it ended early."""

    def __init__(self, target: Target, prepared: Prepared, traffic: Traffic, take: Take) -> None:
        self.target, self.traffic, self._take = target, traffic, take
        self.traces, self.sessions = prepared.traces, prepared.sessions
        self._requests, self._answers = prepared.spool, Spool()
        self.ended_by: Exception | None = None
        self.n_ended = self._failures = 0
        self._failing_since = 0.0
        self._arriving = Arriving(time.monotonic_ns())
        self._connections: list[Connection] = []
        self._lags_s: list[float] = []
        self._paused_s = 0.0

    async def whole(self, progress: Progress) -> Load:
        """The whole run: opens connections, sends, watches and closes."""
        async with self.opened():
            return await self.sent(time.monotonic_ns(), progress)

    @contextlib.asynccontextmanager
    async def opened(self) -> Any:
        """Opens as many connections as the server accepts, and waits for the kernel's stamps on them."""
        self._transport = Transport()
        url = httpx.URL(self.target.base_url + self.target.path)
        self._where = address(url)
        users = self._n_users()
        async with httpx.AsyncClient(transport=self._transport, trust_env=False, headers=dict(self.target.headers)) as client:
            self._head = head(
                client.build_request("POST", url, headers={"content-type": "application/json", "accept-encoding": "identity"})
            )
            self._connections = [self._transport.connection(self._where) for _ in range(users)]
            warm = head(client.build_request("GET", self.target.base_url + "/v1/models")) + b"\r\n"
            opening, checking = asyncio.create_task(self._all_warmed(warm)), asyncio.create_task(self._checked())
            await asyncio.wait([opening, checking], return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                self.ended_by = why(checking)
                self._abort("stopped: the run was ended before it began")
            checking.cancel()
            await opening
            self._transport.readings.clear()  # reads during opening do not belong to the run
            yield self

    def _n_users(self) -> int:
        """How many connections are opened before the clock starts."""
        return min(self.traffic.concurrency, len(self.sessions))

    async def _checked(self) -> None:
        """Never returns; raises the error that the target's check raises."""
        while True:
            await asyncio.to_thread(self.target.check)
            await asyncio.sleep(WATCH_S)

    async def _all_warmed(self, request: bytes) -> None:
        for begin in range(0, len(self._connections), 64):  # a listening socket's queue is short
            if self.ended_by is not None:
                return
            if not all(await asyncio.gather(*(self._warmed(c, request) for c in self._connections[begin : begin + 64]))):
                return  # the requests will report the failure
        await self._stamps_seen(request)

    async def _warmed(self, connection: Connection, request: bytes) -> bool:
        """Whether the server answered on this connection."""
        with contextlib.suppress(httpx.HTTPError):
            if not connection.is_open:
                await connection.open()
            if self.ended_by is not None:  # ended meanwhile: nothing would end a new exchange
                return False
            exchange = connection.begin(request)
            await asyncio.wait([exchange.ended], timeout=min(self.target.stall_s, WITHIN_S))
            if not exchange.ended.done():
                connection.abort(httpx.ReadTimeout("hang: nothing came"))
            return exchange.error is None
        return False

    async def _stamps_seen(self, request: bytes) -> None:
        """Waits until the kernel begins to stamp, which takes some time after the request for it."""
        readings = self._transport.readings
        for _ in range(50 if self._transport.clock.has_stamps else 0):
            before = readings.stamped
            if not await self._warmed(self._connections[0], request) or readings.stamped > before:
                return
            await asyncio.sleep(0.01)

    async def sent(self, start_ns: int, progress: Progress) -> Load:
        """Sends everything from `start_ns` on and returns all answers, or those received so far if the run is ended early."""
        self._start_ns = start_ns
        cpu, began = cpu_s(), time.monotonic()
        self._arriving = Arriving(max(start_ns, time.monotonic_ns()))
        while (ahead := start_ns - time.monotonic_ns()) > 0:
            await asyncio.sleep(ahead / 1e9 if ahead > 2e6 else 0)
        tasks = self._open_loop() if self.traffic.due_s is not None else self._closed_loop()
        watch, clock = asyncio.create_task(self._watch(progress)), asyncio.create_task(self._lateness())
        work = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.ended_by = why(watch)
            self._abort("stopped: the run was ended while it was in flight")
            for _ in range(3):
                await asyncio.sleep(0)  # keep what was in flight
            for task in tasks:
                task.cancel()
            await work
        watch.cancel()
        clock.cancel()
        for task in tasks:
            if not task.cancelled() and (defect := task.exception()):
                raise defect
        spent = cpu_s() - cpu, time.monotonic() - began
        name = "uvloop" if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else "asyncio"
        steps, is_open = self._transport.clock.steps_ns, self.traffic.due_s is not None
        seen = self.traces, start_ns, self._answers, self._transport.readings, self._lags_s, steps
        return Load(*seen, name, *spent, self.ended_by, is_open, self._paused_s)

    def _abort(self, why: str) -> None:
        for connection in self._connections:
            connection.abort(httpx.ReadError(why))

    @property
    def _is_over(self) -> bool:
        """Whether the time for sending is over."""
        limit = self.traffic.duration_s
        return limit is not None and time.monotonic_ns() - self._start_ns >= limit * 1e9

    def _closed_loop(self) -> list[asyncio.Task[None]]:
        share = self.traffic.ramp_s / max(1, len(self._connections))
        return [asyncio.create_task(self._user(c, i * share)) for i, c in enumerate(self._connections)]

    async def _user(self, connection: Connection, wait_s: float) -> None:
        """One user, who sends one conversation after another."""
        if wait_s:
            await asyncio.sleep(wait_s)
        while self.ended_by is None and not self._is_over and (number := self._take()) is not None:
            await self._session(connection, self.sessions[number], None)

    def _open_loop(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._dispatcher())]

    async def _dispatcher(self) -> None:
        """Sends every conversation when it is due and a connection is free, and its further turns when they are due."""
        assert self.traffic.due_s is not None
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in self._connections:
            free.put_nowait(connection)
        running: list[asyncio.Task[None]] = []
        due_s, limit_s = self.traffic.due_s, self.traffic.duration_s
        taken = sorted(iter(self._take, None), key=due_s.__getitem__)
        try:
            for number in taken:
                if limit_s is not None and due_s[number] >= limit_s:
                    break
                due_ns = self._start_ns + round(due_s[number] * 1e9)
                await until(due_ns)
                connection = await free.get()  # what was due in time is sent, however late; else the longest waits would be left out
                if self.ended_by is not None:
                    break
                task = asyncio.create_task(self._session(connection, self.sessions[number], due_ns))
                running.append(task)
                task.add_done_callback(functools.partial(freed, free, connection))
            if running:
                await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def _session(self, connection: Connection, numbers: range, due_ns: int | None) -> None:
        """Sends the turns of one conversation, each after the previous answer. A failed turn ends the conversation."""
        for number in numbers:
            trace = self.traces[number]
            if trace.pause_s:
                due_ns = time.monotonic_ns() + round(trace.pause_s * 1e9)
                while (ahead := due_ns - time.monotonic_ns()) > 0:
                    await asyncio.sleep(max(ahead / 1e9, 1e-3))  # uvloop's timers have millisecond resolution and end early
            if number != numbers.start and self._is_over:
                return
            trace.due_ns = time.monotonic_ns() if due_ns is None else due_ns
            await self._request(connection, trace)
            due_ns = None
            if trace.error or trace.status != 200:  # its body is not parsed before the window is over
                for left in range(number + 1, numbers.stop):
                    self.traces[left].error = "not sent: the turn before it failed"
                return

    async def _request(self, connection: Connection, trace: Trace) -> None:
        await self._answered(connection, trace, encoded(self._head, self._requests.get(trace.request)))

    async def _answered(self, connection: Connection, trace: Trace, request: bytes) -> None:
        """Sends the request, and keeps its answer or its error."""
        most_bytes = most_answer_bytes(trace.asked_tokens, is_cumulative=self.target.path == PATHS["generate"])
        try:
            if not connection.is_usable():
                await connection.open()
            exchange = connection.begin(request, most_bytes)
            await exchange.ended
            if str(exchange.error or "").startswith("stale: ") and self.ended_by is None:
                self._transport.readings.resends += 1
                await connection.open()
                exchange = connection.begin(request, most_bytes)
                await exchange.ended
        except httpx.HTTPError as error:
            trace.error, trace.end_ns = str(error), time.monotonic_ns()
            self.n_ended += 1
            self._failed_to_connect(error)
            return
        self._keep(trace, exchange)

    def _keep(self, trace: Trace, exchange: Exchange) -> None:
        trace.sent_ns, trace.first_byte_ns, trace.end_ns = exchange.sent_ns, exchange.first_byte_ns, exchange.end_ns
        trace.status, trace.is_framed = exchange.status, exchange.is_framed
        trace.error = str(exchange.error) if exchange.error is not None else ""
        trace.kept = self._answers.put_body(exchange.body, exchange.at, exchange.cuts, exchange.encoding)
        self.n_ended += 1
        if exchange.error is None:
            self._arriving.ended(exchange.end_ns)
        if exchange.error is not None and exchange.status < 0:
            self._failed_to_connect(exchange.error)
        else:
            self._failures = 0

    def _failed_to_connect(self, error: Exception) -> None:
        now = time.monotonic()
        self._failing_since = self._failing_since if self._failures else now
        self._failures += 1
        is_long = self._failures >= MOST_FAILURES and now - self._failing_since > GONE_S
        if self.ended_by is None and (is_long or self._failures >= MOST_FAILURES + 2 * self.traffic.concurrency):
            said = f"The server is gone: {self._failures} requests in a row had no answer (last error: {error})."
            self.ended_by = ServerError(said, failure_class="server_crash", where=self.target.base_url)

    async def _lateness(self) -> None:
        """Records how late the event loop wakes a sleeping task, and measures the clocks' offset again. Never returns.

        If a wake-up is late although this process neither ran nor waited for a core, the whole job was stopped.
        """
        while True:
            due, wanted_s = time.monotonic() + TICK_S, wanted_cpu_s()
            await asyncio.sleep(TICK_S)
            lag_s = time.monotonic() - due
            self._lags_s.append(lag_s)
            if lag_s > PAUSE_S:
                self._paused_s += stopped_s(lag_s, wanted_s, wanted_cpu_s())
            self._transport.clock.calibrate()

    async def _watch(self, progress: Progress) -> None:
        """Checks the server and the flow of tokens. Never returns; raises when the run must end."""
        stall_ns, stall_s = self.target.stall_s * 1e9, self.target.stall_s
        while True:
            await asyncio.sleep(WATCH_S)
            if self.ended_by is not None:
                raise self.ended_by
            await asyncio.to_thread(self.target.check)
            progress(self.n_ended, len(self.traces))
            now = time.monotonic_ns()
            open_ = {e: c for c in self._connections if (e := c.exchange) is not None}
            if not open_:
                self._arriving.ended(now)
            stalled = self._arriving.stalled(list(open_), now - stall_ns)
            if open_ and self._arriving.is_silent(list(open_), now - stall_ns):
                said = f"sent no token for {stall_s:g} s, {self.n_ended} of {len(self.traces)} requests done"
                self.ended_by = ServerError(f"The server {said}.", failure_class="server_hung", where=self.target.base_url)
                stalled = list(open_)
            for exchange in stalled:
                which = "next" if exchange.token_ns > exchange.sent_ns else "first"
                open_[exchange].abort(httpx.ReadTimeout(f"hang: no {which} token for {stall_s:g} s"))
