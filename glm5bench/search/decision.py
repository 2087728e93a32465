"""Which point an arm measures next, or why its search ends.

Input: the question, and for every arm its prediction and its points so far. Output: a Choice. The same input gives the same choice on any
machine, so a search that was interrupted continues with the same points. Pure: no file, no clock.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..values.search import ArmPlan, Prior, Question
from .curves import Draws, Floats, Seen, draws, noise_covariance
from .slo import Crossing, next_probe

MODEL = 1  # version of the curve model and of the rules below; raised when their choices change
BAND_POINTS = 25  # interactivities at which the frontier is read, evenly in log
REACHED = 0.98  # least share of draws that reach an interactivity that the claim covers
BETTER, CHANCE = 0.02, 0.05  # an arm is dropped if its chance to be better by this share anywhere in the band is smaller
SHARE = 0.66  # of the tolerance that one of several series may use while others are still measured


def band(question: Question) -> Floats:
    """The interactivities at which the frontier is read, as logarithms."""
    return np.linspace(math.log(question.low), math.log(question.high), BAND_POINTS)


@dataclass(frozen=True)
class ArmState:
    """One arm. `largest`: the highest concurrency that may be chosen. `seen`: in the order in which they were measured.

    `running`: the start of the server that is ready now, if any.
    """

    id: str
    series: str
    prior: Prior
    planned: tuple[int, ...]
    largest: int
    nodes: float = 1.0  # that one of its server starts takes; below 1 if several servers share a node
    seen: tuple[Seen, ...] = ()
    running: str = ""
    has_ended: bool = False
    ended_as: str = ""  # the code of its last decision, if that was to stop

    @property
    def is_dropped(self) -> bool:
        """Whether it cannot be better than the other arms of its series."""
        return self.ended_as == "dropped"

    @property
    def spent_s(self) -> float:
        """The node time for its starts and points, from the measured throughput."""
        tokens = np.interp([s.concurrency for s in self.seen], self.prior.concurrency, self.prior.tokens_per_gpu)
        points_s = sum(t / s.tput_per_gpu_tok_s for t, s in zip(tokens.tolist(), self.seen, strict=True))
        return self.nodes * (points_s + self.prior.start_s * len({s.start for s in self.seen}))


def state_of(arm: ArmPlan) -> ArmState:
    """The state of an arm before its first point."""
    return ArmState(arm.id, arm.series, arm.prior, arm.planned, arm.largest, arm.nodes)


@dataclass(frozen=True)
class Claim:
    """How far the truth may be from the printed curve: the quantile of the largest deviation over the band, as a share.

    `series`: the same for the cost of each series alone. `low`, `high`: the interactivities that it covers; NaN if none. `spread`: the
    largest one that was used for an arm; above the question's if points contradict that.
    """

    value: float
    series: dict[str, float]
    low: float
    high: float
    spread: float


@dataclass(frozen=True)
class Candidate:
    """A possible next point: what it removes from the variance of the frontier (log throughput, mean over the band), and its time."""

    concurrency: int
    is_new_start: bool
    removes: float
    cost_s: float

    @property
    def score(self) -> float:
        """Variance removed per second."""
        return self.removes / self.cost_s


@dataclass(frozen=True)
class Choice:
    """The next point of an arm, on the running server or on a new start; or the end of its search."""

    action: Literal["point", "stop"]
    concurrency: int  # 0: stop
    is_new_start: bool
    why: str
    code: str  # planned, best, second_start; at the end one of those in docs/search.md
    claim: Claim | None
    candidates: tuple[Candidate, ...] = ()
    crossing: Crossing | None = None


def decide(question: Question, arms: Sequence[ArmState], arm_id: str) -> Choice:
    """The next point of this arm. A stop with code `reached` or `arm_reached` is the only success."""
    own = next(arm for arm in arms if arm.id == arm_id)
    if question.limits:
        return _within_limits(question, arms, own)
    drawn = {arm.id: _draws(question, arm, i) for i, arm in enumerate(arms)}
    claim = claimed(question, arms, drawn)
    if _is_dropped(question, arms, own, drawn):
        better = f"at most {CHANCE:.0%} chance that it is {BETTER:.0%} better than the other arms of {own.series} anywhere in the band"
        return Choice("stop", 0, False, better, "dropped", claim)
    missing = [c for c in own.planned if c not in {s.concurrency for s in own.seen}]
    if missing:
        return Choice("point", missing[0], not own.running, f"planned ({len(missing)} left)", "planned", claim)
    if not _reaches(drawn[own.id].frontier(band(question))):
        return Choice("stop", 0, False, f"no concurrency of it gives {question.low:g} tok/s/user", "out_of_reach", claim)
    ended = _ended(question, arms, own, claim)
    if ended is not None:
        return ended
    candidates = _candidates(question, own, drawn[own.id])
    best = max(candidates, key=lambda c: (c.score, -c.concurrency))
    where = "on a new server start" if best.is_new_start else "on the running server"
    why = f"removes most variance per second, {where}"
    return Choice("point", best.concurrency, best.is_new_start, why, "best", claim, tuple(candidates))


def _within_limits(question: Question, arms: Sequence[ArmState], own: ArmState) -> Choice:
    """The next probe of a search for limits."""
    probe = next_probe(question, own.prior, own.seen, own.running)
    if probe.concurrency and own.seen and (spent := _over_budget(question, arms)):
        return Choice("stop", 0, False, spent, "budget", None, crossing=probe.crossing)
    action: Literal["point", "stop"] = "point" if probe.concurrency else "stop"
    return Choice(action, probe.concurrency, probe.is_new_start, probe.why, probe.code, None, crossing=probe.crossing)


def _over_budget(question: Question, arms: Sequence[ArmState]) -> str:
    spent_h = sum(arm.spent_s for arm in arms) / 3600
    is_over = question.budget_node_h is not None and spent_h >= question.budget_node_h
    return f"{spent_h:.2f} node-hours spent of {question.budget_node_h:g}" if is_over else ""


def claimed(question: Question, arms: Sequence[ArmState], drawn: dict[str, Draws] | None = None) -> Claim:
    """The claim with these points."""
    drawn = drawn or {arm.id: _draws(question, arm, i) for i, arm in enumerate(arms)}
    spread = max(d.spread for d in drawn.values())
    every = {s: _frontier(question, arms, s, drawn) for s in dict.fromkeys(arm.series for arm in arms)}
    baseline = next(iter(every))  # a ratio to a series that cannot reach the band is not known; other such series have no claim
    curves = {s: curve for s, curve in every.items() if _reaches(curve)} if _reaches(every[baseline]) else every
    is_read = np.all([np.isfinite(curve).mean(axis=0) >= REACHED for curve in curves.values()], axis=0)
    if not is_read.any():
        nothing = dict.fromkeys(every, math.inf)
        return Claim(math.inf, nothing, math.nan, math.nan, spread)
    each = {s: curve[:, is_read] for s, curve in curves.items()}
    first, *others = each.values()
    alone = {**dict.fromkeys(every, math.inf), **{s: _quantile(question, [curve]) for s, curve in each.items()}}
    value = _quantile(question, [other - first for other in others]) if others else alone[next(iter(each))]
    covered = np.exp(band(question)[is_read])
    return Claim(value, alone, float(covered[0]), float(covered[-1]), spread)


def expected(question: Question, arms: Sequence[ArmState]) -> Claim:
    """The claim after the planned points, if they are as predicted."""
    return claimed(question, [_as_planned(arm) for arm in arms])


def _reaches(curve: Floats) -> bool:
    """Whether the lowest interactivity of the band is reached at all. `curve`: draws of a frontier, shape (D, M)."""
    return bool(np.isfinite(curve[:, 0]).mean() > 1 - REACHED)


@dataclass(frozen=True)
class Remaining:
    """What a search is expected to need from now on. `is_reached`: whether it is expected to reach its tolerance."""

    points: int
    node_h: float
    is_reached: bool


@functools.lru_cache(maxsize=4)
def remaining(question: Question, arms: tuple[ArmState, ...]) -> Remaining:
    """The search followed to its end, with every further point as the curve model expects it now."""
    states, points, last = list(arms), 0, {arm.id: arm.ended_as for arm in arms}
    before_s = sum(arm.spent_s for arm in arms)
    while not all(arm.has_ended for arm in states):
        for i, arm in enumerate(states):
            if arm.has_ended:
                continue
            choice = decide(question, states, arm.id)
            if choice.action == "stop":
                last[arm.id], states[i] = choice.code, replace(arm, has_ended=True)
                continue
            points += 1
            start = f"expected {points}" if choice.is_new_start else arm.running
            drawn = _draws(question, arm, i)
            at = int(np.searchsorted(drawn.concurrency, choice.concurrency))
            tput, x = (float(np.exp(np.median(figure[:, at]))) for figure in (drawn.tput, drawn.x))
            states[i] = replace(arm, running=start, seen=(*arm.seen, Seen(choice.concurrency, tput, x, start)))
    is_reached = not set(last.values()) & {"most_points", "budget", "out_of_reach"}
    return Remaining(points, (sum(arm.spent_s for arm in states) - before_s) / 3600, is_reached)


def printed(question: Question, arms: Sequence[ArmState], log_x: Floats) -> dict[str, Floats]:
    """The calibrated curve of each series: log throughput per GPU at these interactivities, the median over the draws."""
    drawn = {arm.id: _draws(question, arm, i) for i, arm in enumerate(arms)}
    asked = {s: _frontier(question, arms, s, drawn, log_x) for s in dict.fromkeys(arm.series for arm in arms)}
    return {s: np.where(np.isfinite(curve).mean(axis=0) >= REACHED, _middle(curve), np.nan) for s, curve in asked.items()}


def _middle(curve: Floats) -> Floats:
    """The median over the draws that reach each interactivity."""
    filled = np.where(np.isfinite(curve).any(axis=0), curve, 0.0)
    return np.asarray(np.nanmedian(filled, axis=0))


def _draws(question: Question, arm: ArmState, number: int) -> Draws:
    return _drawn(arm.prior, arm.seen, question.spread, number)


@functools.lru_cache(maxsize=32)
def _drawn(prior: Prior, seen: tuple[Seen, ...], spread: float, seed: int) -> Draws:
    """The same points are asked about several times in one decision."""
    return draws(prior, seen, spread, seed=seed)


def _frontier(question: Question, arms: Sequence[ArmState], series: str, drawn: dict[str, Draws], log_x: Floats | None = None) -> Floats:
    """Draws of the frontier of a series: the best of its arms. Shape (D, M). Arms without a point count only if none has one."""
    members = [arm for arm in arms if arm.series == series]
    members = [arm for arm in members if arm.seen] or members
    curves = [drawn[arm.id].frontier(band(question) if log_x is None else log_x) for arm in members]
    best = np.fmax.reduce(curves)
    return np.asarray(best)


def _quantile(question: Question, deviating: Sequence[Floats]) -> float:
    """The quantile, over draws, of the largest deviation of any curve from its printed one, as a share."""
    worst = np.max([_largest(np.abs(curve - _middle(curve))) for curve in deviating], axis=0)
    if not np.isfinite(np.quantile(worst, question.confidence, method="higher")):
        return math.inf
    return float(np.expm1(np.quantile(worst, question.confidence)))


def _largest(deviation: Floats) -> Floats:
    """The largest value of each row; infinite for a draw that reaches nothing."""
    known = np.isfinite(deviation)
    return np.where(known.any(axis=1), np.where(known, deviation, 0.0).max(axis=1), math.inf)


def _is_dropped(question: Question, arms: Sequence[ArmState], own: ArmState, drawn: dict[str, Draws]) -> bool:
    peers = [arm for arm in arms if arm.series == own.series and arm.id != own.id and not arm.is_dropped]
    if not peers:
        return False
    best = np.fmax.reduce([drawn[arm.id].frontier(band(question)) for arm in peers])
    mine = drawn[own.id].frontier(band(question))
    gain = np.where(np.isfinite(best), mine - best, np.where(np.isfinite(mine), math.inf, -math.inf))
    return float((gain > math.log1p(BETTER)).any(axis=1).mean()) < CHANCE


def _ended(question: Question, arms: Sequence[ArmState], own: ArmState, claim: Claim) -> Choice | None:
    """The end of the search of an arm whose planned points are measured; None if it goes on."""
    was_chosen = len(own.seen) > len(own.planned)  # a claim that decides when to stop must hold twice; the planned design does not decide
    before = replace(own, seen=own.seen[:-1]) if was_chosen else own
    filled = [arm if arm.id == own.id else _as_planned(arm) for arm in arms]
    now, earlier = claimed(question, filled), claimed(question, [before if arm.id == own.id else arm for arm in filled])
    is_reached = now.value <= question.tolerance and earlier.value <= question.tolerance
    said = f"the claim is {claim.value:.1%}, tolerance {question.tolerance:.1%}"
    if is_reached and filled == list(arms):
        return Choice("stop", 0, False, said, "reached", claim)
    if is_reached:
        return Choice("stop", 0, False, f"the claim will be {now.value:.1%} if other arms are as predicted", "arm_reached", claim)
    alone = max(now.series[own.series], earlier.series[own.series])
    others_go_on = any(not arm.has_ended for arm in arms if arm.id != own.id)
    if others_go_on and len(claim.series) > 1 and alone <= SHARE * question.tolerance:
        return Choice("stop", 0, False, f"this series alone is known within {alone:.1%}; other arms go on", "arm_reached", claim)
    if len(own.seen) >= question.most_points:
        return Choice("stop", 0, False, f"{len(own.seen)} points, the most for one arm; {said}", "most_points", claim)
    if spent := _over_budget(question, arms):
        return Choice("stop", 0, False, f"{spent}; {said}", "budget", claim)
    return None


def _as_planned(arm: ArmState) -> ArmState:
    """The arm as if its missing planned points had been measured as predicted."""
    missing = [c for c in arm.planned if c not in {s.concurrency for s in arm.seen}]
    if not missing or arm.has_ended:
        return arm
    at = np.log(np.minimum(missing, arm.prior.knee))
    known = np.log(arm.prior.concurrency)
    tput, x = (np.exp(np.interp(at, known, figure)).tolist() for figure in (arm.prior.log_tput, arm.prior.log_x))
    predicted = tuple(Seen(c, t, i, "predicted") for c, t, i in zip(missing, tput, x, strict=True))
    return replace(arm, seen=(*arm.seen, *predicted))


def _candidates(question: Question, own: ArmState, drawn: Draws) -> list[Candidate]:
    """Every candidate up to the largest planned concurrency, on the running server and on a new start."""
    read = drawn.frontier(band(question))
    read = np.where(np.isfinite(read), read, _middle(read))
    deviation = read - read.mean(axis=0)
    n = len(deviation)
    found = []
    grid = [i for i, c in enumerate(own.prior.concurrency) if c <= own.largest]
    column = np.searchsorted(drawn.concurrency, own.prior.concurrency)
    here = {s.concurrency for s in own.seen if s.start == own.running}
    for i, is_new in itertools.product(grid, (False, True) if own.running in drawn.starts else (True,)):
        if not is_new and own.prior.concurrency[i] in here:
            continue
        figures = np.stack([drawn.tput[:, column[i]], drawn.x[:, column[i]]], axis=1)
        if not is_new:
            figures = figures + drawn.starts[own.running]
        figures = figures - figures.mean(axis=0)
        cross = deviation.T @ figures / (n - 1)
        total = figures.T @ figures / (n - 1) + noise_covariance(drawn.spread, is_new_start=is_new)
        by_chance = 2 / n * deviation.var(axis=0).mean()
        removes = float(np.einsum("mi,ij,mj->m", cross, np.linalg.inv(total), cross).mean() - by_chance)
        rate = float(np.exp(drawn.tput[:, column[i]].mean()))
        cost_s = own.nodes * (own.prior.tokens_per_gpu[i] / rate + (own.prior.start_s if is_new else 0.0))
        found.append(Candidate(own.prior.concurrency[i], is_new, max(removes, 0.0), cost_s))
    return found
