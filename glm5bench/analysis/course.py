"""Events during a run, found from its raw times alone: shared reads, buffered answers, stalls, drift, queues.

Pure numpy. Times are ns of the client's clock. A simulated server's clock runs faster, but ratios do not change. Each finding is a reason
with its seconds or rates. A server that is slow but steady has no findings.
"""

from __future__ import annotations

import numpy as np

from .metrics import SHARED_SHARE, STRAY_SHARE, Ints, Requests
from .reasons import Reason

BURST_NS = 50_000  # between chunks: no engine produces 20,000 tokens a second for one user
BURST_STEPS = 0.12  # the same in steps (75th percentile of the gaps): a proxy writes buffered chunks faster than any engine
BURST_SHARE, BURST_CHUNKS = 0.25, 4  # share of an answer's chunks that came in one burst, and their least number
STALL_TIMES = 3.0  # a gap of all streams must be this many times longer than its prefills explain
TOGETHER_NS = 5_000_000  # first tokens closer together than this belong to one batch
STALL_NS, STALL_SHARE = 200_000_000, 0.01  # shortest stall, and least share of the window for all stalls together
ENOUGH_GAPS = 50
DRIFT_SHARE, ENOUGH_GROUPS, MOST_GROUPS = 0.05, 6, 40
DRIFT_LIMITS = ((14, 6.5), (10, 8.0), (8, 9.0), (0, 12.0))  # waves, and how many times the noise a change must be; few: noise uncertain
WITHOUT_LARGEST, LEAST_NOISE = 1.5, 0.008  # correction for leaving out the two largest differences, and the least noise of a wave
QUEUE_SHARE, QUEUE_ROOM = 0.8, 0.9  # share of the time at the ceiling, and the ceiling's largest share of the users
QUEUE_TOKENS = 16  # least length of the median answer: shorter answers stream for too short a time
BRIEF_SHARE = 1e-4  # share of the time: a number of streams that lasted less is a moment between an end and a start


def of_run(r: Requests, concurrency: int, *, keeps_concurrency: bool, client_lag_p99_s: float | None = None) -> list[Reason]:
    """All findings. `keeps_concurrency`: a closed loop without pauses, in which queues and drift can be recognised."""
    stalls = _stalls(r)
    found = [*_shared(r), *_buffered(r, client_lag_p99_s), *stalls]
    if not keeps_concurrency:
        return found
    return [*found, *([] if stalls else _drift(r, concurrency)), *_queue(r, concurrency)]  # a stall alone makes a stretch slow


def _shared(r: Requests) -> list[Reason]:
    s = r.streaming
    n = np.diff(r.chunk_offsets)
    many = (n >= BURST_CHUNKS) & r.is_whole
    half = many & (s.n_shared > n / 2)
    if s.shared_share <= SHARED_SHARE and half.sum() <= STRAY_SHARE * many.sum():
        return []
    names = [*(["TPOT", "interactivity"] if s.is_tpot_withheld else []), *(["ITL"] if s.is_itl_withheld else [])]
    withheld = f"left out: {', '.join(names)}" if names else "ITL is distorted"
    many_half = f", in {int(half.sum())} answers more than half" if half.any() else ""
    text = f"{s.shared_share:.0%} of the chunks arrived in the same read as another chunk of their answer{many_half}"
    return [Reason("shared_reads", f"{text}: the client had too little CPU time, or chunks were sent together; {withheld}")]


def _buffered(r: Requests, client_lag_p99_s: float | None) -> list[Reason]:
    n = np.diff(r.chunk_offsets)
    many = (n >= BURST_CHUNKS) & r.is_whole
    if not many.any() or (client_lag_p99_s or 0.0) > 0.05:  # a client that was delayed causes bursts itself
        return []
    owner = np.repeat(np.arange(len(n)), n)
    gaps, same = np.diff(r.chunk_ns), owner[1:] == owner[:-1]
    step_ns = float(np.percentile(gaps[same], 75)) if same.any() else 0.0
    is_near = np.zeros(len(owner), dtype=bool)
    is_near[1:] = (gaps < max(BURST_NS, BURST_STEPS * step_ns)) & same
    burst = np.cumsum(~is_near) - 1  # number of the burst that each chunk is in
    sizes = np.bincount(burst)
    largest = np.zeros(len(n), dtype=np.int64)
    np.maximum.at(largest, owner, sizes[burst])
    buffered = many & (largest >= np.maximum(BURST_CHUNKS, BURST_SHARE * n))
    if buffered.sum() <= STRAY_SHARE * many.sum():
        return []
    share = float(np.median(largest[buffered] / n[buffered]))
    text = f"in {int(buffered.sum())} of {int(many.sum())} answers, {share:.0%} of the chunks arrived at once"
    return [Reason("buffered_answers", f"{text}: the server or a proxy buffers them, so TTFT and ITL are not the engine's")]


def _stalls(r: Requests) -> list[Reason]:
    """Gaps without any chunk although requests were in flight, and far longer than the prefills in them explain.

    The explained time of a gap is its prompt tokens times the usual time per token. The prompt tokens are those of the requests whose first
    tokens end the gap, plus those of the longest prompt that still waits. The usual time per token is the larger of two values: the median
    over the gaps that end with first tokens, and the 25th percentile over single requests, for servers that stream during a prefill.
    """
    known = (r.sent_ns >= 0) & (r.first_token_ns >= 0)
    if len(r.chunk_ns) < ENOUGH_GAPS or not known.any():
        return []
    at = np.concatenate([[r.sent_ns[known].min()], np.sort(r.chunk_ns)])
    gaps = np.diff(at)
    own = np.diff(r.chunk_ns)[np.diff(np.repeat(np.arange(len(r.sent_ns)), np.diff(r.chunk_offsets))) == 0]  # within one answer
    step = float(np.median(own[own > 0])) if (own > 0).any() else 0.0
    long = np.flatnonzero(gaps > max(STALL_NS, STALL_TIMES * step))
    if not len(long):
        return []
    sent, first, tokens = r.sent_ns[known], r.first_token_ns[known], np.maximum(r.prompt_tokens, 1)[known]
    order = np.argsort(first, kind="stable")
    ordered, before = first[order], np.concatenate([[0], np.cumsum(tokens[order])])

    def prefilled(begin_ns: Ints, end_ns: Ints) -> Ints:
        """Prompt tokens of the requests whose first tokens came after `begin_ns`, up to soon after `end_ns`."""
        last: Ints = np.searchsorted(ordered, end_ns + TOGETHER_NS, side="right")
        return before[last] - before[np.searchsorted(ordered, begin_ns, side="right")]  # type: ignore[no-any-return]

    ends = np.unique(np.searchsorted(at, first))  # the gaps that end with first tokens
    ends = ends[(ends > 0) & (ends < len(at))]
    rates = (at[ends] - at[ends - 1]) / np.maximum(prefilled(at[ends - 1], at[ends]), 1)
    per_token = max(float(np.median(rates)) if len(rates) else 0.0, float(np.percentile((first - sent) / tokens, 25)))
    sends, all_ends = np.sort(r.sent_ns[r.sent_ns >= 0]), np.sort(r.end_ns[r.end_ns >= 0])
    lost, longest, n_long = 0.0, 0.0, 0
    for i in long.tolist():
        n_sent = int(np.searchsorted(sends, at[i], side="right"))
        is_idle = n_sent <= int(np.searchsorted(all_ends, at[i], side="right"))
        begin = int(sends[n_sent]) if is_idle and n_sent < len(sends) else int(at[i])  # nothing was in flight until then
        gap = float(at[i + 1] - begin)
        waiting = (sent < at[i + 1]) & (first > at[i + 1] + TOGETHER_NS)
        explained = per_token * (float(prefilled(at[i : i + 1], at[i + 1 : i + 2])[0]) + float(tokens[waiting].max(initial=0))) + step
        if gap > max(STALL_NS, STALL_TIMES * explained):
            lost, longest, n_long = lost + gap - explained, max(longest, gap), n_long + 1
    window = float(at[-1] - at[0])
    if not n_long or lost <= STALL_SHARE * window:
        return []
    times = "once" if n_long == 1 else f"{n_long} times"
    text = f"all streams were silent {times}, {lost / 1e9:.3g} s of {window / 1e9:.3g} s more than prefills explain"
    return [Reason("stalled", f"{text}; the longest gap is {longest / 1e9:.3g} s")]


def _drift(r: Requests, concurrency: int) -> list[Reason]:
    """Whether TPOT differs between one stretch of the run and the rest by more than it varies from wave to wave.

    The mean TPOT of each wave (C requests in the order in which they ended) is one sample. The first wave, whose requests start together,
    and the last wave, which drains, are left out. The noise is computed from the differences between neighbouring waves. Their median is
    subtracted to remove a trend, and the two largest are left out to remove a change. The limits keep false alarms below 0.5 % for waves
    that vary by 4 %.
    """
    if r.streaming.is_tpot_withheld:
        return []
    judged = r.is_whole & (r.output_tokens > 1)
    order = np.argsort(r.end_ns[judged], kind="stable")
    tpot = ((r.last_token_ns - r.first_token_ns)[judged] / (r.output_tokens[judged] - 1))[order]
    inner = tpot[concurrency : len(tpot) - concurrency]
    n = len(inner) // max(1, concurrency)
    if n < ENOUGH_GROUPS:
        return []
    n = min(n, MOST_GROUPS)
    waves = np.array([part.mean() for part in np.array_split(inner, n)])
    steps = np.diff(waves)
    differences = np.sort((steps - np.median(steps)) ** 2)[:-2]
    noise = max(float(np.sqrt(differences.mean() / 2)) * WITHOUT_LARGEST, LEAST_NOISE * float(waves.mean()))
    total, cumulative = waves.sum(), np.concatenate([[0.0], np.cumsum(waves)])
    worst, change = 0.0, 0.0
    for i in range(n):
        for j in range(i + 2, n + 1):
            k = j - i
            if n - k < 2:
                continue
            inside, outside = (cumulative[j] - cumulative[i]) / k, (total - cumulative[j] + cumulative[i]) / (n - k)
            if (z := abs(inside - outside) / (noise * np.sqrt(1 / k + 1 / (n - k)))) > worst:
                worst, change = z, abs(inside - outside) / min(inside, outside)
    if worst < next(limit for least, limit in DRIFT_LIMITS if n >= least) or change <= DRIFT_SHARE:
        return []
    rates = ", ".join(f"{1e9 / third.mean():.3g}" for third in np.array_split(waves, 3))
    text = f"{rates} tok/s/user in the thirds of the run, on the client's clock"
    return [Reason("drift", f"{text}; a stretch of it differs from the rest by {change:.0%}, {worst:.1f} times its noise")]


def _queue(r: Requests, concurrency: int) -> list[Reason]:
    """Whether the number of streams has a ceiling: for most of the time it is at its maximum, and that is below the number of users."""
    if r.streaming.is_tpot_withheld:
        return []  # answers that arrive at once do not stream
    whole = r.is_whole & (r.first_token_ns >= 0)
    first, last = r.first_token_ns[whole], r.last_token_ns[whole]
    if len(first) < 2 * concurrency or np.median(r.output_tokens[whole]) < QUEUE_TOKENS:
        return []  # with few tokens, prefills limit the number of streams
    at = np.concatenate([last, first])
    order = np.argsort(at, kind="stable")  # a stream that ends at the same time is counted first
    streams = np.cumsum(np.concatenate([np.full(len(last), -1), np.ones(len(first), dtype=np.int64)])[order])
    begin, end = int(first.min()), _last_send(r)
    times = np.clip(at[order], begin, end)
    seconds = np.append(np.diff(times), 0).astype(np.float64)
    held = streams[seconds > BRIEF_SHARE * max(1, end - begin)]
    if not len(held) or not 0 < (ceiling := int(held.max())) <= QUEUE_ROOM * concurrency:
        return []
    if float(seconds[streams >= ceiling - round(0.02 * ceiling)].sum()) < QUEUE_SHARE * (end - begin):
        return []
    return [Reason("server_queue", f"never more than {ceiling} requests streamed at once, {concurrency} were in flight: the others waited")]


def _last_send(r: Requests) -> int:
    sent: Ints = r.sent_ns[r.sent_ns >= 0]
    return int(sent.max()) if len(sent) else -1
