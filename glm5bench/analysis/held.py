"""Whether a server runs with the settings that its command asked for: its own account of them against the flags. Pure.

Engines change settings with no more than a line in their log (SGLang's draft tokens follow its steps, say). Only what the server states
under a flag's own name is compared; what it leaves at `auto` or adds by itself is no change. Source: SGLang's /server_info.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAMES = {
    "--tensor-parallel-size": "tp_size",
    "--tp": "tp_size",
    "--data-parallel-size": "dp_size",
    "--expert-parallel-size": "ep_size",
    "--kv-cache-dtype": "kv_cache_dtype",
}
NOT_COMPARED = ("--model-path", "--host", "--port", "--api-key", "--tokenizer-path", "--facts")


def settings_changed(argv: Sequence[str], info: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(flag, asked, has) of every flag whose value the server states otherwise. The last of a repeated flag counts, as in a parser."""
    asked = dict(_flags(argv))
    names = {flag: NAMES.get(flag, flag.removeprefix("--").replace("-", "_")) for flag in asked}
    compared = [(flag, asked[flag], info[name]) for flag, name in names.items() if flag not in NOT_COMPARED and name in info]
    return tuple((flag, value, _text(has)) for flag, value, has in compared if _read(value) != _read(_text(has)) and _text(has) != "auto")


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in itertools.pairwise([*argv, "--"]):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            yield flag, value if equals else "true" if following.startswith("--") else following


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _read(text: str) -> Any:
    """The value that a text stands for: numbers and JSON as such, so that 0.90 is 0.9."""
    try:
        return json.loads(text)
    except ValueError:
        return text.lower()
