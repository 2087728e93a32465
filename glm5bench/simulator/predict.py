"""What the public workload would measure on the simulated server, in virtual time and without HTTP.

Enters: a step model, limits, a workload at a concurrency. Leaves: the figures a client would report. Used to fit the efficiency
factors to published points, and to check that the simulated server over HTTP agrees with its own model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..roofline import StepModel
from ..values.workload import Workload
from .scheduler import Limits, Request, Scheduler


@dataclass(frozen=True)
class Prediction:
    """Figures of one point. Throughput counts prompt and output tokens over the whole wall time, per GPU."""

    total_tput_per_gpu_tok_s: float
    interactivity_tok_s_user: float
    ttft_median_s: float
    duration_s: float
    mean_running: float
    acceptance_length: float


def predict(model: StepModel, limits: Limits, workload: Workload, concurrency: int, *, seed: int = 0) -> Prediction:
    """A closed loop of `concurrency` users over the workload's prompts, run to its end."""
    rng = np.random.default_rng(seed)
    n = workload.n_prompts(concurrency)
    prompts = lengths(rng, workload.isl_tokens, workload.range_ratio, n)
    outputs = lengths(rng, workload.osl_tokens, workload.range_ratio, n)
    pending = [Request(i, int(prompts[i]), int(outputs[i])) for i in range(n)][::-1]
    scheduler = Scheduler(model, limits, seed=seed)
    sent, first, last = np.zeros(n), np.zeros(n), np.zeros(n)
    now, busy = 0.0, 0.0
    for _ in range(min(concurrency, n)):
        scheduler.add(pending.pop())
    verify_steps = 0
    while (step := scheduler.step()) is not None:
        now += step.duration_s
        busy += step.duration_s * scheduler.n_running
        for request, tokens in step.tokens:
            if request.emitted == tokens:
                first[request.id] = now
            if request.done:
                last[request.id] = now
                verify_steps += request.verify_steps
                if pending:
                    following = pending.pop()
                    sent[following.id] = now
                    scheduler.add(following)
    tpot = (last - first) / np.maximum(outputs - 1, 1)
    return Prediction(
        total_tput_per_gpu_tok_s=float((prompts.sum() + outputs.sum()) / now / model.tp),
        interactivity_tok_s_user=float(1.0 / np.median(tpot)),
        ttft_median_s=float(np.median(first - sent)),
        duration_s=now,
        mean_running=busy / now,
        acceptance_length=float((outputs.sum() - n) / max(1, verify_steps)),
    )


def lengths(rng: np.random.Generator, nominal: int, range_ratio: float, n: int) -> np.ndarray:
    """N token counts uniform in [range_ratio x nominal, nominal], as the public workload draws them. Shape: (n,)."""
    low = max(1, int(range_ratio * nominal))
    return rng.integers(low, nominal + 1, size=n)
