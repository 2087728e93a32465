"""How often 95 % intervals contain the truth, and how often `diff` finds a change between identical systems.

python benchmarks/coverage.py [--trials 1000] [--processes 2] [--case WORDS] [--same-only]

The campaigns are simulated. Every configuration of a known curve is measured on n server starts, whose speed differs by 2 % (standard
deviation). The noise is independent for each configuration, or common to all configurations of a start. Its distribution is normal,
exponential (a few slow starts) or lognormal (sigma 0.5). A cell is one interactivity of one case. The cases are:

- a plain frontier;
- interactivities 0.1 % inside the ends of the frontier;
- near-tied points at the end of high concurrency;
- near-tied points at the end of low concurrency;
- two arms that cross and are near-tied in the middle.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from glm5bench.analysis.comparison import compared
from glm5bench.analysis.cost import Economy
from glm5bench.analysis.difference import difference
from glm5bench.analysis.repeats import interval
from glm5bench.analysis.rows import Row, Series

SPREAD = 0.02  # between server starts
OWN = 0.007  # additional noise of the throughput
OLD = Series("measured", "h200", "sglang", "zai-org/GLM-5-FP8", "fp8", "mtp", 8192, 1024)
NEW = dataclasses.replace(OLD, hardware="b200")
ECONOMY = Economy({"h200": 1.41, "b200": 1.95}, {})
PLAIN = ((130.0, 300.0), (120.0, 560.0), (100.0, 950.0), (78.0, 1500.0), (55.0, 2100.0), (36.0, 2700.0), (22.0, 3200.0))
OTHER_ARM = ((140.0, 200.0), (125.0, 450.0), (98.0, 960.0), (76.0, 1510.0), (53.0, 2110.0), (30.0, 2400.0))
Arm = tuple[tuple[float, float], ...]
CASES: dict[str, tuple[tuple[Arm, ...], tuple[float, ...]]] = {  # arms of (tok/s/user, tok/s/GPU), and interactivities
    "plain": ((PLAIN,), (125, 110, 90, 60, 40, 30)),
    "0.1 % inside the ends": ((PLAIN,), (130 / 1.001, 22 * 1.001)),
    "near-tied at the end of high concurrency": (((*PLAIN, (14.0, 3210.0), (9.0, 3190.0)),), (14.014, 17, 22.02, 26)),
    "near-tied at the end of low concurrency": ((((130.2, 150.0), *PLAIN),), (130, 129, 125)),
    "near-tied in the middle": ((PLAIN, OTHER_ARM), (122, 99, 97, 85, 77, 76, 54, 60)),
}
STARTS = (2, 3, 5, 10)
NOISES = ("independent", "common")
KINDS = ("normal", "exponential", "lognormal")


def drawn(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1. The tails are slow starts."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "exponential":
        return 1 - rng.exponential(size=shape)
    s = 0.5
    return (math.exp(s * s / 2) - rng.lognormal(0, s, shape)) / math.sqrt((math.exp(s * s) - 1) * math.exp(s * s))


def row(series: Series, tp: int, users: int, start: int, x: float, y: float) -> Row:
    """One run on one server start."""
    return Row(
        series, f"{series.hardware}{tp}{users:016d}{start}", f"{tp} {users} {start}", tp, tp, 8, users, start, 0, "arm", users, y, math.nan,
        math.nan, x, 1 / x, math.nan, math.nan, 10 * users, "valid", (), "o", server_start=f"{series.hardware} {tp} {start}",
    )  # fmt: skip


def campaign(
    rng: np.random.Generator, arms: Sequence[Arm], n: int, noise: str, kind: str, series: Series, factor: float = 1.0
) -> list[Row]:
    """Every configuration on n starts. `factor` multiplies the throughput of the arms."""
    made = []
    for tp, arm in zip((8, 4), arms, strict=False):
        speed = 1 + SPREAD * drawn(rng, kind, (n, 1) if noise == "common" else (n, len(arm))) * np.ones((n, len(arm)))
        more = 1 + OWN * rng.standard_normal((n, len(arm)))
        made += [
            row(series, tp, 2**i, s, x * speed[s, i], factor * y * speed[s, i] * more[s, i])
            for i, (x, y) in enumerate(arm)
            for s in range(n)
        ]
    return made


def exact(arms: Sequence[Arm], series: Series, factor: float = 1.0) -> list[Row]:
    """The true points."""
    return [row(series, tp, 2**i, 0, x, factor * y) for tp, arm in zip((8, 4), arms, strict=False) for i, (x, y) in enumerate(arm)]


def coverage(task: tuple[str, str, str, int, int]) -> dict[str, np.ndarray]:
    """For one case: hits of the means, hits of the cells' costs and ratios (trials, cells), and bias. NaN: no interval was given."""
    case, noise, kind, n, trials = task
    arms, at = CASES[case]
    truth = {
        (r.series, r.interactivity_tok_s_user): r
        for r in compared([*exact(arms, OLD), *exact(arms, NEW, 2.2)], ECONOMY, at=at, method="steffen").iso
    }
    points = {(r.tp, r.concurrency): r for r in exact(arms, OLD)}
    means, costs, ratios, bias = [], [], [], []
    for trial in range(trials):
        rng = np.random.default_rng([trial, n])
        rows = campaign(rng, arms, n, noise, kind, OLD)
        all_of_it = compared([*rows, *campaign(rng, arms, n, noise, kind, NEW, 2.2)], ECONOMY, at=at, method="steffen")
        for r in all_of_it.grouped[OLD]:
            for figure in ("interactivity_tok_s_user", "total_tput_per_gpu_tok_s"):
                told = interval(r, figure)
                assert told is not None
                means.append(told.low <= getattr(points[r.tp, r.concurrency], figure) <= told.high)
        cells = {(r.series, r.interactivity_tok_s_user): r for r in all_of_it.iso}
        for series in (OLD, NEW):
            of = [(cells[series, x], truth[series, x]) for x in at]
            if series == OLD:
                costs.append([contains(c.cost_interval, t.cost_usd_per_mtok) for c, t in of])
                bias.append([math.log(c.total_tput_per_gpu_tok_s / t.total_tput_per_gpu_tok_s) for c, t in of])
            else:
                ratios.append([contains(c.ratio_interval, t.perf_per_dollar_vs_baseline) for c, t in of])
    return {name: np.array(values, dtype=float) for name, values in (("mean", means), ("cost", costs), ("ratio", ratios), ("bias", bias))}


def contains(interval: object, truth: float) -> float:
    """1 or 0; NaN without an interval."""
    return math.nan if interval is None else float(interval.low <= truth <= interval.high)  # type: ignore[attr-defined]


def false_alarms(task: tuple[str, str, int, int]) -> float:
    """The share of calls in which `diff` finds a regression between two campaigns of one system (tolerance 0, its hardest case)."""
    noise, kind, n, trials = task
    found = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, n, 7])
        a, b = (campaign(rng, (PLAIN, OTHER_ARM), n, noise, kind, OLD) for _ in range(2))
        found += difference(a, b, tolerance=0.0).is_worse
    return found / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", default="", help="only cases that contain these words")
    parser.add_argument("--same-only", action="store_true", help="only the comparison of identical systems")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.processes) as pool:
        if not asked.same_only:
            cases = [c for c in CASES if asked.case in c]
            tasks = [(c, noise, kind, n, asked.trials) for c in cases for noise in NOISES for kind in KINDS for n in STARTS]
            report(dict(zip(tasks, pool.map(coverage, tasks), strict=True)))
        tasks_ = [(noise, kind, n, asked.trials) for noise in NOISES for kind in KINDS for n in STARTS]
        print(
            "\n| `diff` of identical systems | " + " | ".join(f"{n} starts" for n in STARTS) + " |\n|---" * 1 + "|---" * len(STARTS) + "|"
        )
        alarms = dict(zip(tasks_, pool.map(false_alarms, tasks_), strict=True))
        for noise in NOISES:
            for kind in KINDS:
                print(f"| {noise}, {kind} | " + " | ".join(f"{alarms[noise, kind, n, asked.trials]:.1%}" for n in STARTS) + " |")


def report(found: dict[tuple[str, str, str, int, int], dict[str, np.ndarray]]) -> None:
    """Prints the coverage of each case (lowest and highest cell), and the coverage of all cells of a kind together."""
    print("| case, noise | interval of | " + " | ".join(f"{n} starts" for n in STARTS) + " |\n|---|---" + "|---" * len(STARTS) + "|")
    together: dict[tuple[str, int], list[float]] = defaultdict(list)
    for case, noise, kind in dict.fromkeys(task[:3] for task in found):
        for name in ("mean", "cost", "ratio"):
            cells = []
            for n in STARTS:
                (hits,) = [of[name] for task, of in found.items() if task[:4] == (case, noise, kind, n)]
                each = np.atleast_1d(np.nanmean(hits, axis=0)) if hits.ndim > 1 else np.array([hits.mean()])
                together[name, n] += each.tolist()
                cells.append(f"{each.min():.3f}" if len(each) == 1 else f"{each.min():.3f} to {each.max():.3f}")
            print(f"| {case}; {noise}, {kind} | {name} | " + " | ".join(cells) + " |", flush=True)
        worst = [
            max(np.nanmean(of["bias"], axis=0), key=abs) for n in STARTS for task, of in found.items() if task[:4] == (case, noise, kind, n)
        ]
        print(f"| {case}; {noise}, {kind} | largest bias | " + " | ".join(f"{100 * b:+.1f} %" for b in worst) + " |", flush=True)
    for name in ("mean", "cost", "ratio"):
        told = [together[name, n] for n in STARTS]
        print(f"| all cells | {name} | " + " | ".join(f"mean {np.mean(t):.3f}, lowest {min(t):.3f}" for t in told) + " |")


if __name__ == "__main__":
    main()
