"""How many tokens the server itself has counted: its Prometheus counters before and after a run. Source: SGLang's and vLLM's /metrics."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import httpx

from .endpoint import Endpoint

LINE = re.compile(r"^(?:sglang|vllm):(prompt_tokens_total|generation_tokens_total)(?:\{.*\})? (\S+)", re.MULTILINE)
SETTLE_S = 3.0  # engines of several processes write their counters some time after the last token


@dataclass(frozen=True)
class Counted:
    """Tokens since the server's start, over all its ranks."""

    prompt_tokens: int
    generation_tokens: int


def counted(server: Endpoint) -> Counted | None:
    """What the server has counted so far; None where it has no such counters (SGLang without --enable-metrics)."""
    try:
        text = httpx.get(server.base_url + "/metrics", timeout=10, **server.options).text
    except httpx.HTTPError:
        return None
    sums: dict[str, float] = {}
    try:
        for name, value in LINE.findall(text):
            sums[name] = sums.get(name, 0.0) + float(value)
    except ValueError:
        return None
    if len(sums) != 2 or not all(map(math.isfinite, sums.values())):
        return None
    return Counted(int(sums["prompt_tokens_total"]), int(sums["generation_tokens_total"]))


def counted_since(server: Endpoint, before: Counted | None, expected: Counted) -> Counted | None:
    """What it has counted since, as soon as that is what the client has counted, and after some seconds whatever it is."""
    deadline = time.monotonic() + SETTLE_S
    while before is not None and (now := counted(server)) is not None:
        since = Counted(now.prompt_tokens - before.prompt_tokens, now.generation_tokens - before.generation_tokens)
        if since == expected or time.monotonic() > deadline:
            return since
        time.sleep(0.1)
    return None
