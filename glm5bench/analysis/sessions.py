"""Figures of a point of agent sessions. Pure numpy; docs/sessions.md explains each of them.

Prompt tokens that the prefix cache had are never added to others: input is `fresh` (computed) or `cached`. If one answer did not report
its cached tokens, all figures that need them are unknown. Rates are over the window: each request counts with the share of its time in
flight that lies in the window, so a few long answers after its end do not change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import Floats, Plays, Requests
from .reasons import Reason

P90_NEEDS = 100  # fewest requests for a 90th percentile of the speed of a whole request, as these differ by orders of magnitude
COUNTERS_APART = 0.01  # allowed relative difference between the sum over answers and the server's counter
NAN = float("nan")


@dataclass(frozen=True)
class SessionFigures:
    """Rates are per second of the window, for the whole server. NaN if unknown."""

    window_s: float
    request_rate_rps: float
    session_rate_per_s: float  # sessions, where each request counts as its share of its session
    fresh_tput_tok_s: float
    cached_tput_tok_s: float
    output_tput_tok_s: float
    hit_share: float
    device_hit_share: float
    host_hit_share: float
    storage_hit_share: float
    ideal_hit_share: float
    hit_loss: float  # ideal_hit_share - hit_share
    normalised_median_tok_s: float  # 1 / median of (time of a request / its output tokens)
    normalised_p90_tok_s: float  # 1 / 90th percentile of the same
    ttft_per_fresh_token_s: float  # slope of TTFT against the fresh tokens of a prompt
    ttft_base_s: float  # TTFT of a prompt without fresh tokens, on the same line
    lateness_p99_s: float  # of the client: when a request was sent, after it was due


def session_figures(r: Requests, plays: Plays, lengths: NDArray[np.int64], duration_s: float, *, time_scale: float = 1.0) -> SessionFigures:
    """The figures. `lengths`: the number of requests of each session of the file, (S,); `duration_s`: the window, in the server's time."""
    scale, whole = time_scale / 1e9, r.is_whole
    own = _first(plays, len(r.error))
    if not whole.any():
        return SessionFigures(duration_s, *[NAN] * 16)
    share = _share_in_window(r, duration_s / time_scale * 1e9)
    prompt, output = r.prompt_tokens.astype(float), r.output_tokens.astype(float)
    cached = _known(own.cached_tokens, whole)
    hits = [
        _share(_known(values, whole), prompt, whole)
        for values in (own.cached_tokens, own.device_tokens, own.host_tokens, own.storage_tokens)
    ]
    ideal = _share(own.ideal_tokens.astype(float), prompt, whole)
    e2el = (r.last_token_ns - r.sent_ns) * scale
    normal = (e2el / np.maximum(output, 1))[whole & (output > 0)]
    p50, p90 = np.percentile(normal, [50, 90]) if len(normal) else (NAN, NAN)
    slope, base = _line(*fresh_and_ttft(r, plays, time_scale=time_scale))
    late = (r.sent_ns - own.due_ns)[r.sent_ns >= 0] * scale

    def rate(values: Floats) -> float:
        return float((values * share)[whole].sum()) / duration_s

    return SessionFigures(
        window_s=duration_s,
        request_rate_rps=rate(np.ones(len(whole))),
        session_rate_per_s=rate(1.0 / lengths[own.session]),
        fresh_tput_tok_s=rate(prompt - cached),
        cached_tput_tok_s=rate(cached),
        output_tput_tok_s=rate(output),
        hit_share=hits[0],
        device_hit_share=hits[1],
        host_hit_share=hits[2],
        storage_hit_share=hits[3],
        ideal_hit_share=ideal,
        hit_loss=ideal - hits[0],
        normalised_median_tok_s=float(1 / p50) if p50 > 0 else NAN,
        normalised_p90_tok_s=float(1 / p90) if p90 > 0 and len(normal) >= P90_NEEDS else NAN,
        ttft_per_fresh_token_s=slope,
        ttft_base_s=base,
        lateness_p99_s=float(np.percentile(late, 99)) if len(late) else NAN,
    )


def fresh_and_ttft(r: Requests, plays: Plays, *, time_scale: float = 1.0) -> tuple[Floats, Floats]:
    """Computed prompt tokens and TTFT in seconds of every whole answer. All tokens are NaN if one answer did not report its cached ones."""
    whole = r.is_whole
    fresh = r.prompt_tokens - _known(_first(plays, len(r.error)).cached_tokens, whole)
    ttft = ((r.first_token_ns - r.sent_ns) * (time_scale / 1e9)).astype(np.float64)
    return fresh[whole], ttft[whole]


def _first(plays: Plays, n: int) -> Plays:
    """The measured requests."""
    return Plays(**{name: values[:n] for name, values in vars(plays).items()})


def _known(values: NDArray[np.int64], whole: NDArray[np.bool_]) -> Floats:
    """The values, all NaN if one of a whole answer is unknown."""
    return np.full(len(values), NAN) if (values[whole] < 0).any() else np.maximum(values, 0).astype(float)


def _share(part: Floats, of: Floats, whole: NDArray[np.bool_]) -> float:
    total = of[whole].sum()
    return float(part[whole].sum() / total) if total > 0 else NAN


def _share_in_window(r: Requests, window_ns: float) -> Floats:
    """The share of each request's time in flight that lies in the window, which begins at 0, (R,)."""
    begin, end = r.sent_ns.astype(float), r.end_ns.astype(float)
    inside = np.clip(end, 0, window_ns) - np.clip(begin, 0, window_ns)
    return np.where(end > begin, inside / np.maximum(end - begin, 1), (end <= window_ns).astype(float))


def _line(x: Floats, y: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line; NaN for fewer than 10 points or equal x."""
    if len(x) < 10 or not np.isfinite(x).all() or np.ptp(x) == 0:
        return NAN, NAN
    slope, base = np.polyfit(x, y, 1)
    return float(slope), float(base)


def session_faults(r: Requests, plays: Plays, *, page_tokens: int, counted_cached: float | None) -> list[Reason]:
    """What is wrong with the cached tokens of a point, for its verdict. `counted_cached`: the growth of the server's counter, if known."""
    own, whole, found = _first(plays, len(r.error)), r.is_whole, list[Reason]()
    if not whole.any():
        return found
    cached, prompt = own.cached_tokens[whole], r.prompt_tokens[whole]
    if (cached < 0).any():
        n = int((cached < 0).sum())
        return [Reason("cache_unknown", f"{n} of {len(cached)} answers did not report their cached tokens"), *_few(len(cached))]
    if (over := cached > prompt - 1).any():
        at = int(np.argmax(over))
        found.append(
            Reason("cache_impossible", f"{int(over.sum())} answers report too many cached tokens, such as {cached[at]} of {prompt[at]}")
        )
    ideal = own.ideal_tokens[whole]
    if (above := cached > ideal + page_tokens).any():
        at = int(np.argmax(above))
        text = (
            f"{int(above.sum())} answers report more cached tokens than an infinite cache has, such as {cached[at]} instead of {ideal[at]}"
        )
        found.append(Reason("cache_above_ideal", text))
    total = float(cached.sum())
    if counted_cached is not None and whole.all() and abs(counted_cached - total) > COUNTERS_APART * max(total, 1.0):
        found.append(Reason("cache_disagrees", f"{total:,.0f} cached tokens in the answers, {counted_cached:,.0f} in the server's counter"))
    return [*found, *_few(len(cached))]


def _few(n: int) -> list[Reason]:
    return [Reason("few_session_requests", f"{n} requests in the window, fewer than {P90_NEEDS}")] if n < P90_NEEDS else []


WITHHOLDING = frozenset({"cache_unknown", "cache_impossible", "cache_above_ideal", "cache_disagrees"})  # the cache figures are left out
OF_CACHE = ("fresh_tput_tok_s", "cached_tput_tok_s", "hit_share", "device_hit_share", "host_hit_share", "storage_hit_share", "hit_loss",
            "ttft_per_fresh_token_s", "ttft_base_s")  # fmt: skip
