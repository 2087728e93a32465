"""The content of the simulated server's answers, in the forms of its three endpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WORD = " tok"  # the text of every token


@dataclass(frozen=True)
class Asked:
    """One generation request, from any endpoint."""

    endpoint: str  # generate, completions, chat
    prompt_tokens: int
    output_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    model: str
    wants_steps: bool = False
    room: int | None = None  # of a disaggregated system: the same for the prefill and the decode worker
    bootstrap: tuple[str, int] = ("", 0)  # where the decode worker gets the cache
    prompt: str | Sequence[int] = field(default=(), repr=False)
    wants_places: bool = False


def asked_of(endpoint: str, body: dict[str, Any]) -> Asked:
    """The request in a JSON body. Raises ValueError, KeyError, TypeError or AttributeError for an invalid body."""
    if endpoint == "generate":
        prompt = body.get("input_ids") or body["text"]
        limit = int((body.get("sampling_params") or {}).get("max_new_tokens", 128))
    elif endpoint == "completions":
        prompt, limit = body["prompt"], int(body.get("max_tokens") or 16)
    else:
        prompt = " ".join(str(message["content"]) for message in body["messages"])
        limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
    if limit < 1:
        raise ValueError("max_tokens must be at least 1")
    usage = body.get("stream_options") or {}
    return Asked(
        endpoint=endpoint,
        prompt_tokens=max(1, len(prompt.split()) if isinstance(prompt, str) else len(prompt)),
        output_tokens=limit,
        stream=bool(body.get("stream")),
        include_usage=bool(usage.get("include_usage")),
        continuous_usage=bool(usage.get("continuous_usage_stats")),
        model=str(body.get("model", "")),
        wants_steps=bool(body.get("return_spec_tokens_details")),
        room=None if body.get("bootstrap_room") is None else int(body["bootstrap_room"]),
        prompt=prompt,
        wants_places=bool(body.get("return_cached_tokens_details")),
        bootstrap=(str(body.get("bootstrap_host") or ""), int(body.get("bootstrap_port") or 0)),
    )


@dataclass(frozen=True)
class Cached:
    """Tokens of a prompt that were in the prefix cache. `is_reported`: OpenAI's endpoints report them, too."""

    device: int = 0
    host: int = 0
    is_reported: bool = False

    @property
    def details(self) -> dict[str, int]:
        """Where they were, as SGLang reports it."""
        return {"device": self.device, "host": self.host}


def answer_body(
    asked: Asked, id_: str, emitted: int, shown: int, verify_steps: int, *, finished: bool, whole: bool = False, cached: Cached = Cached()
) -> dict[str, Any]:
    """One chunk, or a whole answer."""
    why = "length" if emitted >= asked.output_tokens else "stop"  # the fault `short` ends it earlier
    if asked.endpoint == "generate":
        reason = {"type": why, "length": emitted} if finished else None
        n_cached = cached.device + cached.host
        meta: dict[str, Any] = {"id": id_, "finish_reason": reason, "prompt_tokens": asked.prompt_tokens, "completion_tokens": emitted}
        meta |= {"cached_tokens": n_cached, **({"cached_tokens_details": cached.details} if n_cached else {})}
        if finished:
            meta["spec_verify_ct"] = verify_steps
        return {"text": WORD * emitted, "meta_info": meta}
    text = WORD * (emitted - shown)
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": why if finished else None, "matched_stop": None}
    if asked.endpoint == "completions":
        choice["text"] = text
    else:
        choice["message" if whole else "delta"] = {"role": "assistant", "content": text} if whole else {"content": text}
    answer = {**_envelope(asked, id_, whole), "choices": [choice]}
    if whole or asked.continuous_usage:
        answer["usage"] = _usage(asked, emitted, cached)
    elif asked.endpoint == "completions":
        answer["usage"] = None
    return answer


def role_chunk(asked: Asked, id_: str) -> dict[str, Any]:
    """The first chunk of a chat."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None, "matched_stop": None}
    return {**_envelope(asked, id_, False), "choices": [choice]}


def last_chunks(asked: Asked, id_: str, emitted: int, verify_steps: int, cached: Cached = Cached()) -> list[dict[str, Any]]:
    """The chunks after the last token."""
    if asked.endpoint == "generate" or not asked.include_usage:
        return []
    told: dict[str, Any] = {"spec_tokens_details": {"spec_verify_ct": verify_steps}} if asked.wants_steps else {}
    told |= {"cached_tokens_details": cached.details} if asked.wants_places and cached.device + cached.host else {}
    last = {**_envelope(asked, id_, False), "choices": [], "usage": _usage(asked, emitted, cached)}
    return [{**last, "sglext": told} if told else last]


def _envelope(asked: Asked, id_: str, whole: bool) -> dict[str, Any]:
    chat = "chat.completion" if whole else "chat.completion.chunk"
    return {
        "id": id_,
        "object": "text_completion" if asked.endpoint == "completions" else chat,
        "created": int(time.time()),
        "model": asked.model,
    }


def _usage(asked: Asked, emitted: int, cached: Cached) -> dict[str, Any]:
    """As SGLang counts: a cached count of 0 is left out."""
    n = cached.device + cached.host
    details = {"prompt_tokens_details": {"cached_tokens": n} if n else None} if cached.is_reported else {}
    return {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens + emitted, "completion_tokens": emitted, **details}
