"""The spread within one run: standard errors of its figures by batch means.

Input: the requests of a run. Output: standard errors as shares. The requests of a run share one server, so they are not independent. Their
rates are averaged over stretches of at least half a wave, and the spread is computed over these stretches. The first and the last wave are
left out, because the load grows and drains there. How long it drains depends on which requests come last; a quarter of its effect is
counted as noise. The spread within a run does not include effects that are the same for the whole run, above all the start of the server.
Source: the method of batch means, A. M. Law, Simulation Modeling and Analysis, section 9.5. Calibrated by `benchmarks/waves.py --spread`.
"""

from __future__ import annotations

import math

import numpy as np

from .metrics import Floats, Ints, Requests, time_per_output_token_s

FEWEST_WAVES = 5
MOST = 20  # stretches
DRAIN_NOISE = 0.25


def n_batches(n_requests: int, concurrency: int) -> int:
    """The number of stretches for the spread; 0 if the run is too short."""
    n, of_an_end = _stretches(n_requests, concurrency)
    return n - 2 * of_an_end


def _stretches(n_requests: int, concurrency: int) -> tuple[int, int]:
    """The number of stretches of a run (two per wave, at most 20), and how many of them are in its first wave (and in its last)."""
    waves = n_requests // max(1, concurrency)
    n = min(MOST, 2 * waves)
    return (n, max(1, round(n / waves))) if waves >= FEWEST_WAVES else (0, 0)


def relative_standard_errors(r: Requests, time_scale: float, concurrency: int) -> tuple[float, float]:
    """Standard errors of total throughput and of interactivity, as shares of them. NaN if the run is shorter than five waves."""
    whole = r.is_whole & (r.last_token_ns > r.sent_ns)
    n, of_an_end = _stretches(int(whole.sum()), concurrency)
    if not n:
        return math.nan, math.nan
    middle = slice(of_an_end, n - of_an_end)
    order = np.argsort(r.end_ns[whole], kind="stable")
    sent, end, first, last = (at[whole][order] for at in (r.sent_ns, r.end_ns, r.first_token_ns, r.last_token_ns))
    tokens = (r.prompt_tokens + r.output_tokens)[whole][order].astype(np.float64)
    parts = (np.array_split(column, n) for column in (first - sent, last - sent, r.output_tokens[whole][order]))
    speeds = np.array([_median_speed(ttft, e2el, n_out, time_scale) for ttft, e2el, n_out in zip(*parts, strict=True)])
    rates = _rates(sent, end, tokens, n)
    drain = max(0.0, float(rates[middle].mean() / rates.mean() - 1))
    return math.hypot(_error(rates[middle]), DRAIN_NOISE * drain), _error(speeds[middle])


def _median_speed(ttft_ns: Ints, e2el_ns: Ints, n_out: Ints, time_scale: float) -> float:
    """1 / median TPOT of these requests; NaN if none has at least two tokens."""
    ttft_s, e2el_s = ((ns * (time_scale / 1e9)).astype(np.float64) for ns in (ttft_ns, e2el_ns))
    tpot = time_per_output_token_s(ttft_s, e2el_s, n_out)
    middle = float(np.median(tpot)) if len(tpot) else 0.0
    return 1.0 / middle if middle > 0 else math.nan


def _rates(sent: Ints, end: Ints, tokens: Floats, n: int) -> Floats:
    """Tokens per ns in n equal stretches of the run; the tokens of a request are spread over its time in flight."""
    edges = np.linspace(float(sent.min()), float(end.max()), n + 1)
    inside = np.clip(end[:, None], edges[:-1], edges[1:]) - np.clip(sent[:, None], edges[:-1], edges[1:])
    rates: Floats = (inside * (tokens / np.maximum(end - sent, 1))[:, None]).sum(axis=0) / np.diff(edges)
    return rates


def _error(of_batches: Floats) -> float:
    """The standard error of the mean, as a share of the mean."""
    mean = float(of_batches.mean())
    return float(of_batches.std(ddof=1) / math.sqrt(len(of_batches)) / mean) if mean > 0 else math.nan
