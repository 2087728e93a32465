"""The error message of a server, in any of the forms that servers use."""

from __future__ import annotations

import json
from typing import Any

import msgspec

UNREADABLE = (ValueError, RecursionError, msgspec.MsgspecError)  # before msgspec 0.21 its errors were not ValueErrors


QUOTED = 200  # characters quoted from a server's answer


def unstreamed(body: bytes) -> str:
    """Describes a body without any event: empty, an error in the server's words, or an answer that was not streamed."""
    text = body.strip()
    if all(line.partition(b":")[0].strip() in (b"", b"event", b"id", b"retry", b"data") for line in text.splitlines()):
        return ""  # empty, comments, or unfinished events
    quoted = _printed(text[: 4 * QUOTED].decode("utf-8", "replace"))
    try:
        told = json.loads(text)
    except UNREADABLE:
        return f"not streamed: the body contains no event: {quoted}"
    if isinstance(told, dict) and (words := error_words(told)):
        return f"error: {words}"
    return f"not streamed: the answer came as one JSON value: {quoted}"


def _printed(text: str) -> str:
    return " ".join(text.split())[:QUOTED]


def error_words(told: dict[str, Any]) -> str:
    """The error message in a JSON object; empty if the object is not an error."""
    error = told.get("error") or told.get("detail")
    if not error and (told.get("object") == "error" or told.get("type") == "error" or _is_error_code(told.get("code"))):
        error = told.get("message")
    if isinstance(error, dict):
        error = error.get("message") or error
    return _printed(error if isinstance(error, str) else json.dumps(error, default=str)) if error else ""


def _is_error_code(code: Any) -> bool:
    """Whether a code is an error code: 0 and 200 mean success."""
    return (type(code) is int and (code >= 400 or code < 0)) or (isinstance(code, str) and bool(code) and not code.isdigit())


def json_number(digits: str) -> float:
    """The number; infinity for 20 digits or more, which no counter reaches and Python parses slowly."""
    return int(digits) if len(digits) < 20 else float("inf")


def error_in(data: bytes) -> str:
    """The error message in an event without an answer; empty if the event is not an error."""
    try:
        told = json.loads(data.decode("utf-8", "replace"), parse_int=json_number)
    except UNREADABLE:
        return ""
    return error_words(told) if isinstance(told, dict) else ""
