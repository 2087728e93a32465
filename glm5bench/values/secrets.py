"""Which variables and flags hold secrets by their names, and the form that passes one by name: `$HF_TOKEN`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

WORDS = frozenset(("token", "secret", "password", "passwd", "key", "apikey", "credential", "credentials"))
BY_NAME = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def is_secret(name: str) -> bool:
    """Whether a variable or flag of this name holds a secret: HF_TOKEN, --api-key."""
    return any(word in WORDS for word in re.split(r"[^a-z]+", name.lower()))


def stated_secrets(env: Mapping[str, str], arguments: Sequence[str]) -> Iterator[str]:
    """The variables and flags whose secrets are stated as values, and not by name."""
    for name, value in env.items():
        if is_secret(name) and value and not BY_NAME.fullmatch(value):
            yield name
    for i, argument in enumerate(arguments):
        flag, has_value, value = argument.partition("=")
        value = value if has_value else arguments[i + 1] if i + 1 < len(arguments) else ""
        if flag.startswith("-") and is_secret(flag) and value and not value.startswith("-") and not BY_NAME.fullmatch(value):
            yield flag


def by_name(value: str) -> str:
    """The name of the variable that this value stands for; empty if it is an ordinary value."""
    found = BY_NAME.fullmatch(value)
    return found[1] if found else ""
