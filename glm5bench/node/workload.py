"""The requests of a point: random prompts of drawn lengths, encoded before the clock starts.

Token ids go to the completions endpoint, so that prompt lengths are exact with any tokenizer; chat takes text, a word a token, and
the server's own count is what is recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..point import Point, Workload
from ..simulator.predict import lengths

FIRST_ID, LAST_ID = 1000, 100_000  # past the special tokens; where a vocabulary is smaller, to its end
WORDS = ("the", "of", "and", "to", "in", "is", "for", "that", "on", "with", "as", "are", "this", "by", "be", "at", "from", "or", "an", "it")
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions", "generate": "/generate"}


@dataclass(frozen=True)
class Prompt:
    """One request: its encoded body and the lengths asked for."""

    body: bytes
    prompt_tokens: int
    output_tokens: int


def prompts(workload: Workload, point: Point, model: str, vocabulary: int = LAST_ID) -> tuple[list[Prompt], list[Prompt]]:
    """The warm-ups and the measured requests. No prompt repeats; the same point has the same prompts everywhere."""
    last_id = min(LAST_ID, vocabulary)
    warm = np.random.default_rng([point.seed, point.repeat, point.concurrency, 1])
    measured = np.random.default_rng([point.seed, point.repeat, point.concurrency, 0])
    return (
        _drawn(workload, warm, workload.n_warmups(point.concurrency), model, last_id),
        _drawn(workload, measured, workload.n_prompts(point.concurrency), model, last_id),
    )


def _drawn(w: Workload, rng: np.random.Generator, n: int, model: str, last_id: int) -> list[Prompt]:
    inputs, outputs = lengths(rng, w.isl_tokens, w.range_ratio, n), lengths(rng, w.osl_tokens, w.range_ratio, n)
    return [_encoded(w, rng, int(i), int(o), model, last_id) for i, o in zip(inputs, outputs, strict=True)]


def _encoded(w: Workload, rng: np.random.Generator, n_in: int, n_out: int, model: str, last_id: int) -> Prompt:
    ids = [] if w.endpoint == "chat" else rng.integers(FIRST_ID, last_id, size=n_in).tolist()
    if w.endpoint == "generate":  # SGLang's own: counts come with every chunk
        sampling = {"max_new_tokens": n_out, "temperature": 0, "ignore_eos": True}
        return _prompt({"input_ids": ids, "sampling_params": sampling, "stream": True}, n_in, n_out)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": n_out,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if w.endpoint == "chat":
        words = rng.integers(0, len(WORDS), size=n_in)
        body["messages"] = [{"role": "user", "content": " ".join(WORDS[i] for i in words)}]
    else:
        body["prompt"] = ids
    return _prompt(body, n_in, n_out)


def _prompt(body: dict[str, Any], n_in: int, n_out: int) -> Prompt:
    return Prompt(json.dumps(body, separators=(",", ":")).encode(), n_in, n_out)
