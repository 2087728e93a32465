"""How a server counts text: asked of the server itself, before the clock starts.

Prompts that are text have the length that the server's tokenizer and chat template give them. Two short requests tell what the template
adds and what a word is; an engine that has /tokenize tells how long a recorded answer is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from ..errors import ClientError
from .endpoint import Endpoint
from .workload import PATHS, WORDS, Counting

SHORT, LONG = 20, 220  # words of the two requests
ANSWER_S = 120.0


def counting(endpoint: Endpoint, model: str) -> Counting:
    """How many tokens a chat prompt of n words has. Raises ClientError where the server does not say."""
    few, many = (_prompt_tokens(endpoint, model, n) for n in (SHORT, LONG))
    per_word = (many - few) / (LONG - SHORT)
    if per_word <= 0:
        raise ClientError(f"The server counts {few} tokens in {SHORT} words and {many} in {LONG}: no prompt of a given length can be made.")
    return Counting(few - SHORT * per_word, per_word)


def _prompt_tokens(endpoint: Endpoint, model: str, words: int) -> int:
    text = " ".join(WORDS[i % len(WORDS)] for i in range(words))
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    try:
        answer = httpx.post(endpoint.base_url + PATHS["chat"], json=body, timeout=ANSWER_S, **endpoint.options)
        return int(answer.json()["usage"]["prompt_tokens"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"The server does not say how many tokens a chat prompt has (POST {PATHS['chat']}: {type(error).__name__}: {error}).",
            next_step="workload.endpoint=completions sends token ids, whose number is known",
        ) from error


@contextmanager
def token_counter(endpoint: Endpoint, model: str) -> Iterator[Callable[[str], int] | None]:
    """What says how many tokens a text has, where the server has POST /tokenize; else None."""

    @functools.cache
    def count(text: str) -> int:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        try:
            answer = client.post("/tokenize", json=body)
            return int(answer.raise_for_status().json()["count"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ClientError(f"The server does not say how long a text is (POST /tokenize: {type(error).__name__}: {error}).") from error

    with httpx.Client(base_url=endpoint.base_url, timeout=ANSWER_S, **endpoint.options) as client:
        try:
            count("the")
        except ClientError:
            yield None
        else:
            yield count
