"""Values as plain JSON and back, and their digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, NaN refused."""
    return _canonical(plain(value))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """The value as dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def digest_of(value: Any, length: int = 20) -> str:
    """The first `length` hex digits of the SHA-256 of the value's canonical JSON."""
    return digest_of_plain(plain(value), length)


def digest_of_plain(value: Any, length: int = 20) -> str:
    """The same, of a value that is plain already."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:length]


T = TypeVar("T")


@functools.cache
def type_adapter(kind: Any) -> TypeAdapter[Any]:
    """Validates values of this kind; made once, which takes 10 ms."""
    return TypeAdapter(kind)


def from_json(kind: type[T], text: str | bytes) -> T:
    """A value of this kind from JSON. Raises ValueError that names the first field that is wrong."""
    value: T = type_adapter(cast(Hashable, kind)).validate_json(text)
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """A value of this kind from parsed JSON. Raises ValueError that names the first field that is wrong."""
    valid: T = type_adapter(cast(Hashable, kind)).validate_python(value)
    return valid
