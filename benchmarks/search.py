"""How many points and node-hours a search needs, and how often its claim holds, on simulated campaigns with a known truth.

    python benchmarks/search.py                          Every truth at 1 % and 3 % noise, 200 campaigns each (an hour on two cores).
    python benchmarks/search.py --campaigns 20           The same with fewer campaigns.
    python benchmarks/search.py --truth published --tolerance 0.05 --noise 0.01 --budget 4

The arms are those of experiment=h200_vs_b200 with several concurrencies. A truth is the step model's curve, changed: through every
published point; with random factors and knees; with an admission limit of 48; with a throughput that falls above the knee; with slow nodes.
`noise` is the standard deviation from run to run on different starts; half of its variance belongs to the start. No time passes and nothing
is measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from tabulate import tabulate

from glm5bench import recipe
from glm5bench.analysis.interpolation import interpolated
from glm5bench.archive.collection import collect
from glm5bench.search.curves import RESIDUAL_SD, Floats, Seen, noise_covariance
from glm5bench.search.decision import ArmState, band, claimed, decide, printed
from glm5bench.search.planning import highest
from glm5bench.search.prior import candidates, planned, prior_of
from glm5bench.settings.overrides import compose
from glm5bench.values.search import Prior, Question

ARMS = {
    "h200": ("hardware=h200", "checkpoint=glm5_fp8", "tp=8"),
    "b200": ("hardware=b200", "checkpoint=glm5_fp8", "tp=8"),
    "b200-nvfp4": ("hardware=b200", "checkpoint=glm5_nvfp4", "tp=4"),
}
GRID = {"h200": (4, 8, 16, 32, 64), "b200": (4, 8, 16, 32, 64, 128, 256), "b200-nvfp4": (4, 8, 16, 32, 64, 128, 256)}
TRUTHS = ("published", "random", "cap 48", "falling", "slow nodes")
LOW, HIGH = 25.0, 84.0
START_S = 900.0
SLOW_SHARE, SLOW = 0.05, -0.08  # of the starts, and their effect on both figures
FALL = 0.3  # power of the concurrency above the knee with which throughput falls


@cache
def priors() -> dict[str, Prior]:
    """The prediction of each arm."""
    found = {}
    for name, overrides in ARMS.items():
        arm = compose(*overrides, "speculative=mtp", "workload=8k1k").arm
        found[name] = replace(prior_of(arm, recipe.bound(arm, 512, [512]), candidates(1, 512)), start_s=START_S)
    return found


@cache
def published(name: str) -> tuple[Floats, Floats, Floats]:
    """Concurrency, log throughput and log interactivity of the published points of an arm."""
    hardware, precision = name.split("-", maxsplit=1)[0], "nvfp4" if "nvfp4" in name else "fp8"
    tp = 4 if precision == "nvfp4" else 8
    rows = [
        r
        for r in collect(["published"]).rows.values()
        if (r.series.hardware, r.series.precision, r.series.speculative, r.tp) == (hardware, precision, "mtp", tp)
        and (r.series.isl_tokens, r.series.osl_tokens) == (8192, 1024)
        and r.series.model == "GLM-5"
    ]
    rows.sort(key=lambda r: r.concurrency)
    c = np.array([r.concurrency for r in rows], dtype=float)
    figures = np.log([[r.total_tput_per_gpu_tok_s for r in rows], [r.interactivity_tok_s_user for r in rows]])
    return c, figures[0], figures[1]


@dataclass(frozen=True)
class Truth:
    """One arm's true curve."""

    prior: Prior
    factors: tuple[float, float, float]
    knee: float
    residual: Callable[[Floats], Floats]  # concurrency (M,) -> (2, M)
    falls: bool = False

    def at(self, concurrency: Floats) -> Floats:
        """Log throughput and log interactivity, shape (2, M)."""
        inside = np.log(np.minimum(concurrency, self.knee))
        known = np.log(self.prior.concurrency)
        found = []
        for plain, slopes in ((self.prior.log_tput, self.prior.d_tput), (self.prior.log_x, self.prior.d_x)):
            value = np.interp(inside, known, plain)
            found.append(value + sum(f * np.interp(inside, known, s) for f, s in zip(self.factors, slopes, strict=True)))
        figures = np.array(found) + self.residual(np.minimum(concurrency, self.knee))
        if self.falls:
            over = np.log(np.maximum(1.0, concurrency / self.knee))
            figures -= np.array([[FALL], [FALL / 3]]) * over
        return figures


def truth(kind: str, name: str, rng: np.random.Generator) -> Truth:
    """The true curve of an arm in one campaign."""
    prior = priors()[name]
    if kind in ("published", "slow nodes"):
        c, tput, x = published(name)
        knee = min(prior.knee, float(c[-1]))
        plain = Truth(prior, (0.0, 0.0, 0.0), knee, lambda at: np.zeros((2, len(at))))
        rest = np.stack([tput, x]) - plain.at(c)
        held = np.log(c)

        def through(at: Floats) -> Floats:
            inside = np.clip(np.log(at), held[0], held[-1])
            return np.stack([interpolated(held, one, inside) for one in rest])

        return replace(plain, residual=through)
    factors = tuple(rng.normal(0, 0.2, 3).tolist())
    knee = 48.0 if kind == "cap 48" else prior.knee * math.exp(rng.normal(0, 0.3))
    nodes = rng.normal(0, RESIDUAL_SD, 6)
    own = rng.normal(0, 0.01, (2, 6))
    places = np.linspace(0, math.log2(prior.concurrency[-1]), 6)

    def smooth(at: Floats) -> Floats:
        return np.stack([interpolated(places, nodes + one, np.clip(np.log2(at), 0, places[-1])) for one in own])

    return Truth(prior, (factors[0], factors[1], factors[2]), knee, smooth, kind == "falling")


def frontier(curve: Truth, log_x: Floats) -> Floats:
    """The true log throughput at these interactivities."""
    c = np.geomspace(1, 512, 2000)
    tput, x = curve.at(c)
    return np.interp(-log_x, -np.minimum.accumulate(x), np.maximum.accumulate(tput))


class Nodes:
    """Measures points with noise, and counts their time."""

    def __init__(self, truths: dict[str, Truth], noise: float, kind: str, rng: np.random.Generator) -> None:
        self.truths, self.rng = truths, rng
        self.has_slow = kind == "slow nodes"
        self.starts: dict[str, Floats] = {}
        self.spent_s = 0.0
        run = noise_covariance(noise, is_new_start=False)
        self.of_run = np.linalg.cholesky(run)
        self.of_start = np.linalg.cholesky(noise_covariance(noise, is_new_start=True) - run)

    def start(self, arm: str) -> str:
        name = f"{arm} {len(self.starts)}"
        slow = SLOW if self.has_slow and self.rng.random() < SLOW_SHARE else 0.0
        self.starts[name] = self.of_start @ self.rng.standard_normal(2) + slow
        self.spent_s += START_S
        return name

    def measure(self, arm: str, concurrency: int, start: str) -> Seen:
        prior = priors()[arm]
        figures = self.truths[arm].at(np.array([float(concurrency)]))[:, 0] + self.starts[start] + self.of_run @ self.rng.standard_normal(2)
        tput, x = np.exp(figures)
        self.spent_s += float(np.interp(concurrency, prior.concurrency, prior.tokens_per_gpu)) / tput
        return Seen(concurrency, float(tput), float(x), start)


@dataclass(frozen=True)
class Ended:
    """The result of one campaign."""

    points: int
    node_h: float
    claim: float
    error: float
    is_reached: bool
    decision_s: float


def error(question: Question, arms: Sequence[ArmState], truths: dict[str, Truth]) -> float:
    """The largest deviation of the printed ratios from the true ones over the band, as a share."""
    log_x = band(question)
    shown, true = printed(question, arms, log_x), {name: frontier(t, log_x) for name, t in truths.items()}
    first = arms[0].series
    worst = [np.nanmax(np.abs((shown[s] - shown[first]) - (true[s] - true[first]))) for s in shown if s != first]
    return float(np.expm1(max(worst)))


def _arm(name: str) -> ArmState:
    prior = priors()[name]
    chosen = planned(prior, LOW, HIGH)
    return ArmState(name, name, prior, chosen, highest(prior, chosen))


def searched(kind: str, noise: float, spread: float, tolerance: float, budget_h: float | None, confidence: float, seed: int) -> Ended:
    """One campaign. Arms alternate."""
    rng = np.random.default_rng(seed)
    truths = {name: truth(kind, name, rng) for name in ARMS}
    nodes = Nodes(truths, noise, kind, rng)
    question = Question(LOW, HIGH, tolerance, confidence, spread, 24, budget_h)
    arms = [_arm(name) for name in ARMS]
    codes, longest = [], 0.0
    while not all(arm.has_ended for arm in arms):
        for i, arm in enumerate(arms):
            if arm.has_ended:
                continue
            began = time.process_time()
            choice = decide(question, arms, arm.id)
            longest = max(longest, time.process_time() - began)
            if choice.action == "stop":
                codes.append(choice.code)
                arms[i] = replace(arm, has_ended=True)
                continue
            start = nodes.start(arm.id) if choice.is_new_start else arm.running
            arms[i] = replace(arm, running=start, seen=(*arm.seen, nodes.measure(arm.id, choice.concurrency, start)))
    claim = claimed(question, arms)
    points = sum(len(arm.seen) for arm in arms)
    is_reached = claim.value <= tolerance
    return Ended(points, nodes.spent_s / 3600, claim.value, error(question, arms, truths), is_reached, longest)


def gridded(kind: str, noise: float, seed: int) -> Ended:
    """The published grid, and Steffen's interpolation of the cost through its points."""
    rng = np.random.default_rng(seed)
    truths = {name: truth(kind, name, rng) for name in ARMS}
    nodes = Nodes(truths, noise, kind, rng)
    log_x = np.linspace(math.log(LOW), math.log(HIGH), 25)
    read = {}
    for name, grid in GRID.items():
        start = nodes.start(name)
        seen = sorted((nodes.measure(name, c, start) for c in grid), key=lambda s: s.interactivity_tok_s_user)
        front: list[Seen] = []
        for s in reversed(seen):
            if not front or s.tput_per_gpu_tok_s > front[-1].tput_per_gpu_tok_s:
                front.append(s)
        front.reverse()
        x = np.array([s.interactivity_tok_s_user for s in front])
        read[name] = -np.log(interpolated(x, 1 / np.array([s.tput_per_gpu_tok_s for s in front]), np.exp(log_x)))
    true = {name: frontier(t, log_x) for name, t in truths.items()}
    worst = [np.nanmax(np.abs((read[s] - read["h200"]) - (true[s] - true["h200"]))) for s in read if s != "h200"]
    return Ended(sum(map(len, GRID.values())), nodes.spent_s / 3600, math.nan, float(np.expm1(max(worst))), False, 0.0)


def _row(what: str, kind: str, noise: float, spread: float, found: Iterable[Ended], tolerance: float) -> list[object]:
    all_of = list(found)
    errors, points, hours = (np.array([getattr(e, name) for e in all_of]) for name in ("error", "points", "node_h"))
    covered = np.mean([e.error <= e.claim for e in all_of])
    reached = [e for e in all_of if e.is_reached]
    right = np.mean([e.error <= tolerance for e in reached]) if reached else math.nan
    return [
        what, kind, f"{noise:.0%}", f"{spread:.0%}", f"{points.mean():.1f}", f"{hours.mean():.2f}", f"{np.quantile(hours, 0.95):.2f}",
        f"{np.median(errors):.1%}", f"{np.quantile(errors, 0.9):.1%}", f"{np.quantile(errors, 0.95):.1%}",
        "" if what == "grid" else f"{covered:.0%}",
        "" if what == "grid" else f"{len(reached) / len(all_of):.0%}",
        "" if what == "grid" or not reached else f"{right:.0%}", f"{max(e.decision_s for e in all_of):.2f}",
    ]  # fmt: skip


HEADERS = (
    "method", "truth", "noise", "spread", "points", "node-h", "p95", "error", "p90", "p95", "in claim", "reached", "right", "decision s",
)  # fmt: skip


def main() -> None:
    """Prints one row per truth and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--truth", action="append", choices=TRUTHS)
    parser.add_argument("--noise", action="append", type=float)
    parser.add_argument("--spread", type=float, help="what the search assumes; default: the noise")
    parser.add_argument("--tolerance", type=float, default=0.08)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--budget", type=float, default=8.0, help="node-hours")
    asked = parser.parse_args()
    rows: list[list[object]] = []
    with ProcessPoolExecutor(2) as pool:
        for kind in asked.truth or TRUTHS:
            for noise in asked.noise or (0.01, 0.03):
                spread, seeds = asked.spread or noise, range(asked.campaigns)
                grids = [pool.submit(gridded, kind, noise, seed) for seed in seeds]
                searches = [
                    pool.submit(searched, kind, noise, spread, asked.tolerance, asked.budget, asked.confidence, seed) for seed in seeds
                ]
                rows.append(_row("grid", kind, noise, spread, (f.result() for f in grids), asked.tolerance))
                rows.append(_row("search", kind, noise, spread, (f.result() for f in searches), asked.tolerance))
                print(tabulate(rows[-2:], HEADERS, tablefmt="github"), flush=True)
    print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
