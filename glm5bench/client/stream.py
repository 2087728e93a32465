"""What a streamed answer contains, parsed after the clock has stopped, from bytes and the times at which they arrived. Pure.

A server-sent event counts at the arrival of its last byte, wherever packets were cut. Text that arrives is the arrival of a token. Token
counts of a server are used for chunks only if they agree with the text. An answer is whole if its token count, its finish reason and its
end are there; otherwise the fault names what is missing, its class before the colon.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from .exchange import Body

UNKNOWN = -1
DONE, DONE_EVENT = b"[DONE]", b'{"glm5bench_done":true}'
PLAIN_START, PLAIN_DONE = b"\n\ndata: {", b"\n\ndata: [DONE]\n\n"
LINE_END = re.compile(rb"\r\n|\n|\r")
WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib
MOST_COUNT = 2**31
UNREADABLE = (ValueError, RecursionError, msgspec.MsgspecError)  # before msgspec 0.21 its errors were no ValueError
HEARTBEATS = ("ping", "heartbeat", "keepalive", "keep-alive", "keep_alive", "comment")  # names of events, or their whole data
QUOTED = 200  # characters of what a server says

Count = Annotated[int, msgspec.Meta(ge=0, lt=MOST_COUNT)]


class Delta(msgspec.Struct, gc=False):
    """What a chunk of a chat adds. Engines call what a model thinks by either name."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class PromptDetails(msgspec.Struct, gc=False):
    """How many tokens of the prompt a prefix cache had."""

    cached_tokens: Count | None = None


class AnswerDetails(msgspec.Struct, gc=False):
    """How many tokens of the answer were thought."""

    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens so far, according to the server."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: AnswerDetails | None = None
    reasoning_tokens: Count | None = None  # as SGLang states them


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk: `text` of completions, `delta` of chat. Some servers state the usage inside of it."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class Meta(msgspec.Struct, gc=False):
    """Counts of SGLang's /generate, on every chunk."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Any = None
    reasoning_tokens: Any = None
    finish_reason: Any = None
    spec_verify_ct: Any = None


class Event(msgspec.Struct, gc=False):
    """The fields of an event that are read. The parser skips the rest, which saves most of its time. `glm5bench_done`: it was [DONE]."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    meta_info: Meta | None = None
    text: msgspec.Raw | None = None  # of /generate: cumulative
    sglext: Any = None  # of SGLang's OpenAI routes: speculation, if it was asked for
    error: Any = None
    glm5bench_done: bool = False


EVENTS = msgspec.json.Decoder(list[Event])


@dataclass
class Answer:
    """One parsed stream. `at` and `tokens`: of the events that carry tokens, arrival in ns, and how many or UNKNOWN.

    `cached_tokens`: of the prompt, from a prefix cache. `hidden_tokens`: of the answer, counted by the server but not streamed.
    `first_tokens`: in the first chunk, estimated from its share of the text if the server does not count each chunk.
    """

    at: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    verify_steps: int = UNKNOWN
    cached_tokens: int = UNKNOWN
    hidden_tokens: int = UNKNOWN
    first_tokens: int = UNKNOWN
    finish_reason: str = ""
    is_done: bool = False
    error: str = ""
    passed_over: str = ""  # name of a named event that was ignored

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """(arrival in ns, tokens or UNKNOWN) of the events that carry tokens."""
        return list(zip(self.at, self.tokens, strict=True))


def parsed(body: Body, most_bytes: int | None = None) -> Answer:
    """The answer in a response body that arrived in pieces, cut anywhere. `most_bytes`: of the body without its content encoding."""
    answer = Answer()
    if body.encoding not in ("", "identity"):
        try:
            body = decoded(body, most_bytes)
        except (zlib.error, KeyError) as error:
            answer.error = f"unreadable: the body is no {body.encoding}: {error}"
            return answer
        except OverflowError as error:
            answer.error = f"too large: {error}"
            return answer
    plain = _plain_events(body.data)
    if plain is not None:
        events, ends = plain
        carrying = _read(answer, events, lambda place: body.data[ends[place - 1] if place else 0 : ends[place]].strip()[5:])
    else:
        found = _events(body.data)
        answer.passed_over, ends = found.passed_over, np.array(found.ends)
        if not found.data:
            answer.error = _unstreamed(body.data)
            return answer
        carrying = _read(answer, _decoded_events(found.data), found.data.__getitem__)
    if carrying:
        cuts, at = (np.frombuffer(column, dtype=np.int64) for column in (body.cuts, body.at))
        answer.at = at[np.searchsorted(cuts, ends[carrying])].tolist()
    return answer


def last_token_ns(body: Body, most_bytes: int | None = None) -> int:
    """Arrival of the last token in a body that may still be growing; UNKNOWN if there is none."""
    at = parsed(body, most_bytes).at
    return at[-1] if at else UNKNOWN


def fault(answer: Answer, asked_tokens: int | None = None, *, is_framed: bool = True) -> str:
    """What is wrong with the answer, its class before the colon; empty for a whole one.

    `is_framed`: HTTP itself said that the body is whole, so that its end needs no [DONE] (transformers sends none).
    """
    if answer.error:
        return answer.error
    if not answer.tokens:
        return "empty: no token came" + (f"; events named {answer.passed_over!r} were ignored" if answer.passed_over else "")
    if not answer.finish_reason:
        return "cut short: no finish reason"
    if answer.finish_reason == "abort":
        return "cut short: the server aborted it"
    if answer.finish_reason == "error":
        return "error: the server ended the answer with finish_reason 'error'"
    if not answer.is_done and not is_framed:
        return "cut short: no [DONE]"
    if answer.output_tokens < 0:
        return "uncounted: the server gave no token count"
    if answer.output_tokens < len(answer.tokens) and answer.output_tokens != asked_tokens:
        return f"uncounted: the server counted {answer.output_tokens} tokens in {len(answer.tokens)} chunks with text"
    if asked_tokens is not None and answer.finish_reason == "length" and answer.output_tokens < asked_tokens:
        return f"cut short: finished by length after {answer.output_tokens} of {asked_tokens} tokens"
    return ""


def decoded(body: Body, most_bytes: int | None = None) -> Body:
    """The body without its content encoding. What each piece adds is taken to have arrived with it.

    Raises zlib.error, KeyError for an unknown encoding, and OverflowError for more than `most_bytes`.
    """
    decoder, pieces, left = zlib.decompressobj(WBITS[body.encoding]), [], most_bytes
    for at, piece in body.pieces:
        plain = decoder.decompress(piece, left + 1 if left is not None else 0)
        if left is not None:
            left -= len(plain)
            if left < 0:
                raise OverflowError(f"the answer has more than {most_bytes:,} bytes when it is decompressed")
        pieces.append((at, plain))
    return Body.of(pieces)


# events


@dataclass
class _Found:
    """The data of each whole event, and where in the body it ends. `passed_over`: the name of an event that was ignored."""

    data: list[bytes]
    ends: list[int]
    passed_over: str = ""


def _plain_events(body: bytes) -> tuple[list[Event | None], npt.NDArray[np.int64]] | None:
    """The events of a whole body in the form that most servers send, and where each ends; None for any other form.

    It gives what `_events` and `_decoded_events` give, without an object of Python's for each event.
    """
    if not (body.startswith(b"data: {") and body.endswith(b"\n\n")) or b"\r" in body:
        return None
    is_done = body.endswith(PLAIN_DONE)
    n = body.count(PLAIN_START) + 1
    ends: npt.NDArray[np.int64] = np.flatnonzero(np.frombuffer(body, dtype=np.uint8) == ord("\n"))
    if len(ends) != 2 * (n + is_done):  # two after every event, and no others
        return None
    joined = body[6 : -len(PLAIN_DONE) if is_done else -2].replace(PLAIN_START, b",{")
    try:
        events: list[Event | None] = EVENTS.decode(b"[" + joined + b"]")  # type: ignore[assignment]  # a list of events is one of events or None
    except UNREADABLE:
        return None
    if len(events) != n:
        return None
    return [*events, *([Event(glm5bench_done=True)] if is_done else [])], ends[1::2] + 1


def _events(body: bytes) -> _Found:
    """Comments, heartbeats and other fields are ignored."""
    if b"\r" in body:
        return _kept(_blocks_of_any_line_end(body))
    blocks = body.split(b"\n\n")
    if blocks[-1].strip() in (b"data: [DONE]", b"data:[DONE]"):  # a server that ends with it need not end its line twice
        blocks.append(b"")
    ends = list(accumulate(len(block) + 2 for block in blocks[:-1]))
    ends[-1:] = [min(ends[-1], len(body))] if ends else []
    del blocks[-1]  # never ended
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
        elif not data and not name and lines[0].startswith(b"{"):  # an error that was written past the stream's own form
            data = _bare_error(b"\n".join(lines))
        if not _is_heartbeat(data):
            found.data.append(data)
            found.ends.append(end)
    return found


def _bare_error(block: bytes) -> bytes:
    """The block, if it is an error as JSON, without `data:` before it."""
    try:
        told = json.loads(block)
    except UNREADABLE:
        return b""
    return json.dumps(told).encode() if isinstance(told, dict) and _error_words(told) else b""


def _is_heartbeat(data: bytes) -> bool:
    word = data.strip(b"\"' ").decode("utf-8", "replace").lower()
    return word in ("", "null") or word.strip("[]") in HEARTBEATS


def _error_event(words: bytes) -> bytes:
    """The data of an event named `error` as an error event, however the server writes it."""
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


def _unstreamed(body: bytes) -> str:
    """What a body without any event is: nothing, an error in the server's words, or an answer that was not streamed."""
    text = body.strip()
    if all(line.partition(b":")[0].strip() in (b"", b"event", b"id", b"retry", b"data") for line in text.splitlines()):
        return ""  # nothing, comments, or events that never ended
    quoted = _printed(text[: 4 * QUOTED].decode("utf-8", "replace"))
    try:
        told = json.loads(text)
    except UNREADABLE:
        return f"not streamed: the body contains no event: {quoted}"
    if isinstance(told, dict) and (words := _error_words(told)):
        return f"error: {words}"
    return f"not streamed: the answer came as one JSON value: {quoted}"


def _printed(text: str) -> str:
    return " ".join(text.split())[:QUOTED]


def _error_words(told: dict[str, Any]) -> str:
    """What a JSON object says that went wrong; empty for one that is no error."""
    error = told.get("error") or told.get("detail")
    if not error and (told.get("object") == "error" or told.get("type") == "error" or _is_error_code(told.get("code"))):
        error = told.get("message")
    if isinstance(error, dict):
        error = error.get("message") or error
    return _printed(error if isinstance(error, str) else json.dumps(error, default=str)) if error else ""


def _is_error_code(code: Any) -> bool:
    """Whether a code is one of an error: 0 and 200 are said of success."""
    return (type(code) is int and (code >= 400 or code < 0)) or (isinstance(code, str) and bool(code) and not code.isdigit())


# what events contain


def _decoded_events(events: list[bytes]) -> list[Event | None]:
    """What each event contains, None if it cannot be read. All at once, which costs a third; each by itself if that fails."""
    try:
        decoded_ = EVENTS.decode(b"[" + b",".join(DONE_EVENT if event == DONE else event for event in events) + b"]")
    except UNREADABLE:
        decoded_ = []
    if len(decoded_) == len(events) and all(event[:1] == b"{" or event == DONE for event in events):
        return decoded_  # type: ignore[return-value]  # a list of events is one of events or None
    return [_decoded_event(event) for event in events]


def _decoded_event(event: bytes) -> Event | None:
    try:
        text = (DONE_EVENT if event == DONE else event).decode("utf-8", "replace")  # a character may be cut
        told = json.loads(text, parse_int=_int)  # not strictly JSON: servers in Python write NaN and Infinity
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
    """Texts that come as lists or objects of parts as plain texts, and the usage of a choice as counts."""
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


def _int(digits: str) -> float:
    """The number; infinity for one that no counter reaches, and that Python takes long to read."""
    return int(digits) if len(digits) < 20 else float("inf")


def _counts(told: Any, kind: type[Usage | Meta]) -> dict[str, Any] | None:
    """The counts of a usage object that can be read: what is no count is left out, and what is no object is absent."""
    if not isinstance(told, dict):
        return {} if kind is Meta else None
    found = {name: _count(told.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    if kind is Meta:
        return found | {name: told.get(name) for name in ("cached_tokens", "reasoning_tokens", "finish_reason", "spec_verify_ct")}
    found["reasoning_tokens"] = _count(told.get("reasoning_tokens"))
    details = (("prompt_tokens_details", "cached_tokens"), ("completion_tokens_details", "reasoning_tokens"))
    each = {of: told[of] for of, _ in details if isinstance(told.get(of), dict)}
    return found | {of: {name: _count(each[of].get(name))} for of, name in details if of in each}


def _count(told: Any) -> int | None:
    """A count of tokens; None for what is none. Some servers write 8.0 or "8"."""
    if isinstance(told, str) and told.isdigit() and len(told) < 11:
        told = int(told)
    if isinstance(told, float) and told.is_integer():
        told = int(told)
    return told if type(told) is int and 0 <= told < MOST_COUNT else None


@dataclass
class _Seen:
    """The events that could carry tokens, in order: their place, the characters of their text, and the server's count after them."""

    places: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    reasoned: bool = False


def _read(answer: Answer, events: list[Event | None], data: Callable[[int], bytes]) -> list[int]:
    """Reads all events into the answer, and returns the places of those that carry tokens. `data`: of the event at a place, as it came."""
    seen, cumulative, reasoning = _Seen(), -1, UNKNOWN
    add_place, add_characters, add_count = seen.places.append, seen.characters.append, seen.counts.append
    for place, event in enumerate(events):
        if event is None:
            answer.error = answer.error or f"unreadable: event {data(place)[:80].decode('utf-8', 'replace')!r}"
            continue
        if event.glm5bench_done:
            answer.is_done = True
            continue
        choices, usage = event.choices, event.usage
        if choices and event.error is None and event.sglext is None and len(choices) == 1:  # most events: no calls that are not needed
            choice = choices[0]
            text = choice.text
            if text is None and (delta := choice.delta) is not None and delta.reasoning_content is None and delta.reasoning is None:
                text = delta.content
            is_plain = usage is None or (usage.prompt_tokens_details is None and usage.completion_tokens_details is None)
            if text and is_plain and choice.usage is None and (usage is None or (usage.prompt_tokens and usage.completion_tokens)):
                add_place(place)
                add_characters(len(text))
                if usage is None:
                    add_count(UNKNOWN)
                else:
                    answer.prompt_tokens, answer.output_tokens = usage.prompt_tokens, usage.completion_tokens  # type: ignore[assignment]
                    add_count(usage.completion_tokens)  # type: ignore[arg-type]
                    if usage.reasoning_tokens is not None:
                        reasoning = usage.reasoning_tokens
                if choice.finish_reason:
                    answer.finish_reason = choice.finish_reason
                continue
        is_bare = not (choices or usage is not None or event.meta_info is not None)
        if (event.error or is_bare) and (words := _error_in(data(place))):
            answer.error = answer.error or f"error: {words}"
            continue
        if event.meta_info is not None:
            cumulative = _seen_of_generate(answer, event, event.meta_info, seen, place, cumulative)
            continue
        if isinstance(event.sglext, dict) and isinstance(told := event.sglext.get("spec_tokens_details"), dict):
            answer.verify_steps = _steps(told.get("spec_verify_ct"), answer.verify_steps)
        usage = usage or next((choice.usage for choice in choices or () if choice.usage is not None), None)
        count = UNKNOWN
        if usage is not None:
            count = _taken(answer, usage)
            details = usage.completion_tokens_details
            told = usage.reasoning_tokens if details is None or details.reasoning_tokens is None else details.reasoning_tokens
            reasoning = reasoning if told is None else told
        if choices:
            _see(answer, choices, seen, place, count)
    answer.hidden_tokens = 0 if seen.reasoned and reasoning > 0 else reasoning
    return _carrying(answer, seen)


def _error_in(data: bytes) -> str:
    """What an event without an answer says that went wrong; empty for one that is no error."""
    try:
        told = json.loads(data.decode("utf-8", "replace"), parse_int=_int)
    except UNREADABLE:
        return ""
    return _error_words(told) if isinstance(told, dict) else ""


def _taken(answer: Answer, usage: Usage) -> int:
    """Takes the counts into the answer, and returns that of the answer so far. A 0 does not replace a count."""
    if usage.prompt_tokens is not None:
        answer.prompt_tokens = usage.prompt_tokens or max(0, answer.prompt_tokens)
    if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
        answer.cached_tokens = usage.prompt_tokens_details.cached_tokens
    if usage.completion_tokens is None:
        return UNKNOWN
    answer.output_tokens = usage.completion_tokens or max(0, answer.output_tokens)
    return usage.completion_tokens


def _see(answer: Answer, choices: Sequence[Choice], seen: _Seen, place: int, count: int) -> None:
    """Notes an event with choices as one that could carry tokens."""
    was_over, n, is_empty_text = bool(answer.finish_reason), 0, False
    for choice in choices:
        answer.finish_reason = choice.finish_reason or answer.finish_reason
        n += _characters(choice, seen)
        is_empty_text |= choice.text is not None and not choice.finish_reason
    if not n and count >= 0 and seen.counts and seen.counts[-1] == UNKNOWN and seen.characters[-1] > 0:
        seen.counts[-1] = count  # the count of the text before it, in an event of its own
    elif n or not was_over:  # a chunk without text after the finish carries no token
        seen.places.append(place)
        seen.characters.append(n or (-1 if is_empty_text else 0))
        seen.counts.append(count)


def _characters(choice: Choice, seen: _Seen) -> int:
    """How much text a choice adds."""
    if choice.text is not None:
        return len(choice.text)
    if (delta := choice.delta) is None:
        return 0
    thought = len(delta.reasoning_content or delta.reasoning or "")
    if thought:
        seen.reasoned = True
    return len(delta.content or "") + thought + (1 if delta.tool_calls else 0)


def _seen_of_generate(answer: Answer, event: Event, meta: Meta, seen: _Seen, place: int, cumulative: int) -> int:
    """SGLang's /generate: text and counts are cumulative, and every chunk has both. Returns the bytes of the text so far."""
    if meta.prompt_tokens is not None:
        answer.prompt_tokens = meta.prompt_tokens
    if meta.completion_tokens is not None:
        answer.output_tokens = meta.completion_tokens
    if (cached := _count(meta.cached_tokens)) is not None:
        answer.cached_tokens = cached
    answer.verify_steps = _steps(meta.spec_verify_ct, answer.verify_steps)
    if isinstance(meta.finish_reason, dict):
        answer.finish_reason = str(meta.finish_reason.get("type", ""))
    elif isinstance(meta.finish_reason, str):
        answer.finish_reason = meta.finish_reason
    length = memoryview(event.text).nbytes - 2 if event.text is not None else 0  # without its quotation marks
    grown = length - max(0, cumulative)
    seen.places.append(place)
    seen.characters.append(max(0, grown))
    seen.counts.append(meta.completion_tokens if meta.completion_tokens is not None else UNKNOWN)
    return length


def _steps(told: Any, before: int) -> int:
    """Verify steps according to a server; a side figure that is none spoils no answer."""
    return told if type(told) is int and 0 <= told < MOST_COUNT else before


def _carrying(answer: Answer, seen: _Seen) -> list[int]:
    """The places of the events that carry tokens; their tokens go into the answer.

    If the counts agree with the text they decide. Otherwise text does, and between the first text and the finish also a chunk of
    completions without text: there a character may be unfinished.
    """
    gains = _gains(seen, answer.output_tokens)
    if gains is not None:
        carrying = [i for i, gain in enumerate(gains) if gain > 0]
        answer.tokens = [gains[i] for i in carrying]
        answer.first_tokens = answer.tokens[0] if carrying else UNKNOWN
        answer.hidden_tokens = min(answer.hidden_tokens, 0)  # those of the first chunk are counted in it
        return [seen.places[i] for i in carrying]
    first = next((i for i, n in enumerate(seen.characters) if n > 0), len(seen.characters))
    carrying = [i for i, n in enumerate(seen.characters) if n > 0 or (n < 0 and i > first)]
    if 0 <= answer.output_tokens < len(carrying):  # more than there are tokens: those without text are none
        carrying = [i for i in carrying if seen.characters[i] > 0]
    if 0 < answer.output_tokens <= len(carrying):
        answer.hidden_tokens = min(answer.hidden_tokens, 0)  # a chunk for each token: nothing is hidden
    answer.tokens = [UNKNOWN] * len(carrying)
    if carrying and answer.output_tokens >= 0:
        streamed = answer.output_tokens - max(0, answer.hidden_tokens)
        share = seen.characters[first] / sum(n for n in seen.characters if n > 0)
        answer.first_tokens = max(1, min(round(share * streamed), streamed - len(carrying) + 1))
    return [seen.places[i] for i in carrying]


def _gains(seen: _Seen, total: int) -> list[int] | None:
    """By how much the server's count grew with each event; None if the counts contradict the text.

    A chunk with text has at least one token more than the one before; only the last may bring text that was held back. The counts
    end at the total.
    """
    counts, characters = np.array(seen.counts, dtype=np.int64), np.array(seen.characters, dtype=np.int64)
    is_role = (counts < 0) & (characters == 0)  # the role chunk of a chat
    counts[is_role] = np.maximum.accumulate(np.maximum(counts, 0))[is_role]
    if total <= 0 or not len(counts) or counts[-1] != total or (counts < 0).any():
        return None
    gains = np.diff(counts, prepend=0)
    if (gains < 0).any() or ((gains == 0) & (characters > 0))[:-1].any():
        return None
    return gains.tolist()  # type: ignore[no-any-return]
