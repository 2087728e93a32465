"""Whether a server runs with the settings that its command asked for: its own account of them against the flags. Pure.

Engines change settings with no more than a line in their log (SGLang's draft tokens follow its steps, say). Only what the server states
under a flag's own name is compared; what it leaves at `auto` or adds by itself is no change. Source: SGLang's /server_info.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {
    "--tensor-parallel-size": "tp_size",
    "--tp": "tp_size",
    "--data-parallel-size": "dp_size",
    "--expert-parallel-size": "ep_size",
    "--kv-cache-dtype": "kv_cache_dtype",
}
SAME = {"none": None, "nextn": "eagle"}  # two words of SGLang's for one thing
NOT_COMPARED = ("--model-path", "--host", "--port", "--api-key", "--tokenizer-path", "--facts")


def settings_changed(argv: Sequence[str], info: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(flag, asked, has) of every flag whose value the server states otherwise. The last of a repeated flag counts, as in a parser."""
    asked = _flags(argv)
    names = {flag: NAMES.get(flag, flag.removeprefix("--").replace("-", "_")) for flag in asked}
    compared = [(flag, asked[flag], info[name]) for flag, name in names.items() if flag not in NOT_COMPARED and name in info]
    return tuple((flag, " ".join(words), _text(has)) for flag, words, has in compared if not _is_held(words, has))


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """Each flag's words; `true` for a bare one."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in argv:
        if word.startswith("-") and not word[1:2].isdigit():
            flag, equals, value = word.partition("=")
            found[flag] = [value] if equals else []
        elif flag:
            found[flag].append(word)
    return {flag: words or ["true"] for flag, words in found.items()}


def _is_held(words: Sequence[str], has: Any) -> bool:
    if "auto" in (_text(has), words[0]):
        return True
    return [_read(word) for word in words] == ([_read(_text(v)) for v in has] if isinstance(has, list) else [_read(_text(has))])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _read(text: str) -> Any:
    """The value that a text stands for: numbers and JSON as such, so that 0.90 is 0.9."""
    try:
        return json.loads(text)
    except ValueError:
        return SAME.get(text.lower(), text.lower())
