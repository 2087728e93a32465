"""Figures of parts of a run: the window in which all users were served at once, its best second, and its good requests. Pure numpy.

Each is reported in addition to the figures of the whole run, under its own name, and never replaces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import NOTHING, Figures, Floats, Requests, Statistics, started_ns, statistics, time_per_output_token_s, token_gaps


@dataclass(frozen=True)
class Steady:
    """Figures of the window between the first and the last wave.

    The window starts when as many requests have ended as there are users, or at the end of the ramp if that is later. It ends at the first
    send of the last wave, whose requests end while the load drains. For throughput, the tokens of each request are spread evenly over its
    time in flight. If they were counted on arrival, the result would depend on where the window cuts the rhythm of prefills. TTFT and TPOT
    are those of the requests sent in the window. Source of this choice: benchmarks/waves.py, bias compared with 60 waves.
    """

    start_s: float
    duration_s: float
    total_tput_tok_s: float
    output_tput_tok_s: float
    ttft: Statistics
    tpot: Statistics


def steady(r: Requests, concurrency: int, *, time_scale: float = 1.0, ramp_s: float = 0.0) -> Steady | None:
    """The steady window of a closed loop whose users started over `ramp_s`; None if there was none."""
    scale, ended = np.float64(time_scale / 1e9), (r.sent_ns >= 0) & (r.end_ns >= 0)
    sent = np.sort(r.sent_ns[ended])
    if len(sent) < 2 * concurrency:
        return None
    start = max(int(np.sort(r.end_ns[ended])[concurrency - 1]), int(sent[0]) + round(ramp_s / scale))
    stop = int(sent[len(sent) - concurrency])
    if stop <= start:
        return None
    duration_s = float((stop - start) * scale)
    whole = r.is_whole & ended
    inside = np.clip(r.end_ns, start, stop) - np.clip(r.sent_ns, start, stop)
    share = np.where(whole, inside / np.maximum(r.end_ns - r.sent_ns, 1), 0.0)
    output = float((share * r.output_tokens).sum())
    prompt = float((share * r.prompt_tokens).sum()) if r.has_prompt_tokens else float("nan")
    begun = whole & (r.sent_ns >= start) & (r.sent_ns < stop)
    ttft, e2el = ((at - r.sent_ns)[begun] * scale for at in (r.first_token_ns, r.last_token_ns))
    tpot = NOTHING if r.streaming.is_tpot_withheld else statistics(time_per_output_token_s(ttft, e2el, r.output_tokens[begun]))
    return Steady(
        start_s=float(start * scale),
        duration_s=duration_s,
        total_tput_tok_s=(prompt + output) / duration_s,
        output_tput_tok_s=output / duration_s,
        ttft=statistics(ttft),
        tpot=tpot,
    )


def peak_output_tput_tok_s(r: Requests, *, time_scale: float = 1.0) -> float:
    """Output tokens of the best full second, counted from the first send. NaN if the run was shorter than 1 s or tokens are unknown."""
    sent = r.sent_ns[r.sent_ns >= 0]
    if not len(sent) or not len(r.chunk_ns) or (r.chunk_tokens < 0).any():
        return float("nan")
    second = ((r.chunk_ns - sent.min()) * (time_scale / 1e9)).astype(np.int64)
    n_full = int((r.chunk_ns.max() - sent.min()) * (time_scale / 1e9))
    if n_full < 1:
        return float("nan")
    return float(np.bincount(second, weights=r.chunk_tokens.astype(np.float64))[:n_full].max())


def peak_concurrency(r: Requests) -> int:
    """The largest number of requests that were in flight at one instant."""
    was_sent = (r.sent_ns >= 0) & (r.end_ns >= 0)
    at = np.concatenate([r.end_ns[was_sent], r.sent_ns[was_sent]])
    change = np.concatenate([-np.ones(was_sent.sum(), dtype=np.int64), np.ones(was_sent.sum(), dtype=np.int64)])
    order = np.lexsort((change, at))  # a request that ends when another is sent is counted first
    return int(np.cumsum(change[order]).max()) if len(order) else 0


def n_good(r: Requests, limits_s: Mapping[str, float], *, time_scale: float = 1.0, from_due: bool = False) -> int:
    """The number of complete requests that keep every limit: ttft, tpot and e2el of the request, itl of its longest gap between tokens."""
    scale, whole = time_scale / 1e9, r.is_whole
    start = started_ns(r, from_due=from_due)
    n_gaps = np.maximum(r.output_tokens - 1, 1)
    values: dict[str, NDArray[np.floating[Any]]] = {
        "ttft": (r.first_token_ns - start) * scale,
        "e2el": (r.last_token_ns - start) * scale,
        "tpot": np.where(r.output_tokens > 1, (r.last_token_ns - r.first_token_ns) * scale / n_gaps, 0.0),
    }
    if "itl" in limits_s:
        values["itl"] = _longest_gaps_s(r, whole, scale)
    good = whole.copy()
    for name, limit_s in limits_s.items():
        good &= values[name] <= limit_s
    return int(good.sum())


def _longest_gaps_s(r: Requests, whole: NDArray[np.bool_], scale: float) -> Floats:
    longest = np.zeros(len(r.sent_ns))
    gaps_s, _, owner = token_gaps(r, whole, np.float64(scale))
    np.maximum.at(longest, owner, gaps_s)
    return longest


def goodput_rps(r: Requests, f: Figures, limits_s: Mapping[str, float], *, time_scale: float = 1.0, from_due: bool = False) -> float:
    """Good requests per second over the whole run; NaN if no limit was given."""
    return n_good(r, limits_s, time_scale=time_scale, from_due=from_due) / f.duration_s if limits_s else float("nan")
