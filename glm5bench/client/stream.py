"""What a streamed answer held: parsed after the clock has stopped, from bytes and the times at which they arrived. Pure.

A server-sent event counts at the arrival of the byte that completes it, wherever packets were cut. An answer is whole when its token
count, its finish reason and its end agree; anything else names what is missing, its class before the colon.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import orjson

from .exchange import Body

UNKNOWN = -1
LINE_END = re.compile(rb"\r\n|\n|\r")
WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib


@dataclass
class Answer:
    """One parsed stream. `chunks` are (arrival in ns, tokens or UNKNOWN) of events that carry tokens."""

    chunks: list[tuple[int, int]] = field(default_factory=list)
    prompt_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    finish_reason: str = ""
    is_done: bool = False
    error: str = ""


def parsed(body: Body) -> Answer:
    """The answer in a response body that arrived in pieces, cut anywhere."""
    answer = Answer()
    if body.encoding not in ("", "identity"):
        try:
            body = decoded(body)
        except (zlib.error, KeyError) as error:
            answer.error = f"unreadable: the body is no {body.encoding}: {error}"
            return answer
    events, ends = _events(body.data)
    arrivals = np.frombuffer(body.at, dtype=np.int64)[np.searchsorted(np.frombuffer(body.cuts, dtype=np.int64), ends)].tolist()
    for data, at in zip(events, arrivals, strict=True):
        if data == b"[DONE]":
            answer.is_done = True
            continue
        try:
            _take(answer, at, _loads(data))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            answer.error = answer.error or f"unreadable: event {data[:80].decode('utf-8', 'replace')!r}"
    return answer


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)  # NaN and Infinity, which servers in Python write


def fault(answer: Answer, asked_tokens: int | None = None, *, is_framed: bool = True) -> str:
    """What is wrong with the answer, its class before the colon; empty for a whole one.

    `is_framed`: HTTP itself said that the body is whole, so that its end needs no [DONE] (transformers sends none).
    """
    if answer.error:
        return answer.error
    if not answer.chunks:
        return "empty: no token came"
    if not answer.finish_reason:
        return "cut short: no finish reason"
    if answer.finish_reason == "abort":
        return "cut short: the server aborted it"
    if not answer.is_done and not is_framed:
        return "cut short: no [DONE]"
    if answer.output_tokens < 0:
        return "uncounted: the server gave no token count"
    if asked_tokens is not None and answer.finish_reason == "length" and answer.output_tokens < asked_tokens:
        return f"cut short: finished by length after {answer.output_tokens} of {asked_tokens} tokens"
    return ""


def decoded(body: Body) -> Body:
    """The body without its content encoding: what each piece added is taken to have arrived with it. Raises zlib.error, KeyError."""
    decoder = zlib.decompressobj(WBITS[body.encoding])
    return Body.of((at, decoder.decompress(piece)) for at, piece in body.pieces)


def _events(body: bytes) -> tuple[list[bytes], list[int]]:
    """The data of each whole event, and where in the body it ends. Comments and other fields are passed over."""
    if b"\r" in body:
        return _events_of_any_line_end(body)
    blocks = body.split(b"\n\n")
    ends = accumulate(len(block) + 2 for block in blocks)
    found = [(data, end) for block, end in zip(blocks[:-1], ends, strict=False) if (data := _data(block.split(b"\n"))) is not None]
    return [data for data, _ in found], [end for _, end in found]


def _events_of_any_line_end(body: bytes) -> tuple[list[bytes], list[int]]:
    events, ends, lines, start = [], [], [], 0
    for match in LINE_END.finditer(body):
        line = body[start : match.start()]
        start = match.end()
        if line:
            lines.append(line)
            continue
        data = _data(lines)
        lines = []
        if data is not None:
            events.append(data)
            ends.append(start)
    return events, ends


def _data(lines: list[bytes]) -> bytes | None:
    """The data of an event's lines, None where it has none."""
    if len(lines) == 1:
        return lines[0][5:].strip() if lines[0].startswith(b"data:") else None
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return b"\n".join(data) if data else None


def _take(answer: Answer, at: int, event: dict[str, Any]) -> None:
    if event.get("error") or event.get("object") == "error":
        error = event.get("error") or event
        answer.error = "error: " + str(error.get("message", error) if isinstance(error, dict) else error)[:200]
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
