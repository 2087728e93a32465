"""How many probes a search for limits of latency needs, and how often its interval holds, on simulated arms with a known truth.

    python benchmarks/search_limits.py --campaigns 200      At 1 % and 3 % noise, beside doubling and bisection (a minute).

The limits are tpot_p99<=50ms and ttft_p99<=4s, the arms those of search.py. A true latency is the prediction times a random factor (15 %)
and a smooth residual; TTFT is also shifted in concurrency (10 %). `noise` is the standard deviation from run to run on different starts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from search import ARMS
from tabulate import tabulate

from glm5bench import recipe
from glm5bench.analysis.interpolation import interpolated
from glm5bench.search.curves import RESIDUAL_SD, START_SHARE, Floats, Seen
from glm5bench.search.prior import candidates, prior_of
from glm5bench.search.question import limits_of
from glm5bench.search.slo import next_probe
from glm5bench.settings.overrides import compose
from glm5bench.values.search import Prior, Question


@dataclass(frozen=True)
class Latencies:
    """The true latencies of one arm: the prediction times a factor and a smooth residual, at a concurrency that is shifted."""

    prior: Prior
    factor: float
    shift: float
    nodes: tuple[float, ...]

    def log_s(self, figure: str, concurrency: Floats) -> Floats:
        """The logarithm of a latency at these concurrencies."""
        c = np.log(concurrency)
        places = np.linspace(0, math.log(self.prior.concurrency[-1]), len(self.nodes))
        residual = interpolated(places, np.array(self.nodes), np.clip(c, 0.0, places[-1]))
        shifted = c + (self.shift if figure.startswith("ttft") else 0.0)
        return np.asarray(np.interp(shifted, np.log(self.prior.concurrency), self.prior.latency[figure]) + self.factor + residual)


LIMITS = "tpot_p99<=50ms,ttft_p99<=4s"


@cache
def priors() -> dict[str, Prior]:
    """The predictions of each arm with its latencies."""
    figures = [limit.figure for limit in limits_of(LIMITS)]
    found = {}
    for name, overrides in ARMS.items():
        arm = compose(*overrides, "speculative=mtp", "workload=8k1k").arm
        found[name] = prior_of(arm, recipe.bound(arm, 256, [256]), candidates(1, 256), figures)
    return found


@dataclass(frozen=True)
class Found:
    """The result of one search for limits."""

    probes: int
    is_reached: bool
    is_inside: bool  # the true crossing is in the interval
    error: float  # of the estimate, as a share
    bisection: int  # probes that doubling and bisection to 5 % need without noise


def limited(noise: float, spread: float, seed: int) -> list[Found]:
    """One search for limits on each arm."""
    rng = np.random.default_rng(seed)
    question = Question(0.0, 0.0, 0.0, 0.95, spread, 12, None, "set", limits_of(LIMITS))
    return [_limited(question, prior, noise, rng) for prior in priors().values()]


def _limited(question: Question, prior: Prior, noise: float, rng: np.random.Generator) -> Found:
    nodes = tuple(rng.normal(0, RESIDUAL_SD, 6).tolist())
    true = Latencies(prior, float(rng.normal(0, 0.15)), float(rng.normal(0, 0.1)), nodes)

    def margins(at: Floats) -> Floats:
        return np.asarray(np.max([true.log_s(limit.figure, at) - math.log(limit.seconds) for limit in question.limits], axis=0))

    def margin(c: float) -> float:
        return float(margins(np.array([c]))[0])

    fine = np.geomspace(1, prior.concurrency[-1], 4000)
    over = fine[margins(fine) > 0]
    crossing = float(over[0]) if len(over) else math.inf
    seen: list[Seen] = []
    running, effects = "", dict[str, float]()
    while True:
        step = next_probe(question, prior, seen, running)
        if not step.concurrency:
            break
        if step.is_new_start:
            running = str(len(effects))
            effects[running] = noise * math.sqrt(START_SHARE) * float(rng.standard_normal())
        own = {
            limit.figure: math.exp(
                float(true.log_s(limit.figure, np.array([float(step.concurrency)]))[0])
                + effects[running]
                + noise * math.sqrt(1 - START_SHARE) * float(rng.standard_normal())
            )
            for limit in question.limits
        }
        seen.append(Seen(step.concurrency, 1.0, 1.0, running, own))
    found = step.crossing
    inside = found.low <= crossing <= found.high
    error = abs(math.log(found.estimate / crossing)) if 0 < found.estimate < math.inf and crossing < math.inf else math.nan
    return Found(len(seen), step.code == "reached", inside, error, _bisected(margin, prior.concurrency[-1]))


def _bisected(margin: Callable[[float], float], highest: int) -> int:
    """The number of probes that doubling from 1 and bisecting to 5 % need."""
    low, high, n = 0, 1, 1
    while high < highest and margin(float(high)) <= 0:
        low, high, n = high, min(2 * high, highest), n + 1
    while low and high > low + 1 and high / low > 1.05:
        middle = round(math.sqrt(low * high))
        middle = min(max(middle, low + 1), high - 1)
        n += 1
        low, high = (middle, high) if margin(float(middle)) <= 0 else (low, middle)
    return n


def _limits_row(noise: float, spread: float, found: Sequence[Found]) -> list[object]:
    reached = [f for f in found if f.is_reached]
    errors = [f.error for f in reached if math.isfinite(f.error)]
    return [
        f"{noise:.0%}", f"{spread:.0%}", len(found), f"{np.mean([f.probes for f in found]):.1f}",
        f"{np.quantile([f.probes for f in found], 0.95):.0f}", f"{np.mean([f.bisection for f in found]):.1f}",
        f"{len(reached) / len(found):.0%}", f"{np.mean([f.is_inside for f in reached]):.0%}",
        f"{np.median(errors):.1%}", f"{np.quantile(errors, 0.95):.1%}",
    ]  # fmt: skip


def main() -> None:
    """Prints one row per noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--noise", action="append", type=float)
    parser.add_argument("--spread", type=float, help="what the search assumes; default: the noise")
    asked = parser.parse_args()
    heads = ("noise", "spread", "searches", "probes", "p95", "bisection", "reached", "in interval", "error", "p95")
    rows = []
    for noise in asked.noise or (0.01, 0.03):
        spread = asked.spread or noise
        rows.append(_limits_row(noise, spread, [f for seed in range(asked.campaigns) for f in limited(noise, spread, seed)]))
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
