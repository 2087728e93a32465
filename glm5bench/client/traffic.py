"""What a run is to send, where and when, as values: every request encoded and out of memory, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .spool import KeptBody, Place, Spool
from .workload import Session


@dataclass(frozen=True)
class Target:
    """Where requests go, with which headers, how long a silent server is waited for, and who says that it is over.

    `check` is called several times a second, in a thread; it raises where the run is to end.
    """

    base_url: str
    path: str
    headers: Mapping[str, str]
    stall_s: float
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Traffic:
    """When what is sent. `due_s`: of each conversation, in an open loop; None: `concurrency` users, one after another."""

    concurrency: int
    due_s: Sequence[float] | None = None
    ramp_s: float = 0.0
    duration_s: float | None = None


@dataclass
class Trace:
    """One request as it went, ns of the monotonic clock; -1 where it never came to that. `error`: its class before the colon."""

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
    is_framed: bool = True  # HTTP itself said where the body ended
    kept: KeptBody | None = None


@dataclass
class Prepared:
    """Everything that is to be sent, encoded and out of memory. `sessions`: the numbers of each conversation's requests."""

    spool: Spool = field(default_factory=Spool)
    traces: list[Trace] = field(default_factory=list)
    sessions: list[range] = field(default_factory=list)

    @classmethod
    def of(cls, sessions: Iterable[Session]) -> Prepared:
        """Encodes nothing: keeps what is encoded."""
        made = cls()
        for session in sessions:
            begin = len(made.traces)
            kept = ((begin + i, made.spool.put(p.body), p) for i, p in enumerate(session))
            made.traces += [Trace(number, place, p.prompt_tokens, p.output_tokens, p.pause_s) for number, place, p in kept]
            made.sessions.append(range(begin, len(made.traces)))
        return made
