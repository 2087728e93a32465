"""The file of agent sessions: JSON Lines, one session a line. docs/sessions.md describes the format.

A prompt is a list of runs of block ids, `[first id, count]`. Equal ids of a session are equal tokens, so requests that begin with the same
ids begin with the same tokens. Ids belong to their session, except those below `shared_blocks`, which are equal in all sessions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError, SettingsError

MOST = 2**31  # of ids and tokens
MOST_PROMPT = 2**24  # tokens of a prompt: more than any model has positions
MOST_DISTINCT = 2**26  # tokens of the distinct blocks of a session, which are kept as text: some hundred MB
HEAD = ("shared_blocks",)
OF_SESSION = ("session", "block_tokens", "requests")
OF_REQUEST = ("id", "thread", "after", "delay_s", "blocks", "tail_tokens", "output_tokens")


@dataclass(frozen=True)
class Call:
    """One request of a session.

    `after`: positions in the session of the requests that must have ended before; `delay_s`: seconds from the last of these ends, or from
    the start of the session, until it is sent. `runs`: the prompt as (first id, count). `tail_tokens`: tokens after the blocks, which no
    other request has. `thread`: who asks; the first agent is 0.
    """

    id: int
    thread: int
    after: tuple[int, ...]
    delay_s: float
    runs: tuple[tuple[int, int], ...]
    tail_tokens: int
    output_tokens: int

    @property
    def n_blocks(self) -> int:
        """Blocks of the prompt."""
        return sum(count for _, count in self.runs)


@dataclass(frozen=True)
class Session:
    """The requests of one session, each after all that it waits for."""

    name: str
    block_tokens: int
    calls: tuple[Call, ...]

    def prompt_tokens(self, call: Call) -> int:
        """Length of the prompt of one of its requests."""
        return call.n_blocks * self.block_tokens + call.tail_tokens


@dataclass(frozen=True)
class Sessions:
    """The content of a file. `shared_blocks`: ids below this number are the same tokens in every session."""

    sessions: tuple[Session, ...]
    shared_blocks: int = 0

    @property
    def calls(self) -> Iterator[tuple[Session, Call]]:
        """All requests, each with its session."""
        return ((session, call) for session in self.sessions for call in session.calls)

    @property
    def n_calls(self) -> int:
        """Requests of all sessions."""
        return sum(len(session.calls) for session in self.sessions)

    @property
    def longest_tokens(self) -> int:
        """Prompt and answer of the longest request."""
        return max(session.prompt_tokens(call) + call.output_tokens for session, call in self.calls)

    @property
    def longest_delay_s(self) -> float:
        """The longest pause before a request."""
        return max(call.delay_s for _, call in self.calls)


def read_sessions(path: str) -> Sessions:
    """The sessions of a file. Raises SettingsError with the line of the first record that is wrong, and what is wrong with it."""
    shared, found, names = 0, list[Session](), set[str]()
    block_tokens = 0
    for number, record in _records(path):
        try:
            if number == 1 and isinstance(record, dict) and "shared_blocks" in record:
                _refuse_unknown(record, HEAD)
                shared = _whole(record, "shared_blocks", 0)
                continue
            session = _session(record)
            if session.name in names:
                raise ValueError(f"session {session.name!r} appears twice")
            if shared and block_tokens not in (0, session.block_tokens):
                raise ValueError(f"block_tokens is {session.block_tokens}, not {block_tokens} as before: shared blocks have one length")
        except ValueError as error:
            raise _wrong(path, f"line {number}: {error}") from error
        block_tokens = session.block_tokens
        names.add(session.name)
        found.append(session)
    if not found:
        raise _wrong(path, "the file contains no session")
    highest = max((first + count for session in found for call in session.calls for first, count in call.runs), default=0)
    if shared > highest:
        raise _wrong(path, f"line 1: `shared_blocks` is {shared:,}, but the highest block id is {highest - 1:,}")
    if shared * block_tokens > MOST_DISTINCT:
        raise _wrong(path, f"line 1: the shared blocks have {shared * block_tokens:,} tokens, more than {MOST_DISTINCT:,}")
    return Sessions(tuple(found), shared)


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError if a name appears twice: parsers keep the last value without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` appears twice in an object")
    return made


def _records(path: str) -> Iterator[tuple[int, Any]]:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line, object_pairs_hook=once)
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"the file cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"line {number} is not valid JSON: {error}") from error


def _session(record: Any) -> Session:
    """The session in a record. Raises ValueError that says what is wrong."""
    if not isinstance(record, dict):
        raise ValueError("a session must be a JSON object")
    _refuse_unknown(record, OF_SESSION)
    name, asked = record.get("session"), record.get("requests")
    if not isinstance(name, str) or not name:
        raise ValueError("`session` must be a name")
    if not isinstance(asked, list) or not asked:
        raise ValueError(f"session {name!r}: `requests` must be a list that is not empty")
    block_tokens = _whole(record, "block_tokens", 1)
    position: dict[int, int] = {}
    calls = []
    for i, request in enumerate(asked):
        try:
            call = _call(request, position, block_tokens)
        except ValueError as error:
            told = request.get("id", i) if isinstance(request, dict) else i
            raise ValueError(f"session {name!r}, request {told!r}: {error}") from error
        position[call.id] = i
        calls.append(call)
    n_distinct = sum(count for _, count in merged(run for call in calls for run in call.runs))
    if n_distinct * block_tokens > MOST_DISTINCT:
        raise ValueError(f"session {name!r}: its blocks have {n_distinct * block_tokens:,} tokens, more than {MOST_DISTINCT:,}")
    return Session(name, block_tokens, tuple(calls))


def _call(record: Any, position: dict[int, int], block_tokens: int) -> Call:
    if not isinstance(record, dict):
        raise ValueError("a request must be a JSON object")
    _refuse_unknown(record, OF_REQUEST)
    number = _whole(record, "id", 0)
    if number in position:
        raise ValueError("its id appears twice")
    after = record.get("after", [])
    if not isinstance(after, list) or not all(type(i) is int for i in after):
        raise ValueError("`after` must be a list of ids")
    unknown = [i for i in after if i not in position]
    if unknown:
        raise ValueError(f"`after` names {unknown[0]}, which is not an earlier request of this session")
    delay = record.get("delay_s", 0.0)
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < MOST:
        raise ValueError(f"`delay_s` must be a number of seconds, not {str(delay)[:40]}")
    runs = _runs(record.get("blocks"))
    if sum(count for _, count in runs) * block_tokens >= MOST_PROMPT:
        raise ValueError(f"its prompt has {MOST_PROMPT:,} tokens or more")
    tail = _whole(record, "tail_tokens", 0) if "tail_tokens" in record else 0
    if not runs and not tail:
        raise ValueError("its prompt is empty: it has neither `blocks` nor `tail_tokens`")
    thread = _whole(record, "thread", 0) if "thread" in record else 0
    return Call(number, thread, tuple(position[i] for i in after), float(delay), runs, tail, _whole(record, "output_tokens", 1))


def _runs(told: Any) -> tuple[tuple[int, int], ...]:
    """Runs of block ids. Adjacent runs are joined, so that equal prompts have equal runs."""
    if not isinstance(told, list) or not all(isinstance(run, list) and len(run) == 2 and all(type(n) is int for n in run) for run in told):
        raise ValueError("`blocks` must be a list of [first id, count]")
    if not all(0 <= first < MOST and 1 <= count < MOST for first, count in told) or sum(count for _, count in told) >= MOST:
        raise ValueError("`blocks` has an id below 0 or a count below 1")
    return joined((first, count) for first, count in told)


def joined(runs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same ids in as few runs as possible."""
    made: list[tuple[int, int]] = []
    for first, count in runs:
        if made and sum(made[-1]) == first:
            made[-1] = (made[-1][0], made[-1][1] + count)
        else:
            made.append((first, count))
    return tuple(made)


def merged(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """All ids of these runs, each once, as rising runs that do not touch."""
    made: list[tuple[int, int]] = []
    for first, count in sorted(set(runs)):
        if made and first <= sum(made[-1]):
            made[-1] = (made[-1][0], max(sum(made[-1]), first + count) - made[-1][0])
        else:
            made.append((first, count))
    return made


def runs_of(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """A list of block ids as runs."""
    return joined((i, 1) for i in ids)


def _whole(record: dict[str, Any], name: str, least: int) -> int:
    value = record.get(name)
    if type(value) is not int or not least <= value < MOST:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, not {value!r}")
    return value


def _refuse_unknown(record: dict[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(record.keys() - set(known))
    if unknown:
        raise ValueError(f"`{unknown[0]}` is unknown here (known: {', '.join(known)})")


def _wrong(path: str, why: str) -> SettingsError:
    return SettingsError(f"workload.file: {why}.", where=path, next_step="see the format in docs/sessions.md")


def written(sessions: Sessions, path: Path) -> None:
    """Writes the file. Raises FileError if it exists or cannot be written, or if it would be refused when it is read."""
    try:
        for session in sessions.sessions:
            _session(_record(session))
    except ValueError as error:
        raise FileError(f"No file was written, because it would be refused: {error}.", path=str(path)) from error
    try:
        with path.open("x", encoding="utf-8") as file:
            if sessions.shared_blocks:
                file.write(json.dumps({"shared_blocks": sessions.shared_blocks}) + "\n")
            file.writelines(json.dumps(_record(session), separators=(",", ":")) + "\n" for session in sessions.sessions)
    except FileExistsError as error:
        raise FileError("The file exists already.", path=str(path), next_step="choose another name with -o") from error
    except OSError as error:
        raise FileError(f"The file cannot be written: {error.strerror or error}.", path=str(path)) from error


def _record(session: Session) -> dict[str, Any]:
    requests = [
        {
            "id": call.id,
            "thread": call.thread,
            "after": [session.calls[i].id for i in call.after],
            "delay_s": round(call.delay_s, 6),
            "blocks": [list(run) for run in call.runs],
            "tail_tokens": call.tail_tokens,
            "output_tokens": call.output_tokens,
        }
        for call in session.calls
    ]
    return {"session": session.name, "block_tokens": session.block_tokens, "requests": requests}
