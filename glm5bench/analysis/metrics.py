"""Figures of one point from its raw times. Pure numpy; times in integer ns of one clock, figures in seconds and tokens.

The definitions are those of the public protocol: TTFT is the time to the first chunk that carries a token,
TPOT = (E2EL - TTFT)/(n_out - 1), and throughput is over the whole wall time. A simulated point's clock ran `time_scale` times faster than
real time, so its times are multiplied by the scale here, and nowhere else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AnalysisError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

P99_NEEDS = 100
NEEDED = {"p90": 10, "p95": 20, "p99": P99_NEEDS}  # least number of samples, so that one is beyond the percentile
STRAY_SHARE = 0.01  # share of the requests; a smaller share is ignored as stray
WITHHELD_SHARE = 0.05  # mean bias of TPOT over the requests, above which TPOT is left out
SHARED_SHARE = 0.1  # share of chunks that share a read, above which gaps between chunks are left out


@dataclass(frozen=True)
class Plays:
    """Requests of agent sessions, all (P,): first the R measured ones in the order of `Requests`, then those of the warm-up.

    `play`: number of the play in the run; `session`: position in the file; `request` and `thread`: as in the file. `ready_ns`: all requests
    that it waits for had ended. Times are ns since the run's start, negative in the warm-up. Cached tokens: -1 if unknown; `ideal_tokens`:
    what an infinite cache would have had.
    """

    phase: Ints  # 0: warm-up, 1: measured
    play: Ints
    session: Ints
    request: Ints
    thread: Ints
    ready_ns: Ints
    due_ns: Ints
    sent_ns: Ints
    prompt_tokens: Ints
    cached_tokens: Ints
    device_tokens: Ints
    host_tokens: Ints
    storage_tokens: Ints
    ideal_tokens: Ints

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """Which requests belong to the measurement, (P,)."""
        return np.asarray(self.phase == 1)


@dataclass(frozen=True)
class Requests:
    """Raw times of R requests, all (R,), ns since the run's start; -1 if it did not happen. Chunks are flat, request by request."""

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
    error: tuple[str, ...]  # "" for a complete answer
    chunk_ns: Ints  # (N,)
    chunk_tokens: Ints  # (N,), -1 if the server did not report it
    chunk_offsets: Ints  # (R + 1,)
    asked_prompt_tokens: Ints | None = None  # 0 if unknown; None in older files, which do not contain it
    verify_steps: Ints | None = None  # of speculative decoding; -1 if the server did not report it, None if it never did
    cached_tokens: Ints | None = None  # prompt tokens from a prefix cache; unknown values as above
    hidden_tokens: Ints | None = None  # answer tokens that were counted but not streamed; unknown values as above
    first_tokens: Ints | None = None  # tokens in the first chunk, estimated from its text if chunks have no counts; unknown values as above
    plays: Plays | None = None  # of agent sessions

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """Which requests ended without an error, (R,)."""
        return np.array([not e for e in self.error], dtype=bool)

    @functools.cached_property
    def streaming(self) -> Streaming:
        """How the answers arrived in chunks."""
        return _streaming(self)

    @property
    def has_prompt_tokens(self) -> bool:
        """Whether the server counted the prompt tokens, except for a few strays."""
        whole = self.is_whole
        return bool((whole & (self.prompt_tokens <= 0)).sum() <= STRAY_SHARE * whole.sum())


@dataclass(frozen=True)
class Streaming:
    """How answers arrived in chunks.

    `n_shared`: chunks of each request with the same time as the chunk before, (R,). `shared_share`: their share of all chunks. Biases are
    the share by which TPOT is too low, as the mean over complete answers with several tokens. `first_chunk_bias` comes from further tokens
    in the first chunk, `hidden_bias` from tokens that were never streamed. `bias` is the total, including other chunks in the first read.
    """

    n_shared: Ints
    shared_share: float
    first_tokens: float  # mean tokens in the first chunk; NaN if unknown
    first_chunk_bias: float
    hidden_bias: float
    n_hidden: int
    bias: float

    @property
    def is_tpot_withheld(self) -> bool:
        """Whether TPOT and interactivity are left out."""
        return self.bias > WITHHELD_SHARE

    @property
    def is_itl_withheld(self) -> bool:
        """Whether gaps between chunks are left out."""
        return self.shared_share > SHARED_SHARE


def _streaming(r: Requests) -> Streaming:
    n, n_requests = np.diff(r.chunk_offsets), len(r.error)
    owner = np.repeat(np.arange(n_requests), n)
    is_shared = np.zeros(len(owner), dtype=bool)
    is_shared[1:] = (r.chunk_ns[1:] == r.chunk_ns[:-1]) & (owner[1:] == owner[:-1])
    n_shared = np.bincount(owner[is_shared], minlength=n_requests)
    begins = r.chunk_offsets[:-1][n > 0]
    first_ns = np.full(n_requests, -1, dtype=np.int64)
    first_ns[n > 0] = r.chunk_ns[begins]
    at_first = r.chunk_ns == first_ns[owner]
    arrived = np.bincount(owner[at_first], weights=np.maximum(r.chunk_tokens[at_first], 1), minlength=n_requests)
    first = np.full(n_requests, np.nan)
    first[n > 0] = np.where(r.chunk_tokens[begins] > 0, r.chunk_tokens[begins], np.nan)
    if r.first_tokens is not None:
        is_estimated = np.isnan(first) & (r.first_tokens > 0)
        arrived = np.where(is_estimated, arrived + r.first_tokens - 1, arrived)
        first = np.where(is_estimated, r.first_tokens, first)
    hidden = np.maximum(r.hidden_tokens, 0) if r.hidden_tokens is not None else np.zeros(n_requests, dtype=np.int64)
    several = r.is_whole & (r.output_tokens > 1)
    at_once = several & (r.last_token_ns == r.first_token_ns)
    gaps = np.maximum(r.output_tokens - 1, 1)
    of_first = np.where(np.isnan(first), 0.0, np.maximum(first - 1, 0) / gaps)
    uncounted = np.where(several & (hidden > 0), np.minimum(hidden / gaps, 1.0), 0.0)  # included in the first chunk's count, if any
    of_arrived = np.where(at_once, 1.0, np.maximum(arrived - 1, 0) / gaps)

    def mean(values: Floats) -> float:
        return float(np.minimum(values[several], 1.0).mean()) if several.any() else 0.0

    return Streaming(
        n_shared=n_shared,
        shared_share=float(is_shared.sum() / len(owner)) if len(owner) else 0.0,
        first_tokens=float(np.nanmean(first[several])) if several.any() and np.isfinite(first[several]).any() else float("nan"),
        first_chunk_bias=mean(of_first),
        hidden_bias=mean(uncounted),
        n_hidden=int((r.is_whole & (hidden > 0)).sum()),
        bias=mean(np.maximum(of_arrived, uncounted)),
    )


def stated(values: Ints) -> Ints | None:
    """A column of values that servers may report, with -1 for unknown ones; None if all are unknown."""
    return values if (values >= 0).any() else None


@dataclass(frozen=True)
class Statistics:
    """Statistics of one quantity over the finished requests, in seconds. NaN if n is 0."""

    mean: float
    median: float
    std: float  # population standard deviation, as in the other tools
    p90: float
    p95: float
    p99: float
    n: int

    @property
    def has_p99(self) -> bool:
        """Whether there are enough samples for the 99th percentile."""
        return self.n >= P99_NEEDS


_NAN = float("nan")
NOTHING = Statistics(_NAN, _NAN, _NAN, _NAN, _NAN, _NAN, 0)


@dataclass(frozen=True)
class Figures:
    """The figures of one point. For a simulated point, seconds are simulated time."""

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
        """1 / median TPOT: tokens per second for the median user."""
        return 1.0 / self.tpot.median if self.tpot.median > 0 else float("nan")


def figures(r: Requests, *, time_scale: float = 1.0, from_due: bool = False) -> Figures:
    """All figures of a point. `from_due`: a request's clock starts when it was due, not when it was sent (an open loop).

    Unreliable TPOT, ITL and prompt figures are left out: NaN, with n = 0 (see `Requests.streaming`, `has_prompt_tokens`).

    Raises AnalysisError if a request's times run backwards (clocks of two hosts mixed).
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
    counted = prompt if r.has_prompt_tokens else float("nan")
    return Figures(
        n_requests=len(whole),
        n_failed=int((~whole).sum()),
        duration_s=duration,
        ttft=statistics(ttft),
        tpot=NOTHING if r.streaming.is_tpot_withheld else statistics(time_per_output_token_s(ttft, e2el, r.output_tokens[whole])),
        itl=NOTHING if r.streaming.is_itl_withheld else statistics(gaps),
        e2el=statistics(e2el),
        prompt_tokens=prompt,
        output_tokens=output,
        total_tput_tok_s=(counted + output) / duration,
        input_tput_tok_s=counted / duration,
        output_tput_tok_s=output / duration,
        mean_concurrency=float((r.last_token_ns - r.sent_ns)[whole].sum() * scale) / duration,
        itl_is_per_chunk=per_chunk,
    )


def started_ns(r: Requests, *, from_due: bool) -> Ints:
    """The start of each request's clock in ns, (R,)."""
    return np.where(r.due_ns >= 0, np.minimum(r.due_ns, r.sent_ns), r.sent_ns) if from_due else r.sent_ns


def _nothing(n: int) -> Figures:
    return Figures(n, n, _NAN, NOTHING, NOTHING, NOTHING, NOTHING, 0, 0, _NAN, _NAN, _NAN, _NAN, True)


def _refuse_backwards(r: Requests, whole: NDArray[np.bool_]) -> None:
    backwards = whole & ((r.first_token_ns < r.sent_ns) | (r.last_token_ns < r.first_token_ns))
    if backwards.any():
        raise AnalysisError(f"Request {int(np.flatnonzero(backwards)[0])} ends before it begins: its times come from two clocks.")


def time_per_output_token_s(ttft_s: Floats, e2el_s: Floats, n_out: Ints) -> Floats:
    """Mean gap between the output tokens of each request, without the first token.

    Shapes: all (R,).   Unit: seconds.   Requests with one output token have no gap and are left out of the result.
    Source: the definition of `tpot` in vLLM's serving benchmark.
    """
    several = n_out > 1
    return (e2el_s[several] - ttft_s[several]) / (n_out[several] - 1)


def inter_token_latencies_s(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, bool]:
    """Pooled gaps after each request's first chunk, and whether these are gaps between chunks (True) or between tokens (False).

    If every chunk's token count is known, a gap is divided among the tokens of the chunk that ends it. With speculation or a stream
    interval, a chunk can have several tokens.
    """
    gaps, carried, _ = token_gaps(r, whole, scale)
    if len(carried) and (carried > 0).all():
        return np.repeat(gaps, carried), False
    return gaps, True


def chunk_latencies_s(r: Requests, *, time_scale: float = 1.0) -> Floats:
    """Pooled gaps between chunks with tokens, for each complete request, (G,): ITL as vLLM's and SGLang's clients count it."""
    return _chunk_gaps(r, r.is_whole, np.float64(time_scale / 1e9))[0]


def token_gaps(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, Ints, Ints]:
    """The gap per token before each chunk except a request's first, the chunk's number of tokens, and the index of its request.

    Shapes: all (G,). If any number of tokens is unknown (-1), the gaps are per chunk. Chunks without a token are skipped.
    """
    gaps, carried, owner = _chunk_gaps(r, whole, scale)
    return (gaps / carried if (carried > 0).all() else gaps), carried, owner


def _chunk_gaps(r: Requests, whole: NDArray[np.bool_], scale: np.float64) -> tuple[Floats, Ints, Ints]:
    n = np.diff(r.chunk_offsets)
    owner = np.repeat(np.arange(len(n), dtype=np.int32), n)
    counted = (r.chunk_tokens != 0) & whole[owner]
    at, tokens = r.chunk_ns, r.chunk_tokens
    if not counted.all():  # avoids copying millions of chunks, which is rarely needed
        at, tokens, owner = at[counted], tokens[counted], owner[counted]
    same = owner[1:] == owner[:-1]
    return np.diff(at)[same] * scale, tokens[1:][same], owner[1:][same]


def statistics(values: Floats) -> Statistics:
    """Mean, median and percentiles (linear interpolation) of the finite values."""
    finite = values[np.isfinite(values)] if len(values) else values
    if not len(finite):
        return NOTHING
    p50, p90, p95, p99 = np.percentile(finite, [50, 90, 95, 99])
    return Statistics(float(finite.mean()), float(p50), float(finite.std()), float(p90), float(p95), float(p99), len(finite))
