"""What a streamed answer contains, parsed after the clock has stopped, from bytes and the times at which they arrived. Pure.

A server-sent event has the arrival time of its last byte, wherever packets were cut. The arrival of text is the arrival of a token. Token
counts of a server are used for chunks only if they agree with the text. An answer is whole if it has a token count, a finish reason and
an end. Otherwise the fault names what is missing, with its class before the colon.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors_told import error_in, unstreamed
from .events import MOST_COUNT, Choice, Event, Events, Meta, Usage, count_in, events_of
from .exchange import Body, decoded

UNKNOWN = -1


@dataclass
class Answer:
    """One parsed stream. `at` and `tokens`: arrival in ns of the events that carry tokens, and how many tokens each has, or UNKNOWN.

    `cached_tokens`: of the prompt, from a prefix cache; `device_tokens`, `host_tokens`, `storage_tokens`: where they were.
    `hidden_tokens`: of the answer, counted by the server but not streamed. `first_tokens`: in the first chunk, estimated from its share of
    the text if the server does not count each chunk.
    """

    at: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    verify_steps: int = UNKNOWN
    cached_tokens: int = UNKNOWN
    device_tokens: int = UNKNOWN
    host_tokens: int = UNKNOWN
    storage_tokens: int = UNKNOWN
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
            answer.error = f"unreadable: the body is not valid {body.encoding}: {error}"
            return answer
        except OverflowError as error:
            answer.error = f"too large: {error}"
            return answer
    found = events_of(body.data)
    answer.passed_over = found.passed_over
    if not found.contents:
        answer.error = unstreamed(body.data)
        return answer
    carrying = _read(answer, found)
    if carrying:
        cuts, at = (np.frombuffer(column, dtype=np.int64) for column in (body.cuts, body.at))
        answer.at = at[np.searchsorted(cuts, found.ends[carrying])].tolist()
    return answer


def last_token_ns(body: Body, most_bytes: int | None = None) -> int:
    """Arrival of the last token in a body that may still be growing; UNKNOWN if there is none."""
    at = parsed(body, most_bytes).at
    return at[-1] if at else UNKNOWN


def fault(answer: Answer, asked_tokens: int | None = None, *, is_framed: bool = True) -> str:
    """The fault of the answer, with its class before the colon; empty for a whole answer.

    `is_framed`: HTTP itself marked the end of the body, so no [DONE] is needed (transformers sends none).
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


@dataclass
class _Seen:
    """The events that could carry tokens, in order: their index, the characters of their text, and the server's count after them."""

    places: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    reasoned: bool = False


def _read(answer: Answer, events: Events) -> list[int]:
    """Reads all events into the answer, and returns the indices of those that carry tokens."""
    seen, cumulative, reasoning = _Seen(), -1, UNKNOWN
    add_place, add_characters, add_count = seen.places.append, seen.characters.append, seen.counts.append
    for place, event in enumerate(events.contents):
        if event is None:
            answer.error = answer.error or f"unreadable: event {events.data(place)[:80].decode('utf-8', 'replace')!r}"
            continue
        if event.glm5bench_done:
            answer.is_done = True
            continue
        choices, usage = event.choices, event.usage
        if choices and event.error is None and event.sglext is None and len(choices) == 1:  # most events: avoid function calls
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
        if (event.error or is_bare) and (words := error_in(events.data(place))):
            answer.error = answer.error or f"error: {words}"
            continue
        if event.meta_info is not None:
            cumulative = _seen_of_generate(answer, event, event.meta_info, seen, place, cumulative)
            continue
        if isinstance(event.sglext, dict):
            if isinstance(told := event.sglext.get("spec_tokens_details"), dict):
                answer.verify_steps = _steps(told.get("spec_verify_ct"), answer.verify_steps)
            _see_places(answer, event.sglext.get("cached_tokens_details"))
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


def _taken(answer: Answer, usage: Usage) -> int:
    """Stores the counts in the answer, and returns the tokens of the answer so far. A 0 does not replace a count."""
    if usage.prompt_tokens is not None:
        answer.prompt_tokens = usage.prompt_tokens or max(0, answer.prompt_tokens)
    if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
        answer.cached_tokens = usage.prompt_tokens_details.cached_tokens
    if usage.completion_tokens is None:
        return UNKNOWN
    answer.output_tokens = usage.completion_tokens or max(0, answer.output_tokens)
    return usage.completion_tokens


def _see_places(answer: Answer, told: Any) -> None:
    """Stores where the cached tokens were. SGLang: {device, host, storage, ...}; places that it leaves out had none."""
    if not isinstance(told, dict) or (device := count_in(told.get("device"))) is None:
        return
    answer.device_tokens = device
    answer.host_tokens, answer.storage_tokens = (count_in(told.get(place) or 0) or 0 for place in ("host", "storage"))


def _see(answer: Answer, choices: Sequence[Choice], seen: _Seen, place: int, count: int) -> None:
    """Records an event with choices as one that could carry tokens."""
    was_over, n, is_empty_text = bool(answer.finish_reason), 0, False
    for choice in choices:
        answer.finish_reason = choice.finish_reason or answer.finish_reason
        n += _characters(choice, seen)
        is_empty_text |= choice.text is not None and not choice.finish_reason
    if not n and count >= 0 and seen.counts and seen.counts[-1] == UNKNOWN and seen.characters[-1] > 0:
        seen.counts[-1] = count  # a separate event with the count of the text before it
    elif n or not was_over:  # a chunk without text after the finish carries no token
        seen.places.append(place)
        seen.characters.append(n or (-1 if is_empty_text else 0))
        seen.counts.append(count)


def _characters(choice: Choice, seen: _Seen) -> int:
    """How many characters of text a choice adds."""
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
    if (cached := count_in(meta.cached_tokens)) is not None:
        answer.cached_tokens = cached
    _see_places(answer, meta.cached_tokens_details)
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
    """Verify steps according to a server. An invalid value is ignored, because it is only a side figure."""
    return told if type(told) is int and 0 <= told < MOST_COUNT else before


def _carrying(answer: Answer, seen: _Seen) -> list[int]:
    """The indices of the events that carry tokens; stores their tokens in the answer.

    If the counts agree with the text, the counts decide. Otherwise every chunk with text carries tokens. Between the first text and the
    finish, a chunk of completions without text also does, because its character may be unfinished.
    """
    gains = _gains(seen, answer.output_tokens)
    if gains is not None:
        carrying = [i for i, gain in enumerate(gains) if gain > 0]
        answer.tokens = [gains[i] for i in carrying]
        answer.first_tokens = answer.tokens[0] if carrying else UNKNOWN
        answer.hidden_tokens = min(answer.hidden_tokens, 0)  # hidden tokens of the first chunk are included in its count
        return [seen.places[i] for i in carrying]
    first = next((i for i, n in enumerate(seen.characters) if n > 0), len(seen.characters))
    carrying = [i for i, n in enumerate(seen.characters) if n > 0 or (n < 0 and i > first)]
    if 0 <= answer.output_tokens < len(carrying):  # more chunks than tokens: those without text carry none
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
    """The growth of the server's count with each event; None if the counts contradict the text.

    The count must grow with every chunk that has text; only the last chunk may add text that was held back. The last count must be the
    total.
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
