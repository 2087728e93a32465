"""The requests of agent sessions as columns, beside those of every request: what was cached, and what an infinite cache would have had.

Enters: traces and parsed answers. Leaves: analysis.metrics.Plays.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence

import numpy as np

from ..analysis.metrics import Plays, Requests
from ..client.stream import UNKNOWN, Answer
from ..client.traffic import Trace
from ..sessions.file import Sessions
from ..sessions.ideal import Ideal
from .run import MEASURED, OK, WARM, Played

TIERS = ("device_tokens", "host_tokens", "storage_tokens")
NAMES = tuple(f.name for f in dataclasses.fields(Plays))


class PlayColumns:
    """Collects the columns of one run."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._columns = {name: array("q") for name in NAMES}

    def add(self, trace: Trace, answer: Answer) -> None:
        """Adds a request of a session."""
        assert isinstance(trace, Played)
        told = {
            "phase": MEASURED,
            "play": trace.play,
            "session": trace.session,
            "request": trace.call_id,
            "thread": trace.thread,
            "ready_ns": trace.ready_ns - self._start_ns,
            "due_ns": trace.due_ns - self._start_ns,
            "sent_ns": trace.sent_ns - self._start_ns if trace.sent_ns >= 0 else trace.due_ns - self._start_ns,
            "prompt_tokens": trace.prompt_tokens,
            "cached_tokens": answer.cached_tokens,
            "device_tokens": answer.device_tokens,
            "host_tokens": answer.host_tokens,
            "storage_tokens": answer.storage_tokens,
            "ideal_tokens": UNKNOWN,
        }
        for name, value in told.items():
            self._columns[name].append(value)

    def made(self) -> Plays | None:
        """The columns; None if there is no request of a session."""
        if not self._columns["phase"]:
            return None
        return Plays(**{name: np.frombuffer(values, dtype=np.int64) for name, values in self._columns.items()})


def with_warmup(measured: Plays, warm: Plays | None, earlier_ns: int) -> Plays:
    """Both in one table. `earlier_ns`: how much earlier the clock of the warm-up started."""
    if warm is None:
        return measured
    told = {name: np.concatenate([getattr(measured, name), getattr(warm, name)]) for name in NAMES}
    n = len(measured.phase)
    told["phase"][n:] = WARM
    for name in ("ready_ns", "due_ns", "sent_ns"):
        told[name][n:] -= earlier_ns
    return Plays(**told)


def complete(plays: Plays, sessions: Sessions, requests: Sequence[Requests], *, reports_cached: bool) -> Plays:
    """The same with the ideal. `requests`: the measured ones, then those of the warm-up; together as many as plays.

    Engines leave out counts of zero. Whole answers that reported no cached tokens had none, if the server is known to report them; and
    answers without cached tokens have none in any place. Requests that the server refused are not in the ideal cache.
    """
    is_whole = np.concatenate([r.is_whole for r in requests])
    was_taken = np.concatenate([r.status == OK for r in requests])
    places = [{call.id: call for call in session.calls} for session in sessions.sessions]
    cache, ideal = Ideal(sessions), np.full(len(plays.phase), UNKNOWN, dtype=np.int64)
    for i in np.lexsort((plays.play, plays.sent_ns)).tolist():
        session = int(plays.session[i])
        if was_taken[i]:
            ideal[i] = cache.cached_tokens(int(plays.play[i]), sessions.sessions[session], places[session][int(plays.request[i])])
    cached = np.where(is_whole & (plays.cached_tokens < 0), 0, plays.cached_tokens) if reports_cached else plays.cached_tokens
    has_none = is_whole & (cached == 0)
    tiers = {n: np.where(has_none & (getattr(plays, n) < 0), 0, getattr(plays, n)) for n in TIERS}
    return dataclasses.replace(plays, cached_tokens=cached, ideal_tokens=ideal, **tiers)
