"""The bytes of a stream of OpenAI's completions or chat completions in vLLM's format, framed for HTTP's chunked encoding.

Enters: a request's body and number. Leaves: bytes that are ready to send, one event each. The text of the first token is ` r<number>`,
every other one is ` tok`. The module uses no socket, and uses the clock only for `created`.
"""

from __future__ import annotations

import json
import time
from typing import Any


class Chunks:
    """The answer to one request, piece by piece."""

    def __init__(self, number: int, body: dict[str, Any], *, is_chat: bool) -> None:
        self.number, self.is_chat = number, is_chat
        self.prompt = body["messages"] if is_chat else body["prompt"]
        is_ids = isinstance(self.prompt, list) and not is_chat
        self.prompt_tokens = len(self.prompt if is_ids else str(self.prompt).split())
        self.tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        options = body.get("stream_options") or {}
        self.usage = bool(options.get("include_usage"))
        self.continuous = self.usage and bool(options.get("continuous_usage_stats"))
        kind, id_ = ("chat.completion.chunk", f"chatcmpl-{number:032x}") if is_chat else ("text_completion", f"cmpl-{number:032x}")
        self._envelope = {"id": id_, "object": kind, "created": int(time.time()), "model": str(body.get("model", "truth"))}

    def chunk(self, tokens: int, left: int, *, is_first: bool) -> bytes:
        """The event with the next tokens. `left`: how many tokens follow it."""
        text = f" r{self.number}" + " tok" * (tokens - 1) if is_first else " tok" * tokens
        choice = {"index": 0, **({"delta": {"content": text}} if self.is_chat else {"text": text}), "logprobs": None}
        choice |= {"finish_reason": None if left else "length", "stop_reason": None}
        choice |= {} if self.is_chat else {"prompt_token_ids": None, "token_ids": None}
        return self._event({"choices": [choice], **({"usage": self._usage(left)} if self.continuous else {})})

    def role(self) -> bytes:
        """The event before the first token of a chat."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return self._event({"choices": [choice], **({"usage": self._usage(self.tokens)} if self.continuous else {})})

    def ending(self) -> bytes:
        """The bytes after the last token."""
        usage = self._event({"choices": [], "usage": self._usage(0)}) if self.usage else b""
        return usage + _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def whole(self) -> bytes:
        """The body of the answer to a request without streaming."""
        text = " tok" * self.tokens
        spoken = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return as_json({**self._envelope, "choices": [{"index": 0, **spoken, "finish_reason": "length"}], "usage": self._usage(0)})

    def _event(self, more: dict[str, Any]) -> bytes:
        return _frame(b"data: " + as_json({**self._envelope, **more}) + b"\n\n")

    def _usage(self, left: int) -> dict[str, int]:
        done = self.tokens - left
        return {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens + done, "completion_tokens": done}


def as_json(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
