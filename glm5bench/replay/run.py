"""One run of agent sessions: a closed loop of live sessions over a time window.

Enters: sessions, their bodies, an address, a number of users. Leaves: raw times and bytes of every request, as `load.Run` keeps them. Each
user plays one session after another. A request is sent `delay_s` after the last of the requests that it waits for has ended, so requests
of one session may be in flight together. Bodies are put together in a thread, while the requests before them are answered.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..client.connection import Connection, encoded
from ..client.load import MOST_FAILURES, Load, Progress, Run
from ..client.spool import Place
from ..client.traffic import Prepared, Target, Trace, Traffic
from ..errors import ServerError
from ..sessions.file import Call, Sessions
from .bodies import Bodies, Entry, Order

THREADS = 2  # which put bodies together
AHEAD = 4  # plays whose first bodies are made before a user begins them
WARM, MEASURED = range(2)
OK = 200


@dataclass
class Played(Trace):
    """The course of one request of a session. `play`: number of the play in the run; `place`: position in the session, from 0."""

    play: int = 0
    session: int = 0
    place: int = 0
    call_id: int = 0
    thread: int = 0
    ready_ns: int = -1  # all requests that it waits for had ended


@dataclass(frozen=True)
class Script:
    """What is replayed. `idle_cap_s`: longest pause before a request, in the server's seconds; `header`: name of a header for the play."""

    sessions: Sessions
    order: Order
    bodies: Bodies
    idle_cap_s: float | None
    time_scale: float
    header: str
    name: str  # of this run, in the header

    def delay_s(self, call: Call) -> float:
        """The pause before a request, in real seconds."""
        delay = call.delay_s if self.idle_cap_s is None else min(call.delay_s, self.idle_cap_s)
        return delay / self.time_scale


class Replay(Run):
    """One run. `warmups`: the number of requests that each user sends of its first session before its entry, each with one token of answer;
    None: the measurement, from the entries on.
    """

    def __init__(self, target: Target, script: Script, traffic: Traffic, warmups: int | None = None) -> None:
        super().__init__(target, Prepared(), traffic, lambda: None)
        self._script, self._warmups = script, warmups
        self._first = [_Play(self, script.order.entry(i), is_warm=warmups is not None) for i in range(traffic.concurrency)]
        self._ahead: list[_Play] = []  # the next plays, whose first bodies are made in advance
        self._plays = itertools.count(traffic.concurrency)
        self._free: list[Connection] = []
        self._refused = 0  # requests in a row that failed
        self._threads = ThreadPoolExecutor(THREADS, "glm5bench-bodies")

    def close(self) -> None:
        """Ends the threads, and removes the spool of requests, which is not used. No body is made after it."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._requests.close()

    def _n_users(self) -> int:
        return self.traffic.concurrency

    async def whole(self, progress: Progress) -> Load:
        """The whole run. The first bodies are made before the clock starts."""
        try:
            return await self._whole(progress)
        except BaseException:  # a defect: nobody reads the answers
            self._answers.close()
            raise

    async def _whole(self, progress: Progress) -> Load:
        async with self.opened():
            if self._warmups is None:
                self._look_ahead()
                await asyncio.gather(*(play.primed() for play in self._first))
            try:
                return await self.sent(time.monotonic_ns(), progress)
            finally:
                for play in (*self._first, *self._ahead):
                    play.drop()

    def _closed_loop(self) -> list[asyncio.Task[None]]:
        self._free = list(self._connections)
        user = self._measured if self._warmups is None else self._warmed_up
        return [asyncio.create_task(user(play)) for play in self._first]

    async def _warmed_up(self, play: _Play) -> None:
        """Sends the requests before the entry, so that the cache is as if the session had come this far."""
        assert self._warmups is not None
        for i in range(max(0, play.first - self._warmups), play.first):
            if self.ended_by is not None or not await play.sent_now(i):
                return

    async def _measured(self, play: _Play) -> None:
        """One user: the rest of its first session, then others from their beginnings."""
        while self.ended_by is None and not self._is_over:
            await play.whole()
            play = self._ahead.pop(0)
            self._look_ahead()
        play.drop()

    def _look_ahead(self) -> None:
        """Begins to make the first bodies of the next plays."""
        while len(self._ahead) < AHEAD:
            number = next(self._plays)
            play = _Play(self, Entry(number, self._script.order.session(number), 0))
            play.prepare_first()
            self._ahead.append(play)

    @property
    def end_ns(self) -> float:
        """When nothing more is sent."""
        limit = self.traffic.duration_s
        return float("inf") if limit is None else self._start_ns + limit * 1e9

    @property
    def script(self) -> Script:
        """What is replayed."""
        return self._script

    async def body(self, play: int, session: int, call: Call, output_tokens: int) -> bytes:
        """The body of a request, from a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._script.bodies.of, play, session, call, output_tokens)

    async def send(self, trace: Played, body: bytes) -> bool:
        """Sends a request on a free connection and waits for its answer. False if it failed."""
        connection = self._free.pop() if self._free else self._added()
        name = self._script.header
        head = self._head + (f"{name}: {self._script.name}-{trace.play}\r\n".encode() if name else b"")
        try:
            await self._answered(connection, trace, encoded(head, body))
        finally:
            self._free.append(connection)
        is_answered = not trace.error and trace.status == OK
        self._refused = 0 if is_answered else self._refused + 1
        if self.ended_by is None and self._refused >= MOST_FAILURES + 2 * self.traffic.concurrency:  # each failure begins another play
            last = trace.error or f"HTTP {trace.status}"
            said = f"The server answered none of {self._refused} requests in a row (last: {last})."
            self.ended_by = ServerError(said, failure_class="server_crash", where=self.target.base_url)
        return is_answered

    def _added(self) -> Connection:
        """A further connection: children of a session send together."""
        connection: Connection = self._transport.connection(self._where)
        self._connections.append(connection)
        return connection


class _Play:
    """One play of a session, from the entry on."""

    def __init__(self, run: Replay, entry: Entry, *, is_warm: bool = False) -> None:
        self._run, self._entry, self._is_warm = run, entry, is_warm
        self._session = run.script.sessions.sessions[entry.session]
        self._bodies: dict[int, asyncio.Task[bytes]] = {}
        self._traces: dict[int, Played] = {}
        self._is_cut = False

    @property
    def first(self) -> int:
        """Position of its first request."""
        return self._entry.first

    def prepare_first(self) -> None:
        """Begins to make the bodies of the requests that wait for no other."""
        for i, call in enumerate(self._session.calls):
            if i >= self.first and not any(a >= self.first for a in call.after):
                self._prepare(i)

    async def primed(self) -> None:
        """Makes these bodies."""
        self.prepare_first()
        await asyncio.gather(*self._bodies.values())

    def drop(self) -> None:
        """Makes no more bodies."""
        for task in self._bodies.values():
            task.cancel()

    async def sent_now(self, i: int) -> bool:
        """Sends one request at once. False if it failed."""
        self._prepare(i)
        return await self._call(i, time.monotonic_ns(), 0.0)

    async def whole(self) -> None:
        """Sends the requests from the entry on, each when it is due. It ends when the time is over, or after a failure."""
        calls, first = self._session.calls, self._entry.first
        waits_for = {i: {a for a in calls[i].after if a >= first} for i in range(first, len(calls))}
        children: dict[int, list[int]] = {}
        for i, after in waits_for.items():
            for a in after:
                children.setdefault(a, []).append(i)
        running: dict[asyncio.Task[bool], int] = {}
        begun, ended = set[int](), dict[int, int]()
        start_ns = time.monotonic_ns()

        def begin(ready: Sequence[int]) -> None:
            begun.update(ready)
            for i in ready:
                ready_ns = max((ended[a] for a in waits_for[i]), default=start_ns)
                self._prepare(i)
                running[asyncio.create_task(self._call(i, ready_ns, self._run.script.delay_s(calls[i])))] = i
                for child in children.get(i, ()):  # its body is made while this request is answered
                    if waits_for[child] <= begun:
                        self._prepare(child)

        try:
            begin([i for i, after in waits_for.items() if not after])
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=running.__getitem__):
                    i = running.pop(task)
                    if task.cancelled():
                        continue
                    if not task.result():
                        self._is_cut = True
                        for other in [t for t, n in running.items() if n not in self._traces]:
                            other.cancel()  # what is not sent yet would keep its user in a pause
                        continue
                    ended[i] = self._traces[i].end_ns
                    if not self._is_cut:
                        begin([c for c in children.get(i, ()) if waits_for[c] <= ended.keys()])
        finally:
            self.drop()
            for other in running:
                other.cancel()

    def _prepare(self, i: int) -> None:
        if i not in self._bodies:
            call = self._session.calls[i]
            n_out = 1 if self._is_warm else call.output_tokens
            self._bodies[i] = asyncio.create_task(self._run.body(self._entry.play, self._entry.session, call, n_out))

    async def _call(self, i: int, ready_ns: int, delay_s: float) -> bool:
        """Sends one request when it is due. False if it failed, or if the time is over."""
        call, run = self._session.calls[i], self._run
        due_ns = ready_ns + round(delay_s * 1e9)
        body = await self._bodies[i] if due_ns < run.end_ns else b""
        while (ahead := min(due_ns, run.end_ns) - time.monotonic_ns()) > 0:  # a session in a pause is live until the window ends
            await asyncio.sleep(max(ahead / 1e9, 1e-3))  # uvloop's timers have millisecond resolution and end early
        if self._is_cut or run.ended_by is not None or time.monotonic_ns() >= run.end_ns:
            return False
        n_out = 1 if self._is_warm else call.output_tokens
        trace = Played(len(run.traces), Place(0, len(body)), self._session.prompt_tokens(call), n_out, 0.0, due_ns)
        trace.play, trace.session, trace.place, trace.ready_ns = self._entry.play, self._entry.session, i, ready_ns
        trace.call_id, trace.thread = call.id, call.thread
        self._traces[i] = trace
        run.traces.append(trace)
        del self._bodies[i]
        return await run.send(trace, body)
