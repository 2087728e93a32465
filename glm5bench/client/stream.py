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
from typing import Annotated, Any

import msgspec
import numpy as np

from .exchange import Body

UNKNOWN = -1
DONE, DONE_EVENT = b"[DONE]", b'{"glm5bench_done":true}'
LINE_END = re.compile(rb"\r\n|\n|\r")
WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Delta(msgspec.Struct, gc=False):
    """What a chunk of a chat adds. Engines call what a model thinks by either name."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk: `text` of completions, `delta` of chat."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens so far, as the server counts them."""

    prompt_tokens: Count
    completion_tokens: Count | None = None


class Meta(msgspec.Struct, gc=False):
    """Of SGLang's /generate: on every chunk."""

    prompt_tokens: Count
    completion_tokens: Count
    finish_reason: dict[str, Any] | None = None
    spec_verify_ct: Any = None


class Event(msgspec.Struct, gc=False):
    """What of an event is read; the rest is skipped, which is most of what it costs to parse one. `glm5bench_done`: it was [DONE]."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    meta_info: Meta | None = None
    sglext: Any = None  # of SGLang's OpenAI routes: what it tells of speculation, where it was asked
    error: Any = None
    object: str | None = None
    message: Any = None
    glm5bench_done: bool = False


EVENTS = msgspec.json.Decoder(list[Event])


@dataclass
class Answer:
    """One parsed stream. `at` and `tokens`: of the events that carry tokens, arrival in ns, and how many or UNKNOWN."""

    at: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    verify_steps: int = UNKNOWN
    finish_reason: str = ""
    is_done: bool = False
    error: str = ""

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """(arrival in ns, tokens or UNKNOWN) of the events that carry tokens."""
        return list(zip(self.at, self.tokens, strict=True))


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
    carrying: list[int] = []
    for i, event in enumerate(_decoded_events(events)):
        if event is None:
            answer.error = answer.error or f"unreadable: event {events[i][:80].decode('utf-8', 'replace')!r}"
        elif tokens := _taken(answer, event):
            carrying.append(i)
            answer.tokens.append(tokens)
    if carrying:
        cuts, at = (np.frombuffer(column, dtype=np.int64) for column in (body.cuts, body.at))
        answer.at = at[np.searchsorted(cuts, np.array(ends)[carrying])].tolist()
    return answer


def _decoded_events(events: list[bytes]) -> list[Event | None]:
    """What each event holds, None where it cannot be read. All at once, which costs a third; each by itself where that fails."""
    try:
        decoded_ = EVENTS.decode(b"[" + b",".join(DONE_EVENT if event == DONE else event for event in events) + b"]")
    except (ValueError, RecursionError):
        decoded_ = []
    if len(decoded_) == len(events) and all(event[:1] == b"{" or event == DONE for event in events):
        return decoded_  # type: ignore[return-value]  # a list of events is one of events or None
    return [_decoded_event(event) for event in events]


def _decoded_event(event: bytes) -> Event | None:
    try:
        told = json.loads(DONE_EVENT if event == DONE else event)  # not strictly JSON: servers in Python write NaN and Infinity
        return msgspec.convert(told, Event)
    except (ValueError, RecursionError):
        return None


def fault(answer: Answer, asked_tokens: int | None = None, *, is_framed: bool = True) -> str:
    """What is wrong with the answer, its class before the colon; empty for a whole one.

    `is_framed`: HTTP itself said that the body is whole, so that its end needs no [DONE] (transformers sends none).
    """
    if answer.error:
        return answer.error
    if not answer.tokens:
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
    ends = list(accumulate(len(block) + 2 for block in blocks[:-1]))
    del blocks[-1]  # never ended
    if all(block[:5] == b"data:" and b"\n" not in block for block in blocks):
        return [block[5:].strip() for block in blocks], ends
    found = [(data, end) for block, end in zip(blocks, ends, strict=True) if (data := _data(block.split(b"\n"))) is not None]
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


def _taken(answer: Answer, event: Event) -> int:
    """Takes an event into the answer, and returns how many tokens it carries: UNKNOWN where it has some and nobody says how many."""
    if event.glm5bench_done:
        answer.is_done = True
        return 0
    if event.error or event.object == "error":
        error = event.error or event.message
        answer.error = "error: " + str(error.get("message", error) if isinstance(error, dict) else error)[:200]
        return 0
    if event.meta_info is not None:
        return _taken_of_generate(answer, event.meta_info)
    if isinstance(event.sglext, dict) and isinstance(told := event.sglext.get("spec_tokens_details"), dict):
        answer.verify_steps = _steps(told.get("spec_verify_ct"), answer.verify_steps)
    before, usage = answer.output_tokens, event.usage
    if usage is not None:
        answer.prompt_tokens, answer.output_tokens = usage.prompt_tokens, usage.completion_tokens or 0
    is_counted = usage is not None and (before >= 0 or not answer.tokens)  # counts that begin in mid-stream say nothing of one chunk
    gained = answer.output_tokens - max(0, before) if is_counted else UNKNOWN
    carries = 0
    for choice in event.choices or ():
        answer.finish_reason = choice.finish_reason or answer.finish_reason
        if gained > 0 or (gained == UNKNOWN and _carries_text(choice)):
            carries = gained
    return carries


def _steps(told: Any, before: int) -> int:
    """Verify steps as a server tells them; a side figure that is none spoils no answer."""
    return told if type(told) is int and 0 <= told < 2**31 else before


def _taken_of_generate(answer: Answer, meta: Meta) -> int:
    """SGLang's /generate: text and counts are cumulative, and every chunk has both."""
    before, answer.output_tokens = max(0, answer.output_tokens), meta.completion_tokens
    answer.prompt_tokens = meta.prompt_tokens
    answer.verify_steps = _steps(meta.spec_verify_ct, answer.verify_steps)
    answer.finish_reason = str(meta.finish_reason.get("type", "")) if meta.finish_reason else answer.finish_reason
    return max(0, answer.output_tokens - before)


def _carries_text(choice: Choice) -> bool:
    """Without counts: completions chunks carry tokens even where their text is unfinished; chat's role chunk carries none."""
    if choice.text is not None:
        return bool(choice.text) or not choice.finish_reason
    delta = choice.delta
    return delta is not None and bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)
