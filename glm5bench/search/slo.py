"""The largest concurrency that keeps limits of latency: the next probe of an arm, or the end of its search.

Input: the limits, an arm's prediction and its probes so far. Output: a Choice with a Crossing. Each latency is the prediction times a
correction, which is interpolated between probes in log concurrency. Pure: no file, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..values.search import Limit, Prior, Question
from .curves import START_SHARE, Floats, Seen

AGREE = 0.025  # two estimates that differ by less agree, and a probe that is this near to the estimate confirms it
NEAR = 0.10  # probes within this distance of the estimate count for its interval
OUTSIDE = 0.01  # least distance of the second start's probe from the interval
FINE = 600  # concurrencies at which the margin is computed


@dataclass(frozen=True)
class Crossing:
    """The largest concurrency within the limits. `low`, `high`: its interval; `passes`, `fails`: measured concurrencies, 0: none.

    `estimate`: 0 if even the lowest candidate exceeds a limit, infinite if the highest one keeps all. `binding`: the limit that is reached.
    """

    estimate: float
    low: float
    high: float
    passes: int
    fails: int
    binding: str


@dataclass(frozen=True)
class Probe:
    """The next probe, or the end. `code`: planned, best, second_start; at the end reached, all_pass, none_passes or most_points."""

    concurrency: int  # 0: the search ends
    is_new_start: bool
    code: str
    why: str
    crossing: Crossing


def next_probe(question: Question, prior: Prior, seen: Sequence[Seen], running: str) -> Probe:
    """The next probe of an arm. `running`: the server start that is ready now, if any."""
    now = crossing(question, prior, seen)
    lowest, highest = prior.concurrency[0], prior.concurrency[-1]
    wanted = min(max(lowest, _whole(now.estimate)), highest)
    measured = {s.concurrency for s in seen}
    if not seen:
        return Probe(wanted, not running, "planned", "the predicted crossing", now)
    if now.estimate >= highest and highest in measured and not exceeded(question, _at(seen, highest)):
        return Probe(0, False, "all_pass", f"concurrency {highest}, the highest candidate, keeps all limits", now)
    if now.estimate <= lowest and lowest in measured and exceeded(question, _at(seen, lowest)):
        return Probe(0, False, "none_passes", f"concurrency {lowest}, the lowest candidate, exceeds {now.binding}", now)
    if len(seen) >= question.most_points:
        return Probe(0, False, "most_points", f"{len(seen)} probes, the most for one arm", now)
    before = crossing(question, prior, seen[:-1]).estimate
    nearest = min(measured, key=lambda c: abs(math.log(c / wanted)))
    has_agreed = _agree(now.estimate, before) and _agree(nearest, now.estimate)
    if has_agreed and len({s.start for s in seen}) > 1 and now.passes and now.fails:
        said = f"between {now.low:.1f} and {now.high:.1f}, limited by {now.binding}"
        return Probe(0, False, "reached", said, now)
    if has_agreed:
        other = _other_side(now, measured, lowest, highest)
        is_new = len({s.start for s in seen}) == 1 or not running
        return Probe(other, is_new, "second_start", "two estimates agree; the other side of the limit, on another server start", now)
    free = _unmeasured(question, seen, running, wanted, lowest, highest)
    if free:
        return Probe(free, not running, "best", f"the estimated crossing, {now.estimate:.1f}", now)
    return Probe(wanted, True, "second_start", f"both sides of {now.estimate:.1f} are measured on this server start", now)


def _unmeasured(question: Question, seen: Sequence[Seen], running: str, wanted: int, lowest: int, highest: int) -> int:
    """The concurrency nearest to `wanted`, towards the limit, that was not measured on the running server; 0 if there is none."""
    here, tried = {s.concurrency for s in seen if s.start == running}, set[int]()
    while wanted in here:
        tried.add(wanted)
        wanted += -1 if exceeded(question, _at(seen, wanted)) else 1
        if wanted in tried or not lowest <= wanted <= highest:
            return 0
    return wanted


def crossing(question: Question, prior: Prior, seen: Sequence[Seen]) -> Crossing:
    """The crossing with these probes."""
    at = np.unique(np.concatenate([np.geomspace(prior.concurrency[0], prior.concurrency[-1], FINE), [float(s.concurrency) for s in seen]]))
    margins = np.array([_margin(limit, prior, seen, at) for limit in question.limits])
    worst = np.maximum.accumulate(margins.max(axis=0))
    passing = [s.concurrency for s in seen if not exceeded(question, [s])]
    failing = [s.concurrency for s in seen if exceeded(question, [s])]
    passes = max((c for c in passing if c < min(failing, default=math.inf)), default=0)
    fails = min((c for c in failing if c > passes), default=0)
    over = int(np.argmax(worst > 0))
    if not (worst > 0).any() or over == 0:
        estimate = math.inf if over == 0 and worst[0] <= 0 else 0.0
        end = -1 if estimate else 0
        binding = question.limits[int(np.argmax(margins[:, end]))].text
        return Crossing(estimate, estimate, estimate, passes, fails, binding)
    binding = question.limits[int(np.argmax(margins[:, over]))].text
    estimate = _zero(at, worst)
    near = [s for s in seen if abs(math.log(s.concurrency / estimate)) <= NEAR]
    starts = max(1, len({s.start for s in near}))
    sd = question.spread * math.sqrt(START_SHARE / starts + (1 - START_SHARE) / max(1, len(near)))
    room = NormalDist().inv_cdf(0.5 + question.confidence / 2) * sd
    return Crossing(estimate, _zero(at, worst + room), _zero(at, worst - room), passes, fails, binding)


def exceeded(question: Question, seen: Sequence[Seen]) -> str:
    """The first limit that the mean of these probes exceeds; empty if it keeps all."""
    for limit in question.limits:
        mean = float(np.mean([math.log(s.latency[limit.figure]) for s in seen]))
        if mean > math.log(limit.seconds):
            return limit.text
    return ""


def _at(seen: Sequence[Seen], concurrency: int) -> list[Seen]:
    return [s for s in seen if s.concurrency == concurrency]


def _margin(limit: Limit, prior: Prior, seen: Sequence[Seen], at: Floats) -> Floats:
    """The logarithm of latency over limit at these concurrencies."""
    known, predicted = np.log(prior.concurrency), np.array(prior.latency[limit.figure])
    value = np.interp(np.log(at), known, predicted) - math.log(limit.seconds)
    if not seen:
        return np.asarray(value)
    probed = sorted({s.concurrency for s in seen})
    off = [np.mean([math.log(s.latency[limit.figure]) for s in _at(seen, c)]) - np.interp(math.log(c), known, predicted) for c in probed]
    return np.asarray(value + np.interp(np.log(at), np.log(probed), off))


def _zero(at: Floats, rising: Floats) -> float:
    """Where a rising curve crosses 0: the first or last concurrency if it does not."""
    if rising[0] > 0:
        return float(at[0])
    if rising[-1] <= 0:
        return float(at[-1])
    i = int(np.argmax(rising > 0))
    share = -rising[i - 1] / (rising[i] - rising[i - 1])
    return float(np.exp(np.log(at[i - 1]) + share * (np.log(at[i]) - np.log(at[i - 1]))))


def _whole(estimate: float) -> int:
    return int(min(estimate, 1e6) + 1e-9)


def _agree(one: float, other: float) -> bool:
    if not (0 < one < math.inf and 0 < other < math.inf):
        return one == other
    return abs(math.log(one / other)) <= AGREE or _whole(one) == _whole(other)


def _other_side(now: Crossing, measured: set[int], lowest: int, highest: int) -> int:
    """A concurrency just outside the interval, on the side where no probe is; the estimate itself if both sides have one."""
    if now.passes and not now.fails:
        return min(highest, max(math.ceil(now.high * (1 + OUTSIDE)), now.passes + 1))
    if now.fails and not now.passes:
        return max(lowest, min(math.floor(now.low * (1 - OUTSIDE)), now.fails - 1))
    return min(max(lowest, _whole(now.estimate)), highest)
