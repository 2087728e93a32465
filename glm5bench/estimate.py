"""How long warm-up and measurement of a point take, for time limits and costs. From the step model in its steady state; pure."""

from __future__ import annotations

from collections.abc import Iterable

from .recipe import admitted, kv_dtype, memory
from .roofline import closed_loop_s, step_model
from .values.point import Arm, Recipe
from .values.workload import Workload


def estimates_s(arm: Arm, recipe: Recipe, concurrencies: Iterable[int]) -> list[float]:
    """Estimated seconds on the wall clock for warm-up and measurement at each concurrency, from the roofline model."""
    limit, capacity = admitted(arm, recipe), memory(arm, recipe).capacity_tokens
    if recipe.roles:
        return [s / arm.engine.time_scale for s in _estimates_of_parts_s(arm, recipe, concurrencies, limit, capacity)]
    model = step_model(arm, kv_dtype(arm, recipe.argv))
    served = ((c, closed_loop_s(model, arm.workload, c, limit or c, capacity)) for c in concurrencies)
    return [_awaited_s(arm.workload, served_s, c) / arm.engine.time_scale for c, served_s in served]


def _estimates_of_parts_s(arm: Arm, recipe: Recipe, concurrencies: Iterable[int], limit: int | None, capacity: int) -> Iterable[float]:
    """The same for prefill and decode workers: the slower stage determines the time."""
    (first, one), (last, other) = [(s.arm, part.recipe) for s, part in zip(arm.servers, recipe.roles, strict=True)]
    p, d = (s.workers for s in arm.servers)
    prefill, decode = step_model(first, kv_dtype(first, one.argv)), step_model(last, kv_dtype(last, other.argv))
    isl = int(arm.workload.mean_isl_tokens)
    for c in concurrencies:
        each, n = max(1, c // d), arm.workload.n_prompts(c) + arm.workload.n_warmups(c)
        decoded_s = closed_loop_s(decode, arm.workload, each, max(1, (limit or c) // d), capacity // d) * n / d
        decoded_s /= arm.workload.n_prompts(each) + arm.workload.n_warmups(each)
        yield _awaited_s(arm.workload, max(decoded_s, n / p * prefill.prefill_s(isl, isl * isl / 2)), c)


def _awaited_s(w: Workload, served_s: float, concurrency: int) -> float:
    """The time with waits for due requests, several turns, or a time limit. The due times of a trace are unknown and not included."""
    n = w.n_prompts(concurrency)
    if w.has_sessions and w.duration_s is not None:  # the window, after the warm-up and until the last answer
        return w.duration_s + served_s * (w.warmups_per_concurrency + 1) / (w.prompts_per_concurrency + w.warmups_per_concurrency)
    thought_s = (w.turns - 1) * w.think_time_s * n / concurrency
    due_s = n / w.rate_rps if w.rate_rps is not None else 0.0
    total_s = max(served_s * w.turns + thought_s, due_s) + w.ramp_s / 2
    return min(total_s, w.duration_s + served_s / max(1, w.prompts_per_concurrency)) if w.duration_s is not None else total_s
