"""The server-sent events of a body, and what each contains. Pure: takes bytes, returns events and the positions where they end.

Comments, heartbeats and named events that are not answers are ignored. Errors are recognised in every form that servers use. Values of a
wrong type are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from .errors_told import UNREADABLE, error_words, json_number

DONE, DONE_EVENT = b"[DONE]", b'{"glm5bench_done":true}'
PLAIN_START, PLAIN_DONE = b"\n\ndata: {", b"\n\ndata: [DONE]\n\n"
LINE_END = re.compile(rb"\r\n|\n|\r")
MOST_COUNT = 2**31
OF_META = ("cached_tokens", "cached_tokens_details", "reasoning_tokens", "finish_reason", "spec_verify_ct")
HEARTBEATS = ("ping", "heartbeat", "keepalive", "keep-alive", "keep_alive", "comment")  # names of events, or their whole data

Count = Annotated[int, msgspec.Meta(ge=0, lt=MOST_COUNT)]


class Delta(msgspec.Struct, gc=False):
    """The text that a chunk of a chat adds. Engines use either name for the text of reasoning."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class PromptDetails(msgspec.Struct, gc=False):
    """How many tokens of the prompt were in a prefix cache."""

    cached_tokens: Count | None = None


class AnswerDetails(msgspec.Struct, gc=False):
    """How many tokens of the answer are reasoning."""

    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens so far, according to the server."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: AnswerDetails | None = None
    reasoning_tokens: Count | None = None  # as SGLang states them


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk: `text` of completions, `delta` of chat. Some servers put the usage inside it."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class Meta(msgspec.Struct, gc=False):
    """Counts of SGLang's /generate, on every chunk."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Any = None
    cached_tokens_details: Any = None
    reasoning_tokens: Any = None
    finish_reason: Any = None
    spec_verify_ct: Any = None


class Event(msgspec.Struct, gc=False):
    """The fields of an event that are read. The parser skips the rest, which saves most of its time. `glm5bench_done`: it was [DONE]."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    meta_info: Meta | None = None
    text: msgspec.Raw | None = None  # of /generate: cumulative
    sglext: Any = None  # of SGLang's OpenAI routes: speculation, if requested
    error: Any = None
    glm5bench_done: bool = False


EVENTS = msgspec.json.Decoder(list[Event])


@dataclass
class Events:
    """The events of a body. `contents`: None for an event that cannot be read; `ends`: where each ends in the body, in bytes, (E,).

    `data` returns the unparsed data of the event at an index. `passed_over`: the name of an event that was ignored.
    """

    contents: list[Event | None]
    ends: npt.NDArray[np.int64]
    data: Callable[[int], bytes]
    passed_over: str = ""


def events_of(body: bytes) -> Events:
    """The events that are answers, failures or the end."""
    plain = _plain_events(body)
    if plain is not None:
        return plain
    found = _events(body)
    return Events(_decoded_events(found.data), np.array(found.ends, dtype=np.int64), found.data.__getitem__, found.passed_over)


@dataclass
class _Found:
    """The data of each whole event, and where in the body it ends. `passed_over`: the name of an event that was ignored."""

    data: list[bytes]
    ends: list[int]
    passed_over: str = ""


def _plain_events(body: bytes) -> Events | None:
    """The events of a whole body in the form that most servers send, and where each ends; None for any other form.

    The result is that of `_events` and `_decoded_events`, without a Python object for each event.
    """
    if not (body.startswith(b"data: {") and body.endswith(b"\n\n")) or b"\r" in body:
        return None
    is_done = body.endswith(PLAIN_DONE)
    n = body.count(PLAIN_START) + 1
    ends: npt.NDArray[np.int64] = np.flatnonzero(np.frombuffer(body, dtype=np.uint8) == ord("\n"))
    if len(ends) != 2 * (n + is_done):  # two line ends after every event, and no others
        return None
    joined = body[6 : -len(PLAIN_DONE) if is_done else -2].replace(PLAIN_START, b",{")
    try:
        events: list[Event | None] = EVENTS.decode(b"[" + joined + b"]")  # type: ignore[assignment]  # a list of events is one of events or None
    except UNREADABLE:
        return None
    if len(events) != n:
        return None
    after = ends[1::2] + 1
    contents = [*events, Event(glm5bench_done=True)] if is_done else events
    return Events(contents, after, lambda place: body[after[place - 1] if place else 0 : after[place]].strip()[5:].strip())


def _events(body: bytes) -> _Found:
    """The data of the events of any body. Comments, heartbeats and other fields are ignored."""
    if b"\r" in body:
        return _kept(_blocks_of_any_line_end(body))
    blocks = body.split(b"\n\n")
    if blocks[-1].strip() in (b"data: [DONE]", b"data:[DONE]"):  # the last event may have no empty line after it
        blocks.append(b"")
    ends = list(accumulate(len(block) + 2 for block in blocks[:-1]))
    ends[-1:] = [min(ends[-1], len(body))] if ends else []
    del blocks[-1]  # unfinished
    if all(block[:5] == b"data:" and b"\n" not in block for block in blocks):
        data = [block[5:].strip() for block in blocks]
        if all(each[:1] == b"{" or each == DONE for each in data):
            return _Found(data, ends)
        return _kept([([b"data:" + each], end) for each, end in zip(data, ends, strict=True)])
    return _kept([(block.split(b"\n"), end) for block, end in zip(blocks, ends, strict=True)])


def _blocks_of_any_line_end(body: bytes) -> list[tuple[list[bytes], int]]:
    blocks: list[tuple[list[bytes], int]] = []
    lines: list[bytes] = []
    start = 0
    for match in LINE_END.finditer(body):
        line = body[start : match.start()]
        start = match.end()
        if line:
            lines.append(line)
        elif lines:
            blocks.append((lines, start))
            lines = []
    return blocks


def _kept(blocks: Sequence[tuple[list[bytes], int]]) -> _Found:
    """The events that are answers, failures or the end."""
    found = _Found([], [])
    for i, (raw, end) in enumerate(blocks):
        lines = [raw[0].removeprefix(b"\xef\xbb\xbf"), *raw[1:]] if i == 0 else raw
        name = next((line[6:].strip() for line in lines if line.startswith(b"event:")), b"").decode("utf-8", "replace").lower()
        data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
        if name == "error":
            words = data or b" ".join(line[1:].strip() for line in lines if line.startswith(b":"))  # Dynamo puts them in a comment
            data = _error_event(words)
        elif name in HEARTBEATS or (name not in ("", "message") and not _is_answer(data)):
            found.passed_over = name
            continue
        elif not data and not name and lines[0].startswith(b"{"):  # an error that is not in the form of an event
            data = _bare_error(b"\n".join(lines))
        if not _is_heartbeat(data):
            found.data.append(data)
            found.ends.append(end)
    return found


def _bare_error(block: bytes) -> bytes:
    """The block if it is a JSON error without `data:` before it; else empty."""
    try:
        told = json.loads(block)
    except UNREADABLE:
        return b""
    return json.dumps(told).encode() if isinstance(told, dict) and error_words(told) else b""


def _is_heartbeat(data: bytes) -> bool:
    word = data.strip(b"\"' ").decode("utf-8", "replace").lower()
    return word in ("", "null") or word.strip("[]") in HEARTBEATS


def _error_event(words: bytes) -> bytes:
    """The data of an event named `error` as an error event, in any form that servers use."""
    try:
        told = json.loads(words)
    except UNREADABLE:
        told = words.decode("utf-8", "replace")
    if isinstance(told, dict) and told.get("error"):
        return words
    return json.dumps({"error": told or "the server sent an event named 'error'"}).encode()


def _is_answer(data: bytes) -> bool:
    event = _decoded_event(data)
    return event is not None and bool(event.choices or event.meta_info or event.usage or event.error or event.glm5bench_done)


def _decoded_events(events: list[bytes]) -> list[Event | None]:
    """What each event contains; None if it cannot be read. Decodes all at once in a third of the time, or one by one if that fails."""
    try:
        decoded_ = EVENTS.decode(b"[" + b",".join(DONE_EVENT if event == DONE else event for event in events) + b"]")
    except UNREADABLE:
        decoded_ = []
    if len(decoded_) == len(events) and all(event[:1] == b"{" or event == DONE for event in events):
        return decoded_  # type: ignore[return-value]  # a list of events is one of events or None
    return [_decoded_event(event) for event in events]


def _decoded_event(event: bytes) -> Event | None:
    try:
        text = (DONE_EVENT if event == DONE else event).decode("utf-8", "replace")  # a character may be incomplete
        told = json.loads(text, parse_int=json_number)  # not strictly JSON: servers in Python write NaN and Infinity
        if isinstance(told, dict):
            streamed = told.pop("text", None)
            for name, kind in (("usage", Usage), ("meta_info", Meta)):
                if name in told:
                    told[name] = _counts(told[name], kind)
            for choice in told.get("choices") or () if isinstance(told.get("choices"), list) else ():
                if isinstance(choice, dict):
                    _simplify(choice)
            if (made := msgspec.convert(told, Event)) is not None:
                made.text = msgspec.Raw(json.dumps(streamed).encode()) if isinstance(streamed, str) else None
                return made
    except UNREADABLE:
        pass
    return None


def _simplify(choice: dict[str, Any]) -> None:
    """Replaces texts in lists or objects of parts by plain texts, and the usage of a choice by counts."""
    if "usage" in choice:
        choice["usage"] = _counts(choice["usage"], Usage)
    delta = choice.get("delta")
    if isinstance(delta, dict):
        odd = [name for name in ("content", "reasoning_content", "reasoning") if not isinstance(delta.get(name), str | None)]
        delta.update({name: _plain_text(delta[name]) for name in odd})


def _plain_text(parts: Any) -> str:
    """The text of parts: [{"type": "text", "text": "a"}], {"content": "a"}."""
    if isinstance(parts, list):
        return "".join(_plain_text(part) for part in parts)
    if isinstance(parts, dict):
        return _plain_text(parts.get("text") or parts.get("content") or "")
    return parts if isinstance(parts, str) else ""


def _counts(told: Any, kind: type[Usage | Meta]) -> dict[str, Any] | None:
    """The readable counts of a usage object. Other values are left out; the result is None or empty if it is not an object."""
    if not isinstance(told, dict):
        return {} if kind is Meta else None
    found = {name: count_in(told.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    if kind is Meta:
        return found | {name: told.get(name) for name in OF_META}
    found["reasoning_tokens"] = count_in(told.get("reasoning_tokens"))
    details = (("prompt_tokens_details", "cached_tokens"), ("completion_tokens_details", "reasoning_tokens"))
    each = {of: told[of] for of, _ in details if isinstance(told.get(of), dict)}
    return found | {of: {name: count_in(each[of].get(name))} for of, name in details if of in each}


def count_in(told: Any) -> int | None:
    """A count of tokens; None for any other value. Some servers write 8.0 or "8"."""
    if isinstance(told, str) and told.isdigit() and len(told) < 11:
        told = int(told)
    if isinstance(told, float) and told.is_integer():
        told = int(told)
    return told if type(told) is int and 0 <= told < MOST_COUNT else None
