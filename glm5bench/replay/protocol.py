"""The load protocol of one point of agent sessions: bring the cache to where the sessions begin, then replay them over a window.

Enters: an address, a workload, a number of users. Leaves: the raw times of every request, and what was cached of each prompt. The prefix
cache is emptied before the warm-up, not after it: the warm-up fills it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..client.endpoint import Endpoint
from ..client.load import Progress, run_quietly
from ..client.protocol import Measured, Patience, refuse_another_file
from ..client.results import results
from ..client.traffic import Target, Traffic
from ..client.workload import PATHS, Encoder, ids
from ..errors import ClientError, SettingsError
from ..sessions.file import read_sessions
from ..sessions.ideal import facts
from ..sessions.shipped import located
from ..values.point import Point
from ..values.workload import Workload
from .bodies import Bodies, Order, Seed
from .played import PlayColumns, complete, with_warmup
from .run import Replay, Script


class SessionsProtocol:
    """One point's load. `reports_cached`: whether the server is known to report the cached tokens of every answer."""

    keeps_cache = True  # the cache is emptied before the warm-up

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        workload: Workload,
        point: Point,
        patience: Patience,
        progress: Progress,
        *,
        vocabulary: int,
        time_scale: float = 1.0,
        attempt: int = 1,
        wants_steps: bool = False,
        wants_places: bool = False,
        reports_cached: bool = False,
    ) -> None:
        if workload.file is None:
            raise SettingsError("workload.content=sessions needs workload.file.")
        path = located(workload.file)
        refuse_another_file(replace(workload, file=path))
        self._endpoint, self._workload, self._progress, self._scale = endpoint, workload, progress, time_scale
        self._reports_cached = reports_cached or workload.endpoint == "generate"
        self._target = Target(endpoint.base_url, PATHS[workload.endpoint], endpoint.headers, patience.stall_s, patience.check)
        self._users = point.concurrency
        encoder = Encoder(workload, point, model, vocabulary, wants_steps=wants_steps, wants_places=wants_places)
        self._sessions = read_sessions(path)
        order = Order(self._sessions, Seed((point.seed, point.repeat)), workload.entry)  # equal at every concurrency and attempt
        content = Seed((point.seed, point.repeat, point.concurrency, attempt))
        bodies = Bodies(self._sessions, content, ids(vocabulary), encoder.body)
        name = f"{point.key}-{attempt}"
        self._script = Script(self._sessions, order, bodies, workload.idle_cap_s, time_scale, workload.session_header, name)
        self._warm: Measured | None = None

    @property
    def about(self) -> dict[str, Any]:
        """Facts of the file, for the provenance. `lengths`: the number of requests of each session."""
        return {"sessions": {**facts(self._sessions), "lengths": [len(session.calls) for session in self._sessions.sessions]}}

    @property
    def has_warmups(self) -> bool:
        """Whether anything is sent before the window."""
        return self._workload.warmups_per_concurrency > 0

    def warm_up(self) -> Measured:
        """Sends the requests before each user's entry, and returns their result."""
        self._warm = self._run(Traffic(self._users), self._workload.warmups_per_concurrency)
        return self._warm

    def encode(self) -> None:
        """Does nothing: bodies are put together during the run."""

    def measure(self) -> Measured:
        """Replays the sessions until the window is over and all answers have come, or until the run is ended by an error."""
        limit = self._workload.duration_s
        done = self._run(Traffic(self._users, duration_s=limit / self._scale if limit is not None else None), None)
        measured, warm = done.requests.plays, self._warm.requests.plays if self._warm is not None else None
        if measured is None:
            if done.ended_by is None:
                raise ClientError(
                    f"No request was due in the window of {limit:g} s: every live session was in a pause.",
                    next_step="a longer workload.duration_s, or a shorter workload.idle_cap_s",
                )
            return done
        earlier_ns = done.start_ns - self._warm.start_ns if self._warm is not None else 0
        plays = with_warmup(measured, warm, earlier_ns)
        each = [done.requests, *([self._warm.requests] if self._warm is not None and warm is not None else [])]
        plays = complete(plays, self._sessions, each, reports_cached=self._reports_cached)
        return replace(done, requests=replace(done.requests, plays=plays, cached_tokens=None))

    def _run(self, traffic: Traffic, warmups: int | None) -> Measured:
        replay = Replay(self._target, self._script, traffic, warmups)
        try:
            load = run_quietly(replay.whole(self._progress))
        finally:
            replay.close()
        result = results(load, PlayColumns(load.start_ns))
        errors = tuple(map(self._endpoint.redacted, result.requests.error))
        return Measured(replace(result.requests, error=errors), result.health, result.start_ns, result.ended_by)
