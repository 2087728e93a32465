"""Files of recorded requests: conversations in ShareGPT's format, and traces of arrivals in Mooncake's format.

Conversations: JSON lines, or one JSON list, of {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}.
Traces: JSON lines of {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}; requests that begin with the
same hash_ids begin with the same prompt, 512 tokens each. Source: the released files of both.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError

TRACE_BLOCK_TOKENS = 512
CHARACTERS_A_TOKEN = 4  # if no server reports the length of a text
HUMAN, MODEL = ("human", "user"), ("gpt", "chatgpt", "assistant", "bing", "bard")


@dataclass(frozen=True)
class Exchanged:
    """A question, its answer, and the estimated tokens of the answer: one for four characters."""

    asked: str
    answered: str
    output_tokens: int


@dataclass(frozen=True)
class Traced:
    """One request of a trace: when it was due after the first, its lengths, and the blocks of its prefix."""

    due_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def conversations(path: str, turns: int = 1) -> list[list[Exchanged]]:
    """The conversations of a file that have a question and an answer, each with at most `turns` turns, as far as the speakers alternate.

    Raises SettingsError with the line of the first invalid record.
    """
    found = []
    for where, record in _records(path):
        try:
            said = [(str(m["from"]).lower(), str(m["value"] or "")) for m in record["conversations"]]
        except (KeyError, TypeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise _wrong(path, f"{where} is not a conversation in ShareGPT's format: {why}") from error
        while said and said[0][0] not in HUMAN:
            said.pop(0)
        talk = [(q, a) for (_, q), (_, a) in itertools.takewhile(_is_turn, zip(said[::2], said[1::2], strict=False))][:turns]
        if talk:
            found.append([Exchanged(q, a, max(1, round(len(a) / CHARACTERS_A_TOKEN))) for q, a in talk])
    if not found:
        raise _wrong(path, "the file contains no conversation with a question and an answer")
    return found


def _is_turn(pair: tuple[tuple[str, str], tuple[str, str]]) -> bool:
    (who, asked), (then, answered) = pair
    return who in HUMAN and then in MODEL and bool(asked.strip()) and bool(answered.strip())


def trace(path: str) -> list[Traced]:
    """The requests of a trace, in the order in which they were due. Raises SettingsError with the line of the first invalid one."""
    found = []
    for where, record in _records(path):
        try:
            due, n_in, n_out = float(record["timestamp"]) / 1e3, int(record["input_length"]), int(record["output_length"])
            blocks = tuple(int(b) for b in record.get("hash_ids") or ())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise _wrong(path, f"{where} is not a request of a trace: {why}") from error
        if not math.isfinite(due) or due < 0 or n_in < 1 or n_out < 1 or any(b < 0 for b in blocks):
            raise _wrong(path, f"{where} is not a request of a trace: timestamp {due * 1e3:g}, lengths {n_in} and {n_out}")
        found.append(Traced(due, n_in, n_out, blocks))
    if not found:
        raise _wrong(path, "the file contains no request")
    found.sort(key=lambda request: request.due_s)
    first = found[0].due_s
    return [Traced(r.due_s - first, r.prompt_tokens, r.output_tokens, r.blocks) for r in found]


def _records(path: str) -> Iterator[tuple[str, Any]]:
    """The records of a file with their positions."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"the file cannot be read: {error}") from error
    if text.lstrip().startswith("["):
        try:
            yield from ((f"record {i}", record) for i, record in enumerate(json.loads(text), 1))
        except ValueError as error:
            raise _wrong(path, f"the file is not valid JSON: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise _wrong(path, f"line {number} is not valid JSON: {error}") from error


def _wrong(path: str, why: str) -> SettingsError:
    return SettingsError(f"workload.file: {why}.", where=path, next_step="see the format in docs/load.md")
