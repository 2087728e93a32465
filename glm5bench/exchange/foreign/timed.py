"""Converts per-request times of other tools to glm5bench's raw times: integer ns, from which figures are computed again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...analysis.metrics import Ints, Requests
from ...analysis.plausibility import CONTRADICTORY
from ...errors import printable
from .reading import MAX_SECONDS, MAX_TEXT, Entry

MAX_TOKENS = 2**31 - 1  # per request: point files store 32 bits


@dataclass(frozen=True)
class Timed:
    """Per-request times as other tools store them: seconds, and gaps between an answer's chunks. An empty error means a complete answer."""

    started_s: Sequence[float]
    ttft_s: Sequence[float]
    latency_s: Sequence[float]
    gaps_s: Sequence[Sequence[float] | None]  # None: unknown
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    errors: Sequence[str]


def requests_of(entry: Entry, t: Timed) -> Requests:
    """Raw times as glm5bench stores them: ns since the first send, -1 if unknown. Chunks have no token counts.

    Raises FileError for times and counts that no run can have.
    """
    t = _with_known_starts(t)
    _refuse_absurd(entry, t)
    errors = [error or contradiction(ttft, latency) for error, ttft, latency in zip(t.errors, t.ttft_s, t.latency_s, strict=True)]
    sent = _ns(np.array(t.started_s, dtype=np.float64) - min(t.started_s, default=0.0))
    whole = np.array([not error for error in errors], dtype=bool)
    nobody = np.full(len(sent), -1, dtype=np.int64)
    first = np.where(whole, sent + _ns(np.array(t.ttft_s, dtype=np.float64)), -1)
    last = np.where(whole, sent + _ns(np.array(t.latency_s, dtype=np.float64)), -1)
    spans = [latency - ttft for latency, ttft in zip(t.latency_s, t.ttft_s, strict=True)]
    chunks = [_chunks(first[i], gaps if whole[i] and _add_up(gaps, spans[i]) else None) for i, gaps in enumerate(t.gaps_s)]
    arrivals = np.concatenate([np.zeros(0, dtype=np.int64), *chunks])
    return Requests(
        due_ns=nobody, sent_ns=sent, first_byte_ns=nobody, first_token_ns=first, last_token_ns=last, end_ns=last,
        prompt_tokens=np.array(t.prompt_tokens, dtype=np.int64), output_tokens=np.array(t.output_tokens, dtype=np.int64),
        asked_tokens=nobody, status=nobody, error=tuple(map(_words, errors)),
        chunk_ns=arrivals, chunk_tokens=np.full(len(arrivals), -1, dtype=np.int64),
        chunk_offsets=np.concatenate([[0], np.cumsum([len(c) for c in chunks])]).astype(np.int64),
    )  # fmt: skip


def _with_known_starts(t: Timed) -> Timed:
    """The same times, with an error for each request whose start is NaN. Its start becomes the earliest start."""
    starts = [start for start in t.started_s if not math.isnan(start)]
    if len(starts) == len(t.started_s):
        return t
    errors = [
        error or ("unstated: its start is NaN" if math.isnan(start) else "") for error, start in zip(t.errors, t.started_s, strict=True)
    ]
    return replace(t, started_s=[min(starts, default=0.0) if math.isnan(s) else s for s in t.started_s], errors=errors)


def _add_up(gaps_s: Sequence[float] | None, span_s: float) -> bool:
    """Whether the gaps add up to `span_s`, the time from an answer's first chunk to its last. False for NaN."""
    return gaps_s is not None and abs(sum(gaps_s) - span_s) <= 0.001 + 0.05 * span_s


def contradiction(ttft_s: float, latency_s: float) -> str:
    """The error of a request whose times contradict each other; empty if there is none. Times that are NaN are unstated."""
    if math.isnan(ttft_s) or math.isnan(latency_s):
        return "unstated: its times are NaN"
    if ttft_s < 0:
        return f"{CONTRADICTORY}its first token came {-ttft_s:.4g} s before it was sent"
    return f"{CONTRADICTORY}its latency of {latency_s:.4g} s is shorter than its TTFT of {ttft_s:.4g} s" if latency_s < ttft_s else ""


def _refuse_absurd(entry: Entry, t: Timed) -> None:
    start = min(t.started_s, default=0.0)
    longest = [s - start for s in t.started_s], [max(0.0, s) for s in t.ttft_s], t.latency_s, [sum(gaps or ()) for gaps in t.gaps_s]
    if any(not 0 <= s <= MAX_SECONDS and not math.isnan(s) for seconds in longest for s in seconds):
        raise entry.error(f"A request began later or took longer than {MAX_SECONDS:g} s")
    if max((*t.prompt_tokens, *t.output_tokens), default=0) > MAX_TOKENS:
        raise entry.error(f"A request has more than {MAX_TOKENS:,} tokens")


def _words(error: str) -> str:
    """An error on one line, in characters that a file can store. It is empty only if it was empty before."""
    return error and (printable(" ".join(error.split()))[:MAX_TEXT] or "unstated")


def _chunks(first_ns: np.int64, gaps_s: Sequence[float] | None) -> Ints:
    """Arrival times of an answer's chunks; empty if they are unknown."""
    return np.zeros(0, dtype=np.int64) if gaps_s is None else first_ns + _ns(np.concatenate([[0.0], np.cumsum(gaps_s)]))


def _ns(seconds: Sequence[float] | np.ndarray) -> Ints:
    return np.rint(np.asarray(seconds, dtype=np.float64) * 1e9).astype(np.int64)


def refuse_contradictions(entry: Entry, errors: Sequence[str], n_whole: int | None) -> None:
    """Raises FileError if a file does not contain as many answers as it states."""
    n = sum(not error for error in errors)
    if n_whole is not None and n != n_whole:
        raise entry.error(f"The file states that {n_whole} requests were answered, but contains {n} answers")
