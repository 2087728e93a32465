"""The server's own token counts: its Prometheus counters before and after a run. Source: SGLang's and vLLM's /metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

import httpx

from .endpoint import Endpoint
from .metrics import values

ANSWER_S = 10.0
SETTLE_S = 3.0  # engines with several processes update their counters some time after the last token


@dataclass(frozen=True)
class Counted:
    """Tokens since the server's start, over all its ranks, and its counts of speculative decoding; 0 if it has none.

    `cache_hits`: prompt tokens that were in the cache; None if it does not count them. A counter appears when it is first raised.
    """

    prompt_tokens: int
    generation_tokens: int
    drafts: int = field(default=0, compare=False)
    accepted_tokens: int = field(default=0, compare=False)
    verify_steps: int = field(default=0, compare=False)
    cache_hits: int | None = field(default=None, compare=False)

    def since(self, before: Counted) -> Counted | None:
        """What was counted after `before`; None if a counter went back, because the server has reset it."""
        made: dict[str, Any] = {f.name: (getattr(self, f.name) or 0) - (getattr(before, f.name) or 0) for f in fields(self)}
        if min(made.values()) < 0:
            return None
        return Counted(**made | ({"cache_hits": None} if self.cache_hits is None else {}))


def counted(server: Endpoint) -> Counted | None:
    """What the server has counted so far; None if it has no such counters (SGLang without --enable-metrics)."""
    try:
        told = values(server.ask("GET", "/metrics", within_s=ANSWER_S).text)
    except (httpx.HTTPError, ValueError):
        return None
    if not {"prompt_tokens", "generation_tokens"} <= told.keys():
        return None
    return Counted(**{f.name: int(told[f.name]) for f in fields(Counted) if f.name in told})


def counted_since(server: Endpoint, before: Counted | None, expected: Counted) -> Counted | None:
    """The server's counts since `before`, as soon as they equal `expected`, or as they are after SETTLE_S. None if they are unknown."""
    deadline = time.monotonic() + SETTLE_S
    while before is not None and (now := counted(server)) is not None:
        since = now.since(before)
        if since is None or since == expected or time.monotonic() > deadline:
            return since
        time.sleep(0.1)
    return None
