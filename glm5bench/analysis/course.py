"""What happened during a run, from its raw times alone: reads that were shared, answers that were buffered, stalls, drift, queues.

Pure numpy. Times are ns of the client's clock: a simulated server's runs faster, and ratios do not change. Each finding is a reason
with the seconds or rates that it is about. A server that is slow and steady has none.
"""

from __future__ import annotations

import numpy as np

from .metrics import SHARED_SHARE, STRAY_SHARE, Ints, Requests
from .reasons import Reason

BURST_NS = 50_000  # between chunks: no engine makes 20,000 tokens a second for one user
BURST_SHARE, BURST_CHUNKS = 0.25, 4  # of an answer's chunks that came in one burst, and how many those must be
STALL_TIMES = 3.0  # a gap of all streams that is so many times as long as the usual long one
STALL_NS, STALL_SHARE = 200_000_000, 0.01  # shortest stall, and share of the window that stalls must take together
ENOUGH_GAPS = 50
DRIFT_SHARE, DRIFT_P, ENOUGH_GROUPS = 0.05, 0.001, 6
QUEUE_SHARE, QUEUE_ROOM = 0.8, 0.9  # of the time at the ceiling, and how far below the users it must lie
BRIEF_SHARE = 1e-4  # of the time: a number of streams that was held for less is a moment between an end and a start


def of_run(r: Requests, concurrency: int, *, keeps_concurrency: bool, client_lag_p99_s: float | None = None) -> list[Reason]:
    """All of them. `keeps_concurrency`: a closed loop without pauses, of which queues and drift can be told."""
    found = [*_shared(r), *_buffered(r, client_lag_p99_s), *_stalls(r)]
    return found + ([*_drift(r, concurrency), *_queue(r, concurrency)] if keeps_concurrency else [])


def _shared(r: Requests) -> list[Reason]:
    s = r.streaming
    n = np.diff(r.chunk_offsets)
    many = (n >= BURST_CHUNKS) & r.is_whole
    half = many & (s.n_shared > n / 2)
    if s.shared_share <= SHARED_SHARE and half.sum() <= STRAY_SHARE * many.sum():
        return []
    names = [*(["TPOT", "interactivity"] if s.is_tpot_withheld else []), *(["ITL"] if s.is_itl_withheld else [])]
    withheld = f"left out: {', '.join(names)}" if names else "ITL is affected"
    many_half = f", in {int(half.sum())} answers more than half" if half.any() else ""
    text = f"{s.shared_share:.0%} of the chunks arrived in one read with another of their answer{many_half}"
    return [Reason("shared_reads", f"{text}: the client lacked CPU time, or chunks were sent together; {withheld}")]


def _buffered(r: Requests, client_lag_p99_s: float | None) -> list[Reason]:
    n = np.diff(r.chunk_offsets)
    many = (n >= BURST_CHUNKS) & r.is_whole
    if not many.any() or (client_lag_p99_s or 0.0) > 0.05:  # a client that was held up reads late by itself
        return []
    owner = np.repeat(np.arange(len(n)), n)
    is_near = np.zeros(len(owner), dtype=bool)
    is_near[1:] = (np.diff(r.chunk_ns) < BURST_NS) & (owner[1:] == owner[:-1])
    burst = np.cumsum(~is_near) - 1  # number of the burst that each chunk is in
    sizes = np.bincount(burst)
    largest = np.zeros(len(n), dtype=np.int64)
    np.maximum.at(largest, owner, sizes[burst])
    buffered = many & (largest >= np.maximum(BURST_CHUNKS, BURST_SHARE * n))
    if buffered.sum() <= STRAY_SHARE * many.sum():
        return []
    share = float(np.median(largest[buffered] / n[buffered]))
    text = f"in {int(buffered.sum())} of {int(many.sum())} answers {share:.0%} of the chunks came at once"
    return [Reason("buffered_answers", f"{text}: the server or a proxy holds them back, so TTFT and ITL are not the engine's")]


def _stalls(r: Requests) -> list[Reason]:
    """Gaps in which no stream had a chunk although at least one was between its first and last token.

    The usual long gap is that of a prefill, which comes once a request: a stall is rarer than a tenth of the requests, and far longer.
    """
    started = np.sort(r.first_token_ns[r.first_token_ns >= 0])
    at = np.sort(r.chunk_ns)
    if len(at) < ENOUGH_GAPS:
        return []
    ended = np.sort(r.last_token_ns[r.last_token_ns >= 0])
    streams = np.searchsorted(started, at[:-1], side="right") - np.searchsorted(ended, at[:-1], side="right")
    gaps = np.diff(at)[streams > 0]
    if len(gaps) < ENOUGH_GAPS:
        return []
    rank = min(max(5, len(r.error) // 10), len(gaps) - 1)
    usual = int(np.partition(gaps, len(gaps) - 1 - rank)[len(gaps) - 1 - rank])
    long = gaps[gaps > max(STALL_TIMES * usual, STALL_NS)]
    lost, window = float((long - usual).sum()) / 1e9, float(at[-1] - at[0]) / 1e9
    if not len(long) or lost <= STALL_SHARE * window:
        return []
    times = "once" if len(long) == 1 else f"{len(long)} times"
    text = f"all streams were silent {times}, {lost:.3g} s of {window:.3g} s in all"
    return [Reason("stalled", f"{text}; the longest gap is {long.max() / 1e9:.3g} s, a usual long one {usual / 1e9:.3g} s")]


def _drift(r: Requests, concurrency: int) -> list[Reason]:
    """Whether TPOT differs between the thirds of the run by more than it varies within them.

    The mean TPOT of each wave (C requests in the order in which they ended) is one sample; the first wave, which is a herd, and the last,
    which drains, are left out. One-way analysis of variance: with two degrees of freedom above, its p has a closed form.
    """
    if r.streaming.is_tpot_withheld:
        return []
    judged = r.is_whole & (r.output_tokens > 1)
    order = np.argsort(r.end_ns[judged], kind="stable")
    tpot = ((r.last_token_ns - r.first_token_ns)[judged] / (r.output_tokens[judged] - 1))[order]
    inner = tpot[concurrency : len(tpot) - concurrency]
    n_waves = len(inner) // max(1, concurrency)
    if n_waves < ENOUGH_GROUPS:
        return []
    waves = inner[: n_waves * concurrency].reshape(n_waves, concurrency).mean(axis=1)
    thirds = np.array_split(waves, 3)
    means = np.array([t.mean() for t in thirds])
    within = sum(float(((t - t.mean()) ** 2).sum()) for t in thirds)
    between = sum(len(t) * (float(t.mean()) - float(waves.mean())) ** 2 for t in thirds)
    dof = n_waves - 3
    f = (between / 2) / (within / dof) if within > 0 else np.inf
    p = (1 + 2 * f / dof) ** (-dof / 2)
    if p >= DRIFT_P or means.max() - means.min() <= DRIFT_SHARE * means.min():
        return []
    rates = ", ".join(f"{1e9 / m:.3g}" for m in means)
    return [Reason("drift", f"{rates} tok/s/user in the thirds of the run, on the client's clock (p = {p:.1g})")]


def _queue(r: Requests, concurrency: int) -> list[Reason]:
    """Whether the streams meet a ceiling: most of the time their number is at its maximum, and that is below the users."""
    if r.streaming.is_tpot_withheld:
        return []  # answers that come at once stream for no time
    whole = r.is_whole & (r.first_token_ns >= 0)
    first, last = r.first_token_ns[whole], r.last_token_ns[whole]
    if len(first) < 2 * concurrency:
        return []
    at = np.concatenate([last, first])
    order = np.argsort(at, kind="stable")  # one that ends at the same time makes room
    streams = np.cumsum(np.concatenate([np.full(len(last), -1), np.ones(len(first), dtype=np.int64)])[order])
    begin, end = int(first.min()), _last_send(r)
    times = np.clip(at[order], begin, end)
    seconds = np.append(np.diff(times), 0).astype(np.float64)
    held = streams[seconds > BRIEF_SHARE * max(1, end - begin)]
    if not len(held) or (ceiling := int(held.max())) > QUEUE_ROOM * concurrency:
        return []
    if float(seconds[streams >= ceiling - round(0.02 * ceiling)].sum()) < QUEUE_SHARE * (end - begin):
        return []
    return [Reason("server_queue", f"never more than {ceiling} requests streamed at once, {concurrency} were in flight: the others waited")]


def _last_send(r: Requests) -> int:
    sent: Ints = r.sent_ns[r.sent_ns >= 0]
    return int(sent.max()) if len(sent) else -1
