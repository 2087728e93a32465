"""Converts values to plain JSON and back, and computes their digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter


def canonical_json(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces. Raises ValueError for NaN."""
    return _canonical(plain(value))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


ABSENT = {"absent": True}  # metadata of a field that `plain` leaves out if it has its default: digests from before it existed stay the same


def plain(value: Any, *, is_whole: bool = False) -> Any:
    """The value as dicts, lists, strings and numbers. `is_whole`: also with fields that have ABSENT."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        shown = [(f.name, x) for f, x in pairs if is_whole or not (f.metadata.get("absent") and x == f.default)]
        return {name: plain(x, is_whole=is_whole) for name, x in shown}
    if isinstance(value, Mapping):
        return {str(k): plain(v, is_whole=is_whole) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, is_whole=is_whole) for v in value]
    return value


def number_of_version(text: str) -> tuple[int, ...]:
    """`0.5.12.post1` is (0, 5, 12, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def finite(value: float) -> float | None:
    """The value; None for one that JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def digest_of(value: Any, length: int = 20) -> str:
    """The first `length` hex digits of the SHA-256 of the value's canonical JSON."""
    return digest_of_plain(plain(value), length)


def digest_of_plain(value: Any, length: int = 20) -> str:
    """The same digest, for a value that is already plain."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:length]


T = TypeVar("T")


@functools.cache
def type_adapter(kind: Any) -> TypeAdapter[Any]:
    """The validator for this type; cached, because building one takes 10 ms."""
    return TypeAdapter(kind)


def from_json(kind: type[T], text: str | bytes) -> T:
    """A value of this type from JSON. Raises ValueError that names the first invalid field."""
    value: T = type_adapter(cast(Hashable, kind)).validate_json(text)
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """A value of this type from parsed JSON. Raises ValueError that names the first invalid field."""
    valid: T = type_adapter(cast(Hashable, kind)).validate_python(value)
    return valid
