"""Figures of one point from its raw times. Pure numpy; times in integer ns of one clock, figures in seconds and tokens.

The definitions are those of the public protocol: TTFT to the first chunk that carries a token, TPOT = (E2EL - TTFT)/(n_out - 1),
throughput over the whole wall time. A simulated point's clock ran `time_scale` times faster than what it simulates, so its times
are multiplied by the scale here, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AnalysisError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

P99_NEEDS = 100


@dataclass(frozen=True)
class Requests:
    """Raw times of R requests, all (R,), ns since the run's start; -1 where it never happened. Chunks are flat, request by request."""

    due_ns: Ints
    sent_ns: Ints
    first_byte_ns: Ints
    first_token_ns: Ints
    last_token_ns: Ints
    end_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    asked_tokens: Ints
    status: Ints
    error: tuple[str, ...]  # "" for a whole answer
    chunk_ns: Ints  # (N,)
    chunk_tokens: Ints  # (N,), -1 where the server did not say
    chunk_offsets: Ints  # (R + 1,)
    asked_prompt_tokens: Ints | None = None  # 0 where nobody knew; None in files from before it was kept
    verify_steps: Ints | None = None  # of speculative decoding; -1 where the server did not say, None where it said nothing

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """Requests that ended well, (R,)."""
        return np.array([not e for e in self.error], dtype=bool)


def stated(values: Ints) -> Ints | None:
    """A column of what servers may say, -1 where one did not; None where none did."""
    return values if (values >= 0).any() else None


@dataclass(frozen=True)
class Statistics:
    """Of one quantity over the finished requests, seconds. NaN where n is 0."""

    mean: float
    median: float
    std: float  # of the population, as the other tools have it
    p90: float
    p95: float
    p99: float
    n: int

    @property
    def has_p99(self) -> bool:
        """Whether there are enough samples for a 99th percentile."""
        return self.n >= P99_NEEDS


@dataclass(frozen=True)
class Figures:
    """What a point says. Seconds are those of the simulation where it is simulated."""

    n_requests: int
    n_failed: int
    duration_s: float
    ttft: Statistics
    tpot: Statistics
    itl: Statistics
    e2el: Statistics
    prompt_tokens: int
    output_tokens: int
    total_tput_tok_s: float
    input_tput_tok_s: float
    output_tput_tok_s: float
    mean_concurrency: float
    itl_is_per_chunk: bool

    @property
    def interactivity_tok_s_user(self) -> float:
        """1 / median TPOT: tokens a second that the median user sees."""
        return 1.0 / self.tpot.median if self.tpot.median > 0 else float("nan")


def figures(r: Requests, *, time_scale: float = 1.0, from_due: bool = False) -> Figures:
    """All figures of a point. `from_due`: a request's clock starts when it was due and not when it was sent (an open loop).

    Raises AnalysisError when a request's times run backwards (clocks of two hosts mixed).
    """
    whole = r.is_whole
    scale = np.float64(time_scale / 1e9)
    if not whole.any():
        return _nothing(len(whole))
    _refuse_backwards(r, whole)
    sent, end = r.sent_ns[r.sent_ns >= 0], r.end_ns[r.end_ns >= 0]
    duration = float((end.max() - sent.min()) * scale)
    start = started_ns(r, from_due=from_due)
    ttft = (r.first_token_ns - start)[whole] * scale
    e2el = (r.last_token_ns - start)[whole] * scale
    prompt, output = int(r.prompt_tokens[whole].sum()), int(r.output_tokens[whole].sum())
    gaps, per_chunk = inter_token_latencies_s(r, whole, scale)
    return Figures(
        n_requests=len(whole),
        n_failed=int((~whole).sum()),
        duration_s=duration,
        ttft=statistics(ttft),
        tpot=statistics(time_per_output_token_s(ttft, e2el, r.output_tokens[whole])),
        itl=statistics(gaps),
        e2el=statistics(e2el),
        prompt_tokens=prompt,
        output_tokens=output,
        total_tput_tok_s=(prompt + output) / duration,
        input_tput_tok_s=prompt / duration,
        output_tput_tok_s=output / duration,
        mean_concurrency=float((r.last_token_ns - r.sent_ns)[whole].sum() * scale) / duration,
        itl_is_per_chunk=per_chunk,
    )


def started_ns(r: Requests, *, from_due: bool) -> Ints:
    """When each request's clock started, (R,)."""
    return np.where(r.due_ns >= 0, np.minimum(r.due_ns, r.sent_ns), r.sent_ns) if from_due else r.sent_ns


def _nothing(n: int) -> Figures:
    none, nan = statistics(np.array([])), float("nan")
    return Figures(n, n, nan, none, none, none, none, 0, 0, nan, nan, nan, nan, True)


def _refuse_backwards(r: Requests, whole: NDArray[np.bool_]) -> None:
    backwards = whole & ((r.first_token_ns < r.sent_ns) | (r.last_token_ns < r.first_token_ns))
    if backwards.any():
        raise AnalysisError(f"Request {int(np.flatnonzero(backwards)[0])} ends before it begins: its times come from two clocks.")


def time_per_output_token_s(ttft_s: Floats, e2el_s: Floats, n_out: Ints) -> Floats:
    """Mean gap between the output tokens of each request, the first token left out.

    Shapes: all (R,).   Unit: seconds.   Requests with one output token have no gap and are left out of the result.
    Source: the definition of `tpot` in vLLM's serving benchmark.
    """
    several = n_out > 1
    return (e2el_s[several] - ttft_s[several]) / (n_out[several] - 1)


def inter_token_latencies_s(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, bool]:
    """Gaps between chunks after each request's first, pooled; True beside them: these are gaps of chunks, not of tokens.

    A gap is divided among the tokens of the chunk that ends it where every count is known (then False); a chunk is no token under
    speculation or a stream interval.
    """
    gaps, carried, _ = token_gaps(r, whole, scale)
    if len(carried) and (carried > 0).all():
        return np.repeat(gaps, carried), False
    return gaps, True


def chunk_latencies_s(r: Requests, *, time_scale: float = 1.0) -> Floats:
    """Gaps between the chunks of each whole request that carry tokens, pooled, (G,): ITL as vLLM's and SGLang's clients count it."""
    return _chunk_gaps(r, r.is_whole, np.float64(time_scale / 1e9))[0]


def token_gaps(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, Ints, Ints]:
    """The gap before each chunk but a request's first, a token; how many tokens the chunk has (-1: nobody knows, then the gap is the
    chunk's); and whose it is. Shapes: all (G,). Chunks that carry no token are passed over.
    """
    gaps, carried, owner = _chunk_gaps(r, whole, scale)
    return (gaps / carried if (carried > 0).all() else gaps), carried, owner


def _chunk_gaps(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, Ints, Ints]:
    n = np.diff(r.chunk_offsets)
    owner = np.repeat(np.arange(len(n), dtype=np.int32), n)
    counted = (r.chunk_tokens != 0) & whole[owner]
    at, tokens = r.chunk_ns, r.chunk_tokens
    if not counted.all():  # copies of millions of chunks, mostly for nothing
        at, tokens, owner = at[counted], tokens[counted], owner[counted]
    same = owner[1:] == owner[:-1]
    return np.diff(at)[same] * scale, tokens[1:][same], owner[1:][same]


def statistics(values: Floats) -> Statistics:
    """Mean, median and percentiles (linear interpolation) of the finite values."""
    finite = values[np.isfinite(values)] if len(values) else values
    if not len(finite):
        nan = float("nan")
        return Statistics(nan, nan, nan, nan, nan, nan, 0)
    p50, p90, p95, p99 = np.percentile(finite, [50, 90, 95, 99])
    return Statistics(float(finite.mean()), float(p50), float(finite.std()), float(p90), float(p95), float(p99), len(finite))
