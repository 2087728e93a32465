"""Agent sessions from other formats: Weka traces, as InferenceX replays them, and sessions in Mooncake's format. docs/sessions.md says how.

Both give the tokens of a prompt as ids of blocks. Ids are renumbered in each session in the order of first sight, so that a prompt that
only grows is one run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError, counted
from .file import Call, Session, Sessions, once, runs_of

MOONCAKE_BLOCK = 512


@dataclass
class Converted:
    """The result. `said`: what was changed on the way, for the user."""

    sessions: Sessions
    said: list[str] = field(default_factory=list)


def weka(paths: Sequence[str]) -> Converted:
    """Sessions from Weka traces: JSON, or JSON Lines, of one object for each session.

    A request waits for the one before it in its thread, and a request of the first agent also for sub-agents that had ended when it was
    sent. The delay is the recorded pause from the last of these ends (`t` + `api_time`) to the request. A sub-agent begins after the last
    request of the first agent that had ended by then. Raises SettingsError with the place of the first record that is wrong.
    """
    made: list[Session] = []
    n_empty = n_overlapping = n_short = 0
    for where, record in _objects(paths):
        try:
            session, empty, overlapping, short = _weka_session(record, len(made))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise _wrong(where, f"this is not a Weka trace: {why}") from error
        made.append(session)
        n_empty, n_overlapping, n_short = n_empty + empty, n_overlapping + overlapping, n_short + short
    said = ["delays: from the end of the last request that a request waits for, to its start; prompts: whole"]
    if n_empty:
        said.append(f"no output token was recorded: {counted(n_empty, 'request')}; one is asked for")
    if n_overlapping:
        said.append(f"sent before the request before had ended: {counted(n_overlapping, 'request')}; here without a pause after it")
    return Converted(Sessions(_distinct(made)), said + _of_short(n_short))


def _of_short(n: int) -> list[str]:
    return [f"prompts with fewer blocks than they are long: {counted(n, 'request')}; no cache can have the rest"] if n else []


@dataclass
class _Row:
    """A request of a trace, with the seconds of its start and end. `thread`: 0 for the first agent."""

    record: dict[str, Any]
    thread: int
    begin_s: float
    end_s: float


def _weka_session(record: dict[str, Any], number: int) -> tuple[Session, int, int, int]:
    rows: list[_Row] = []
    _collect(record["requests"], 0, rows, [0])
    if not rows:
        raise ValueError("it has no request")
    rows.sort(key=lambda row: (row.begin_s, row.thread))
    block = int(record["block_size"])
    if block < 1:
        raise ValueError(f"its block_size is {block}")
    ids: dict[int, int] = {}
    calls: list[Call] = []
    joined = set[int]()  # positions of sub-agents' last requests that a request of the first agent has waited for
    n_empty = n_overlapping = n_short = 0
    last_of = {row.thread: i for i, row in enumerate(rows)}  # of each thread
    lasts = sorted(p for thread, p in last_of.items() if thread)
    newest: dict[int, int] = {}
    for i, row in enumerate(rows):
        before = newest.get(row.thread)
        newest[row.thread] = i
        after = {before} if before is not None else set[int]()
        if row.thread == 0:
            after |= {p for p in lasts if p < i and rows[p].end_s <= row.begin_s and p not in joined}
            joined |= after
        elif before is None:
            ended = [p for p in range(i) if rows[p].thread == 0 and rows[p].end_s <= row.begin_s]
            after = {max(ended, key=lambda p: rows[p].end_s)} if ended else set()
        start_s = max((rows[p].end_s for p in after), default=rows[0].begin_s)
        n_overlapping += row.begin_s < start_s
        n_out, n_in, told = int(row.record["out"]), int(row.record["in"]), [int(h) for h in row.record["hash_ids"]]
        n_empty += n_out < 1
        whole = told[: n_in // block]
        n_short += len(whole) < n_in // block
        own = [ids.setdefault(h, len(ids)) for h in whole]
        tail = n_in - len(whole) * block
        if n_in < 1 or tail < 0:
            raise ValueError(f"a request at {row.begin_s:g} s has a prompt of {n_in} tokens")
        calls.append(Call(i, row.thread, tuple(sorted(after)), max(0.0, row.begin_s - start_s), runs_of(own), tail, max(1, n_out)))
    return Session(str(record.get("id") or f"session-{number}"), block, tuple(calls)), n_empty, n_overlapping, n_short


def _collect(requests: Iterable[dict[str, Any]], thread: int, rows: list[_Row], count: list[int]) -> None:
    """All requests, those of sub-agents too, whose times are also from the start of the session."""
    for request in requests:
        if request.get("type") == "subagent":
            count[0] += 1
            _collect(request.get("requests") or (), count[0], rows, count)
            continue
        begin = float(request["t"])
        took = float(request.get("api_time") or 0.0)
        if not math.isfinite(begin) or not math.isfinite(took) or took < 0:
            raise ValueError(f"a request has the times {begin:g} s and {took:g} s")
        rows.append(_Row(request, thread, begin, begin + took))


def mooncake(paths: Sequence[str], *, is_incremental: bool, answered_in_s: float | None) -> Converted:
    """Sessions from JSON Lines of {session_id, input_length, output_length, hash_ids, timestamp or delay in ms}; 512 tokens a block.

    `is_incremental`: `input_length` counts only what is new since the answer before; then each prompt is all that was said before and the
    new part, and `hash_ids` are not used. `answered_in_s`: what the recorded answers took; None: the pauses in the file are from the end
    of an answer to the next request. Otherwise they are from request to request, and this time is taken off them.
    Raises SettingsError with the line of the first record that is wrong.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for where, record in _objects(paths):
        try:
            told: dict[str, Any] = {
                "in": int(record["input_length"]),
                "out": int(record["output_length"]),
                "ids": [] if is_incremental else [int(h) for h in record["hash_ids"]],
                "t": None if record.get("timestamp") is None else float(record["timestamp"]) / 1e3,
                "delay": None if record.get("delay") is None else float(record["delay"]) / 1e3,
            }
            if told["in"] < 1 or told["out"] < 1 or any(s is not None and not 0 <= s < math.inf for s in (told["t"], told["delay"])):
                raise ValueError(f"lengths {told['in']} and {told['out']}, timestamp {told['t']}, delay {told['delay']}")
            rows.setdefault(str(record["session_id"]), []).append(told)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise _wrong(where, f"this is not a request of a session in Mooncake's format: {why}") from error
    sessions = tuple(_mooncake_session(name, told, is_incremental, answered_in_s or 0.0) for name, told in rows.items())
    kind = "from request to request, less what the answers took" if answered_in_s is not None else "from the end of an answer"
    said = [f"delays: {kind}; prompts: {'only what is new, joined with what was said before' if is_incremental else 'whole'}"]
    ids = [{h for told in of for h in told["ids"]} for of in rows.values()]
    among = sum(len(of) for of in ids) - len(set().union(*ids)) if ids else 0
    if among:
        said.append(f"in several sessions: {counted(among, 'block')}; here each session has its own")
    n_short = sum(len(told["ids"]) < told["in"] // MOONCAKE_BLOCK for of in rows.values() for told in of)
    return Converted(Sessions(sessions), said + ([] if is_incremental else _of_short(n_short)))


def _mooncake_session(name: str, rows: list[dict[str, Any]], is_incremental: bool, answered_in_s: float) -> Session:
    if all(told["t"] is not None for told in rows):
        rows = sorted(rows, key=lambda told: told["t"])
    ids: dict[int, int] = {}
    calls, before_s, said = list[Call](), None, 0
    for i, told in enumerate(rows):
        delay = told["delay"]
        if delay is None:
            delay = told["t"] - before_s if told["t"] is not None and before_s is not None else 0.0
        before_s = told["t"]
        n_in = said + told["in"] if is_incremental else told["in"]
        if is_incremental:
            runs = runs_of(range(n_in // MOONCAKE_BLOCK))
        else:
            runs = runs_of([ids.setdefault(h, len(ids)) for h in told["ids"][: n_in // MOONCAKE_BLOCK]])
        tail = n_in - sum(count for _, count in runs) * MOONCAKE_BLOCK
        said = n_in + told["out"]
        calls.append(Call(i, 0, (i - 1,) if i else (), max(0.0, delay - answered_in_s) if i else 0.0, runs, tail, told["out"]))
    return Session(name, MOONCAKE_BLOCK, tuple(calls))


def _objects(paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The JSON objects of the files, each with its place."""
    for path in paths:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong(path, f"the file cannot be read: {error}") from error
        try:
            whole = json.loads(text, object_pairs_hook=once)
        except RecursionError as error:
            raise _wrong(path, f"the file is nested too deeply: {error}") from error
        except ValueError:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    try:
                        yield f"{path}:{number}", json.loads(line, object_pairs_hook=once)
                    except (ValueError, RecursionError) as error:
                        raise _wrong(f"{path}:{number}", f"the line is not valid JSON: {error}") from error
            continue
        for i, record in enumerate(whole if isinstance(whole, list) else [whole], 1):
            yield f"{path}, record {i}", record


def _distinct(sessions: Sequence[Session]) -> tuple[Session, ...]:
    """The sessions with distinct names."""
    seen: dict[str, int] = {}
    made = []
    for session in sessions:
        n = seen[session.name] = seen.get(session.name, 0) + 1
        made.append(session if n == 1 else Session(f"{session.name}#{n}", session.block_tokens, session.calls))
    return tuple(made)


def _wrong(where: str, why: str) -> SettingsError:
    return SettingsError(f"{why[0].upper()}{why[1:]}.", where=where, next_step="see docs/sessions.md")
