"""Whether the acceptance length of speculative decoding is what it should be. Pure."""

from __future__ import annotations

import math
from typing import Any

from .metrics import Requests
from .reasons import Reason

ACCEPTANCE_SHARE = 0.05  # allowed relative difference


def unpinned(measured: float, pinned: float | None) -> tuple[Reason, ...]:
    """Compares the acceptance length with the one that the engine was asked to have, if it was."""
    if not pinned or abs(measured - pinned) <= ACCEPTANCE_SHARE * pinned:
        return ()
    said = "it is unknown" if math.isnan(measured) else f"{measured:.2f} tokens per verify step"
    return (Reason("acceptance_unpinned", f"{said}, but {pinned:g} was pinned"),)


def disagreeing(r: Requests | None, stated: Any) -> tuple[Reason, ...]:
    """Compares the acceptance length of the answers with the server's average since its cache was flushed, before the run.

    Prefill makes the first token of an answer and is not a verify step.
    """
    if not isinstance(stated, int | float) or stated <= 0:
        return ()
    if r is None or r.verify_steps is None or not (r.is_whole & (r.verify_steps > 0)).all():
        return ()
    told = float((r.output_tokens - 1).sum() / r.verify_steps.sum())
    if abs(told - stated) <= ACCEPTANCE_SHARE * stated:
        return ()
    return (Reason("acceptance_disagrees", f"{told:.2f} tokens per verify step in the answers, {stated:.2f} in the server's average"),)
