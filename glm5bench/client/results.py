"""The requests of a run as columns, and the client's own health: parsed from the spool after the window, request by request.

Enters: the Load that the client kept. Leaves: analysis.metrics.Requests, and Health. Broken answers are included, with their error class.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..analysis.metrics import Plays, Requests, stated
from ..errors import printable
from .exchange import Body, decoded
from .limits import most_answer_bytes
from .load import Load
from .stream import UNKNOWN, Answer, fault, parsed
from .traffic import Trace

MOST_ERROR_BYTES = 2**20  # of the decompressed body of an error answer
LATE_S = 0.01  # a request of an open loop is late if it was sent later than this after it was due
TIMES = ("due_ns", "sent_ns", "first_byte_ns", "first_token_ns", "last_token_ns", "end_ns")
COLUMNS = (*TIMES, "prompt_tokens", "output_tokens", "asked_tokens", "asked_prompt_tokens", "verify_steps", "status")
OF_ANSWERS = ("cached_tokens", "hidden_tokens", "first_tokens")


@dataclass(frozen=True)
class Health:
    """The client's own health and error.

    Stamped arrivals were read `read_lag` later. Arrivals without a stamp are late by as much, at most by `loop_lag`.
    `event_loop`: uvloop or asyncio. `cpu_share`: share of one core used by the busiest of its `processes`. `shared_read_share`: share of
    events that arrived in one read with another event of the same answer; they have the time of the last one. Late sends: open loop only.
    """

    event_loop: str
    processes: int
    cpu_s: float
    cpu_share: float
    loop_lag_p99_s: float
    read_lag_p50_s: float | None  # None: no read had a stamp
    read_lag_p99_s: float | None
    kernel_stamp_share: float
    shared_read_share: float
    late_sends: int
    late_send_max_s: float
    connects: int
    resends: int
    clock_steps_ns: tuple[int, ...]
    is_spool_full: bool
    paused_s: float = 0.0  # in which the whole job was stopped


@dataclass(frozen=True)
class Result:
    """The requests of a run that were sent or should have been sent, in order, and the client's health."""

    requests: Requests
    health: Health
    start_ns: int
    ended_by: Exception | None = None


class More(Protocol):
    """Collects further columns of each request."""

    def add(self, trace: Trace, answer: Answer) -> None:
        """Adds a request with its parsed answer."""

    def made(self) -> Plays | None:
        """The columns."""


def results(load: Load, plays: More | None = None) -> Result:
    """The raw times of a run as columns, with each answer parsed and judged. Closes the spool. Requests that were never due are omitted."""
    columns: dict[str, array[int]] = {name: array("q") for name in (*COLUMNS, *OF_ANSWERS)}
    errors: list[str] = []
    chunk_ns, chunk_tokens, offsets = array("q"), array("q"), array("q", [0])
    n_shared = 0
    for trace in load.traces:
        if trace.due_ns < 0 and not trace.error:
            continue  # never due: the run had a duration, or was stopped
        answer, wrong = _judged(load, trace)
        at = answer.at
        chunk_ns.frombytes((np.array(at, dtype=np.int64) - load.start_ns).tobytes())
        chunk_tokens.extend(answer.tokens)
        n_shared += len(at) - len(set(at))
        offsets.append(len(chunk_ns))
        errors.append(printable(wrong))  # text from an unknown server goes into files and to terminals
        stamps = (trace.due_ns, trace.sent_ns, trace.first_byte_ns, at[0] if at else -1, at[-1] if at else -1, trace.end_ns)
        for name, stamp in zip(TIMES, stamps, strict=True):
            columns[name].append(stamp - load.start_ns if stamp >= 0 else -1)
        columns["prompt_tokens"].append(answer.prompt_tokens if answer.prompt_tokens != UNKNOWN else 0)
        columns["output_tokens"].append(answer.output_tokens if answer.output_tokens != UNKNOWN else 0)
        columns["asked_tokens"].append(trace.asked_tokens)
        columns["asked_prompt_tokens"].append(trace.prompt_tokens)
        columns["verify_steps"].append(answer.verify_steps)
        for name in OF_ANSWERS:
            columns[name].append(getattr(answer, name))
        columns["status"].append(trace.status)
        if plays is not None:
            plays.add(trace, answer)
    arrays: dict[str, Any] = {name: _column(values) for name, values in columns.items()}
    arrays |= {name: stated(arrays[name]) for name in ("verify_steps", *OF_ANSWERS)}
    if (_column(chunk_tokens) >= 0).all():
        arrays["first_tokens"] = None  # every chunk's tokens are counted
    requests = Requests(
        **arrays,
        error=tuple(errors),
        chunk_ns=_column(chunk_ns),
        chunk_tokens=_column(chunk_tokens),
        chunk_offsets=_column(offsets),
        plays=plays.made() if plays is not None else None,
    )
    load.spool.close()
    told = health(load, requests, n_shared)
    load.readings.clear()
    return Result(requests, told, load.start_ns, load.ended_by)


def _judged(load: Load, trace: Trace) -> tuple[Answer, str]:
    if trace.kept is None:
        return Answer(), trace.error or "stopped: the run was ended before it was sent"
    body = load.spool.body(trace.kept)
    if trace.status != 200:
        said = " ".join(_plain(body)[:200].decode("utf-8", "replace").split())
        return Answer(), trace.error or (f"HTTP {trace.status}: {said}" if said else f"HTTP {trace.status}")
    answer = parsed(body, most_answer_bytes(trace.asked_tokens))
    return answer, trace.error or fault(answer, trace.asked_tokens, is_framed=trace.is_framed)


def _plain(body: Body) -> bytes:
    """The body without its content encoding; empty if it cannot be decoded."""
    try:
        return decoded(body, MOST_ERROR_BYTES).data if body.encoding not in ("", "identity") else body.data
    except (zlib.error, KeyError, OverflowError):
        return b""


def _column(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, dtype=np.int64)


def health(load: Load, r: Requests, n_shared: int) -> Health:
    """The health of a client of one process."""
    reads, lag_ns = load.readings, np.frombuffer(load.readings.lag_ns, dtype=np.int64)
    late = (r.sent_ns - r.due_ns)[(r.sent_ns >= 0) & load.is_open_loop] / 1e9
    return Health(
        event_loop=load.event_loop,
        processes=1,
        cpu_s=load.cpu_s,
        cpu_share=load.cpu_s / load.duration_s if load.duration_s else 0.0,
        loop_lag_p99_s=float(np.percentile(load.lags_s, 99)) if load.lags_s else 0.0,
        read_lag_p50_s=float(np.percentile(lag_ns, 50)) / 1e9 if len(lag_ns) else None,
        read_lag_p99_s=float(np.percentile(lag_ns, 99)) / 1e9 if len(lag_ns) else None,
        kernel_stamp_share=reads.stamped / reads.reads if reads.reads else 0.0,
        shared_read_share=n_shared / len(r.chunk_ns) if len(r.chunk_ns) else 0.0,
        late_sends=int((late > LATE_S).sum()),
        late_send_max_s=float(late.max()) if len(late) else 0.0,
        connects=reads.connects,
        resends=reads.resends,
        clock_steps_ns=tuple(load.clock_steps_ns),
        is_spool_full=load.spool.is_full,
        paused_s=load.paused_s,
    )
