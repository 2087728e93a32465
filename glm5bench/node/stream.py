"""What a streamed answer held: parsed after the clock has stopped, from bytes and the times at which they arrived. Pure.

A server-sent event counts at the arrival of the bytes that complete it. An answer is whole when its tokens, its finish reason and
its end agree; anything else names what is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = -1
LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass
class Answer:
    """One parsed stream. `chunks` are (arrival in ns, tokens or UNKNOWN) of events that carry tokens."""

    chunks: list[tuple[int, int]] = field(default_factory=list)
    prompt_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    finish_reason: str = ""
    is_done: bool = False
    error: str = ""


def parsed(pieces: Iterable[tuple[int, bytes]]) -> Answer:
    """The answer in a response body that arrived in these pieces: (arrival in ns, bytes), cut anywhere."""
    answer = Answer()
    for at, data in _events(pieces):
        if data == "[DONE]":
            answer.is_done = True
            continue
        try:
            _take(answer, at, json.loads(data))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            answer.error = answer.error or f"unreadable event: {data[:80]!r}"
    return answer


def fault(answer: Answer) -> str:
    """What is wrong with the answer, in a few words; empty for a whole one."""
    if answer.error:
        return answer.error
    if not answer.chunks:
        return "no token came"
    if not answer.finish_reason:
        return "cut short: no finish reason"
    if answer.finish_reason == "abort":
        return "cut short: the server aborted it"
    if not answer.is_done:
        return "cut short: no [DONE]"
    return "" if answer.output_tokens >= 0 else "the server gave no token count"


def _events(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    """The `data` of each event with its arrival. Lines end in LF, CRLF or CR; comments and other fields are passed over."""
    rest, at = b"", 0
    lines: list[str] = []
    for at, piece in pieces:
        text = rest + piece
        held = text[-1:] if text.endswith(b"\r") else b""  # perhaps the first half of a CRLF
        *whole, rest = LINE_END.split(text[: len(text) - len(held)])
        rest += held
        for line in whole:
            if line.startswith(b"data:"):
                lines.append(line[5:].strip().decode("utf-8", "replace"))
            elif not line and lines:
                yield at, "\n".join(lines)
                lines = []
    if rest == b"\r" and lines:
        yield at, "\n".join(lines)


def _take(answer: Answer, at: int, event: dict[str, Any]) -> None:
    if event.get("error") or event.get("object") == "error":
        error = event.get("error") or event
        answer.error = str(error.get("message", error) if isinstance(error, dict) else error)[:200]
        return
    if "meta_info" in event:
        _take_generated(answer, at, event["meta_info"])
        return
    before = max(0, answer.output_tokens)
    is_counted = answer.output_tokens >= 0 or not answer.chunks  # counts that begin in mid-stream say nothing of one chunk
    usage = event.get("usage")
    if usage:
        answer.prompt_tokens = int(usage["prompt_tokens"])
        answer.output_tokens = int(usage.get("completion_tokens") or 0)
    for choice in event.get("choices") or []:
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        gained = answer.output_tokens - before if usage and is_counted else UNKNOWN
        if gained > 0 or (gained == UNKNOWN and _carries_text(choice)):
            answer.chunks.append((at, gained))


def _take_generated(answer: Answer, at: int, meta: dict[str, Any]) -> None:
    """SGLang's /generate: text and counts are cumulative, and every chunk has both."""
    before, answer.output_tokens = max(0, answer.output_tokens), int(meta["completion_tokens"])
    answer.prompt_tokens = int(meta["prompt_tokens"])
    reason = meta.get("finish_reason")
    answer.finish_reason = str(reason["type"]) if reason else answer.finish_reason
    if answer.output_tokens > before:
        answer.chunks.append((at, answer.output_tokens - before))


def _carries_text(choice: dict[str, Any]) -> bool:
    """Without counts: completions chunks carry tokens even where their text is unfinished; chat's role chunk carries none."""
    if "text" in choice:
        return bool(choice["text"]) or not choice.get("finish_reason")
    delta = choice.get("delta") or {}
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls"))
