"""What a run sends, where and when, as values: every request, encoded and out of memory, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .spool import KeptBody, Place, Spool
from .workload import Session


@dataclass(frozen=True)
class Target:
    """Where requests go, with which headers, and how long to wait for a silent server.

    `check` is called several times a second, in a thread; it raises if the run must end.
    """

    base_url: str
    path: str
    headers: Mapping[str, str]
    stall_s: float
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Traffic:
    """When requests are sent. `due_s`: due time of each conversation, in an open loop; None: a closed loop of `concurrency` users."""

    concurrency: int
    due_s: Sequence[float] | None = None
    ramp_s: float = 0.0
    duration_s: float | None = None


@dataclass
class Trace:
    """The course of one request, in ns of the monotonic clock; -1 if the event did not happen. `error` has its class before the colon."""

    number: int  # in the order in which they were encoded
    request: Place
    prompt_tokens: int
    asked_tokens: int
    pause_s: float
    due_ns: int = -1
    sent_ns: int = -1
    first_byte_ns: int = -1
    end_ns: int = -1
    status: int = -1
    error: str = ""
    is_framed: bool = True  # HTTP itself marked the end of the body
    kept: KeptBody | None = None


@dataclass
class Prepared:
    """All requests of a run, encoded and out of memory. `sessions`: the numbers of each conversation's requests."""

    spool: Spool = field(default_factory=Spool)
    traces: list[Trace] = field(default_factory=list)
    sessions: list[range] = field(default_factory=list)

    @classmethod
    def of(cls, sessions: Iterable[Session]) -> Prepared:
        """Stores these encoded sessions."""
        made = cls()
        for session in sessions:
            begin = len(made.traces)
            kept = ((begin + i, made.spool.put(p.body), p) for i, p in enumerate(session))
            made.traces += [Trace(number, place, p.prompt_tokens, p.output_tokens, p.pause_s) for number, place, p in kept]
            made.sessions.append(range(begin, len(made.traces)))
        return made
