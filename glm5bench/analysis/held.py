"""Whether a server runs with the settings that its command asked for: its own account of them against the flags. Pure.

Engines change settings with no more than a line in their log (SGLang's draft tokens follow its steps, say). Only what the server states
under a flag's own name is compared; what it leaves at `auto` or adds by itself is no change. Source: SGLang's /server_info, of each
data-parallel rank, and vLLM's log. Names and words of one thing that differ from version to version are the same: NSA became DSA.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..engines.adapter import ranks
from ..engines.known import engines

SYNONYMS = [engine.synonyms for engine in engines().values()]
NAMES = {"--kv-cache-dtype": "kv_cache_dtype", **{flag: name for s in SYNONYMS for flag, name in s.names.items()}}
SAME = {word: same for s in SYNONYMS for word, same in s.words.items()}
RENAMED = tuple(dict.fromkeys(pair for s in SYNONYMS for pair in s.renamed))
BECAME = {flag: setting for s in SYNONYMS for flag, setting in s.became.items()}
HUMAN = re.compile(r"(\d+)([kKmM])")  # vLLM reads 32k as 32,000 and 32K as 32,768
FILES = {flag for engine in engines().values() for flag in engine.file_flags}  # the server states a path, or nothing
NOT_COMPARED = {"--model-path", "--host", "--port", "--api-key", "--tokenizer-path", "--facts", *FILES}


def settings_changed(argv: Sequence[str], info: Mapping[str, Any], ignored: Sequence[str] = ()) -> tuple[tuple[str, str, str], ...]:
    """(flag, asked, has) of every flag whose value the server states otherwise. The last of a repeated flag counts, as in a parser.

    `ignored`: flags that may differ, as the user says.
    """
    asked = _flags(argv)
    found: dict[tuple[str, str, str], None] = {}
    for stated in (info, *ranks(info)):
        for flag in asked.keys() - NOT_COMPARED - {*ignored}:
            name = next((n for n in _names(flag) if n in stated), None)
            is_elsewhere = bool(stated.get(BECAME.get(flag, "")))
            if name is not None and not is_elsewhere and not _is_held(asked[flag], stated[name]):
                found[flag, " ".join(asked[flag]), _text(stated[name])] = None
    return tuple(sorted(found))


def in_words(changed: Sequence[tuple[str, str, str]]) -> str:
    """The same in a sentence."""
    told = ", ".join(f"{flag} {asked} became {has}" for flag, asked, has in changed)
    return f"runs with other settings than asked: {told}"


def other_model(asked: str, stated: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(checkpoint, asked, has) where the server says that it serves another directory. A repository's name it may resolve as it likes."""
    has = stated.get("model_path") or stated.get("model")
    return (("the checkpoint", asked, has),) if isinstance(has, str) and asked.startswith("/") and has != asked else ()


def _names(flag: str) -> list[str]:
    """The names under which a server may state a flag's value, the likeliest first."""
    plain = flag.removeprefix("--").replace("-", "_")
    others = [plain.replace(old, new) for pair in RENAMED for old, new in (pair, pair[::-1])]
    return list(dict.fromkeys([NAMES.get(flag, plain), plain, *others]))


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
    if (m := HUMAN.fullmatch(text)) is not None:
        return int(m[1]) * {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[m[2]]
    try:
        return json.loads(text)
    except ValueError:
        return SAME.get(text.lower(), text.lower())
