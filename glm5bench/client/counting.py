"""How a server counts the tokens of text, measured on the server itself before the clock starts.

The length of a text prompt depends on the server's tokenizer and chat template. Two short requests show how many tokens the template
adds and how many a word has. Engines with /tokenize also count the tokens of recorded answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from ..errors import ClientError
from .endpoint import Endpoint
from .events import MOST_COUNT
from .side import Said
from .workload import PATHS, WORDS, Counting

SHORT, LONG = 20, 220  # words of the two requests
ANSWER_S = 120.0


def counting(endpoint: Endpoint, model: str) -> Counting:
    """How many tokens a chat prompt of n words has. Raises ClientError if the server does not report it."""
    few, many = (_prompt_tokens(endpoint, model, n) for n in (SHORT, LONG))
    per_word = (many - few) / (LONG - SHORT)
    if per_word <= 0:
        raise ClientError(
            f"The server counts {few} tokens in {SHORT} words and {many} in {LONG}: prompts of a given length cannot be made."
        )
    return Counting(few - SHORT * per_word, per_word)


def _prompt_tokens(endpoint: Endpoint, model: str, words: int) -> int:
    text = " ".join(WORDS[i % len(WORDS)] for i in range(words))
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    try:
        return _count(endpoint.ask("POST", PATHS["chat"], body, within_s=ANSWER_S), "usage", "prompt_tokens")
    except (httpx.HTTPError, ValueError) as error:
        raise ClientError(
            f"The server does not report how many tokens a chat prompt has (POST {PATHS['chat']}: {type(error).__name__}: {error}).",
            next_step="use workload.endpoint=completions, which sends token ids",
        ) from error


def _count(said: Said, *names: str) -> int:
    """The count under these names in an answer. Raises ValueError if there is none."""
    if said.status != 200:
        raise ValueError(f"HTTP {said.status}: {' '.join(said.text[:120].split())}")
    told = said.json()
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    if type(told) is not int or not 0 <= told < MOST_COUNT:
        raise ValueError(f"its answer has no count {'.'.join(names)}")
    return told


@contextmanager
def token_counter(endpoint: Endpoint, model: str) -> Iterator[Callable[[str], int] | None]:
    """A function that returns how many tokens a text has, if the server has POST /tokenize; else None."""

    @functools.cache
    def count(text: str) -> int:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        try:
            return _count(side.ask("POST", "/tokenize", body, within_s=ANSWER_S), "count")
        except (httpx.HTTPError, ValueError) as error:
            raise ClientError(
                f"The server does not report how many tokens a text has (POST /tokenize: {type(error).__name__}: {error})."
            ) from error

    with endpoint.asking() as side:
        try:
            count("the")
        except ClientError:
            yield None
        else:
            yield count
