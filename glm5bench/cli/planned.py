"""The limits that the plan of a measured arm computes: how many requests its server admits, and how many tokens its cache holds."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..errors import BenchError

if TYPE_CHECKING:
    from ..analysis.rows import Row, Series
    from ..values.point import Arm

NONE = "neither admission nor KV cache"


def planned_limit(row: Row) -> str:
    """What would hold this configuration back, by its recipe and the memory of its GPUs; empty if no recipe is known for it."""
    from .. import recipe

    arm = _arm(row.series, row.tp)
    if arm is None or row.concurrency < 1:
        return ""
    try:
        bound = recipe.bound(arm, row.binding or row.concurrency, [row.concurrency])
        admitted, fit = recipe.admitted(arm, bound), recipe.memory(arm, bound)
    except BenchError:
        return ""
    if admitted is not None and admitted < row.concurrency:
        return f"admission limit of {admitted} requests"
    w = arm.workload
    held = int(fit.capacity_tokens / (w.mean_isl_tokens + w.mean_osl_tokens / 2))
    return f"KV capacity of {fit.capacity_tokens:,} tokens, about {held} requests" if 0 < held < row.concurrency else NONE


@functools.cache
def _arm(s: Series, tp: int) -> Arm | None:
    """The arm of a published recipe; None for facts that conf/ does not have, and for flags of the user's own."""
    from ..analysis.rows import is_told, split_gpus, spread_of
    from ..engines.known import adapter
    from ..settings.overrides import compose
    from ..settings.prices import fact_table

    checkpoints = {repository: id_ for id_, repository in fact_table("checkpoint", "repository").items()}
    has_own_flags = s.source == "measured" and any(not is_told(word) for word in s.variant.split())
    is_one_server = split_gpus(s.variant) is None
    if s.checkpoint not in checkpoints or has_own_flags or not is_one_server or min(s.isl_tokens, s.osl_tokens) < 1:
        return None
    lengths = [f"workload.isl_tokens={s.isl_tokens}", f"workload.osl_tokens={s.osl_tokens}"]
    ratio = [f"workload.range_ratio={s.range_ratio}"] if s.range_ratio > 0 else []
    spread = [f"{name}={n}" for name, n in spread_of(s.variant).items()]
    words = [
        *spread,
        "roles=wide",
        f"hardware={s.hardware}",
        f"checkpoint={checkpoints[s.checkpoint]}",
        f"tp={tp}",
        f"speculative={s.speculative}",
    ]
    try:
        arm = compose(*words, *lengths, *ratio).arm
        return arm if adapter(arm.engine).name == s.engine else compose(f"engine={s.engine}", *words, *lengths, *ratio).arm
    except BenchError:
        return None
