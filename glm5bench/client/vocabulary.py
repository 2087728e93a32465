"""How many token ids a server's model has: from the server's information, else a number that is safe for every model.

A token id outside the vocabulary can crash the server: SGLang's embedding kernel fails, and then every later request fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from .endpoint import Endpoint
from .events import MOST_COUNT

SAFE = 256  # byte-level models have no fewer
FIELDS = ("vocab_size", "vocabulary_size", "n_vocab")
NESTED = ("model_config", "hf_config", "text_config", "meta")
SAMPLE = (
    "Zylinderkopfdichtung, naïveté, œuvre, Łódź, façade; общественность и вычислительный; Ελληνικά; これは日本語の文章です; "
    "人工智能模型推理服务; 한국어 문장; ภาษาไทย; العربية; हिन्दी; def __init__(self, *args, **kwargs): return np.einsum('bhqd,bhkd', q, k) "
    "electroencephalographically 3.14159265358979 🙂 🚀 ≤ ∑ ∫ √ → ∎"
)  # text in many scripts, because rare words have large ids


@dataclass(frozen=True)
class Vocabulary:
    """Ids from 0 to `n` - 1 are certainly tokens of the model. `source`: where the number is from."""

    n: int
    source: str


def vocabulary(endpoint: Endpoint, model: str, info: Mapping[str, Any], told: int | None = None) -> Vocabulary:
    """The vocabulary of a server's model. `told`: the user's number, if there is one; `info`: the server's information."""
    if told is not None:
        return Vocabulary(told, "--vocabulary")
    for where, facts in (
        ("the server's information", info),
        ("GET /v1/models", _card(endpoint, model)),
        ("GET /get_model_info", _info(endpoint)),
    ):
        if (n := _stated(facts)) is not None:
            return Vocabulary(n, where)
    largest = _largest_id(endpoint, model)
    if largest is not None and largest >= SAFE:
        return Vocabulary(largest + 1, "the largest id in an answer of POST /tokenize")
    return Vocabulary(SAFE, "unknown to the server: a bound that is safe for every model")


def _card(endpoint: Endpoint, model: str) -> Any:
    """The entry of this model in /v1/models, where llama.cpp's server states its vocabulary."""
    models = endpoint.get_json("/v1/models")
    data = models.get("data") if isinstance(models, dict) else None
    return next((card for card in data if isinstance(card, dict) and card.get("id") == model), {}) if isinstance(data, list) else {}


def _info(endpoint: Endpoint) -> Any:
    return endpoint.get_json("/get_model_info")


def _stated(facts: Any) -> int | None:
    """A vocabulary size in these facts, or one level below."""
    if not isinstance(facts, Mapping):
        return None
    places = [place for place in (facts, *(facts.get(name) for name in NESTED)) if isinstance(place, Mapping)]
    sizes = [place.get(name) for place in places for name in FIELDS]
    return next((n for n in sizes if type(n) is int and 0 < n < MOST_COUNT), None)


def _largest_id(endpoint: Endpoint, model: str) -> int | None:
    """The largest id in the tokens of a sample; None if the server does not tokenize."""
    try:
        said = endpoint.ask("POST", "/tokenize", {"model": model, "prompt": SAMPLE, "add_special_tokens": False})
        tokens = said.json().get("tokens") if said.status == 200 else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    ids = [t for t in tokens if type(t) is int and 0 <= t < MOST_COUNT] if isinstance(tokens, list) else []
    return max(ids, default=None)
