"""Measures the bias from too few requests per user, and the benefit of the steady window. Uses the simulated scheduler in virtual time.

python benchmarks/waves.py [--runs 12] [--spread]

A wave is one request per user. For each shape the output contains:

- the bias of interactivity with 1 to 10 waves, compared with runs of 60 waves;
- the bias of throughput with 10 waves, for the whole run and for the steady window, compared with the steady window of 60 waves;
- the reasons of `analysis.course` for the runs with 10 waves, which should be none.

+/- is the standard error over the runs.

--spread shows how well the standard error of a single run (`analysis.batches`) agrees with the spread over runs with other seeds. Width is
the mean half width of its 95 % interval, divided by 1.96 standard deviations of the runs (1 is exact, more is too wide). Coverage is the
share of intervals that contain the mean of the runs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

import numpy as np

from glm5bench.analysis.batches import n_batches, relative_standard_errors
from glm5bench.analysis.course import of_run
from glm5bench.analysis.metrics import Requests, figures
from glm5bench.analysis.repeats import quantile
from glm5bench.analysis.windows import steady
from glm5bench.engines.known import adapter
from glm5bench.roofline import StepModel
from glm5bench.settings.overrides import compose
from glm5bench.simulator.scheduler import Limits, Request, Scheduler
from glm5bench.values.point import Arm
from glm5bench.values.workload import lengths

ARMS = (("hardware=h200", "speculative=off"), ("hardware=b200", "speculative=mtp"))
SHAPES = ((8192, 1024, 8), (8192, 1024, 32), (1024, 1024, 32), (1024, 8192, 8))  # input, output, concurrency
WAVES = (1, 2, 3, 4, 5, 10)
LONG = 60
RATIO = 0.8
ENDLESS = Limits(max_running=4096, capacity_tokens=10**9, chunk_tokens=16384)


def arms() -> Iterator[tuple[str, Arm]]:
    """Two systems, with their names."""
    for words in ARMS:
        yield " ".join(words), compose("engine=simulated", "checkpoint=glm5_fp8", "tp=8", *words).arm


def run(arm: Arm, n_in: int, n_out: int, concurrency: int, waves: int, seed: int) -> Requests:
    """A closed loop with `waves` requests per user, as a client would have measured it."""
    model = StepModel(arm.hardware, arm.checkpoint, arm.tp, arm.speculative, adapter(arm.engine).kv_dtype(arm.hardware, "auto"))
    rng, n = np.random.default_rng(seed), waves * concurrency
    prompts, outputs = lengths(rng, n_in, RATIO, n), lengths(rng, n_out, RATIO, n)
    pending = [Request(i, int(prompts[i]), int(outputs[i])) for i in range(n)][::-1]
    scheduler, now = Scheduler(model, ENDLESS, seed=seed), 0.0
    sent, first, last = np.zeros(n), np.zeros(n), np.zeros(n)
    chunks: list[tuple[int, float, int]] = []
    for _ in range(concurrency):
        scheduler.add(pending.pop())
    while (step := scheduler.step()) is not None:
        now += step.duration_s
        for request, tokens in step.tokens:
            if tokens:
                chunks.append((request.id, now, tokens))
            if request.emitted == tokens:
                first[request.id] = now
            if request.done:
                last[request.id] = now
                if pending:
                    sent[pending[-1].id] = now
                    scheduler.add(pending.pop())
    chunks.sort(key=lambda chunk: chunk[0])
    owner, at, tokens_ = (np.array(column) for column in zip(*chunks, strict=True))

    def ns(seconds: np.ndarray) -> np.ndarray:
        return np.rint(seconds * 1e9).astype(np.int64)

    return Requests(
        due_ns=ns(sent), sent_ns=ns(sent), first_byte_ns=ns(first), first_token_ns=ns(first), last_token_ns=ns(last), end_ns=ns(last),
        prompt_tokens=prompts.astype(np.int64), output_tokens=outputs.astype(np.int64), asked_tokens=outputs.astype(np.int64),
        status=np.full(n, 200), error=("",) * n, chunk_ns=ns(at), chunk_tokens=tokens_,
        chunk_offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))]),
    )  # fmt: skip


def steady_tput(r: Requests, concurrency: int) -> float:
    """Total tokens per second in the steady window."""
    window = steady(r, concurrency)
    assert window is not None
    return window.total_tput_tok_s


def biased(values: list[float], truth: float) -> str:
    """Mean bias in percent, with its standard error."""
    each = 100 * (np.array(values) / truth - 1)
    return f"{each.mean():+.2f} +/- {each.std(ddof=1) / len(each) ** 0.5:.2f}"


def spread(n_runs: int) -> None:
    """Prints the calibration of a single run's intervals."""
    print("| system | ISL/OSL | C | waves | throughput: width, coverage | interactivity: width, coverage |\n|---|---|---|---|---|---|")
    for name, arm in arms():
        for n_in, n_out, concurrency in SHAPES:
            for waves in (5, 10):
                runs = [run(arm, n_in, n_out, concurrency, waves, i) for i in range(n_runs)]
                cells = []
                for which, figure in enumerate(("total_tput_tok_s", "interactivity_tok_s_user")):
                    values = np.array([getattr(figures(r), figure) for r in runs])
                    half = quantile(n_batches(waves * concurrency, concurrency) - 1) * np.array(
                        [relative_standard_errors(r, 1.0, concurrency)[which] for r in runs]
                    )
                    away = np.abs(values / values.mean() - 1)
                    cells.append(f"{half.mean() / (1.96 * values.std(ddof=1) / values.mean()):.1f}, {(away < half).mean():.0%}")
                print(f"| {name} | {n_in}/{n_out} | {concurrency} | {waves} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--spread", action="store_true")
    asked = parser.parse_args()
    n_runs = asked.runs
    if asked.spread:
        spread(n_runs)
        return
    print("| system | ISL/OSL | C | " + " | ".join(f"{w} waves %" for w in WAVES) + " | whole run % | steady window % | reasons |")
    print("|---" * (len(WAVES) + 6) + "|")
    for name, arm in arms():
        for n_in, n_out, concurrency in SHAPES:
            long = [run(arm, n_in, n_out, concurrency, LONG, 1000 + i) for i in range(3)]
            speed = float(np.mean([figures(r).interactivity_tok_s_user for r in long]))
            truth = float(np.mean([steady_tput(r, concurrency) for r in long]))
            found: Counter[str] = Counter()
            cells = []
            for waves in WAVES:
                runs = [run(arm, n_in, n_out, concurrency, waves, i) for i in range(n_runs)]
                cells.append(biased([figures(r).interactivity_tok_s_user for r in runs], speed))
            for r in runs:  # of ten waves
                found.update(why.code for why in of_run(r, concurrency, keeps_concurrency=True))
            cells.append(biased([figures(r).total_tput_tok_s for r in runs], truth))
            cells.append(biased([steady_tput(r, concurrency) for r in runs], truth))
            reasons = ", ".join(f"{code} {n}" for code, n in found.items()) or "none"
            print(f"| {name} | {n_in}/{n_out} | {concurrency} | " + " | ".join(cells) + f" | {reasons} |", flush=True)


if __name__ == "__main__":
    main()
