"""Whether a server runs with the settings that its command asked for: compares the settings that it reports with the flags. Pure.

Engines may change settings with only a line in their log; for example, SGLang's draft tokens follow its steps. Only settings that the
server reports under a flag's own name are compared. Settings at `auto`, or added by the engine, are not changes. Source: SGLang's
/server_info, for each data-parallel rank, and vLLM's log. Names that changed between versions count as equal, such as NSA and DSA.
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
DIVIDED = {name for s in SYNONYMS for name in s.divided}
HUMAN = re.compile(r"(\d+)([kKmM])")  # vLLM reads 32k as 32,000 and 32K as 32,768
FILES = {flag for engine in engines().values() for flag in engine.file_flags}  # the server reports a path, or nothing
NOT_COMPARED = {"--model-path", "--host", "--port", "--api-key", "--tokenizer-path", "--facts", *FILES}


def settings_changed(argv: Sequence[str], info: Mapping[str, Any], ignored: Sequence[str] = ()) -> tuple[tuple[str, str, str], ...]:
    """(flag, asked, has) for every flag for which the server reports another value. Of a repeated flag the last one counts, as in a parser.

    `ignored`: flags that the user allows to differ.
    """
    asked = _flags(argv)
    found: dict[tuple[str, str, str], None] = {}
    for stated in (info, *ranks(info)):
        for flag in asked.keys() - NOT_COMPARED - {*ignored}:
            if any(word.startswith("$") for word in asked[flag]):  # the node has replaced it, for example by an address
                continue
            name = next((n for n in _names(flag) if n in stated), None)
            is_elsewhere = bool(stated.get(BECAME.get(flag, "")))
            has = _whole(name, stated, info) if name is not None else None
            if name is not None and not is_elsewhere and not _is_held(asked[flag], has):
                found[flag, " ".join(asked[flag]), _text(stated[name])] = None
    return tuple(sorted(found))


def _whole(name: str, stated: Mapping[str, Any], info: Mapping[str, Any]) -> Any:
    """The stated value of a setting; of one that data-parallel ranks divide, the value before that."""
    value, ranks = stated[name], info.get("dp_size")
    is_divided = name in DIVIDED and info.get("enable_dp_attention") is True and type(value) is int and type(ranks) is int
    return value * ranks if is_divided else value


def in_words(changed: Sequence[tuple[str, str, str]]) -> str:
    """The changed settings in words."""
    told = ", ".join(f"{flag} {asked} became {has}" for flag, asked, has in changed)
    return f"runs with other settings than asked: {told}"


def other_model(asked: str, stated: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(checkpoint, asked, has) if the server reports another directory. Repository names are not checked, because engines resolve them."""
    has = stated.get("model_path") or stated.get("model")
    return (("the checkpoint", asked, has),) if isinstance(has, str) and asked.startswith("/") and has != asked else ()


def _names(flag: str) -> list[str]:
    """The names under which a server may report a flag's value, the most likely first."""
    plain = flag.removeprefix("--").replace("-", "_")
    others = [plain.replace(old, new) for pair in RENAMED for old, new in (pair, pair[::-1])]
    return list(dict.fromkeys([NAMES.get(flag, plain), plain, *others]))


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """Each flag's values; `true` for a bare flag."""
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
    """The value of a text, with numbers and JSON parsed, so that 0.90 equals 0.9."""
    if (m := HUMAN.fullmatch(text)) is not None:
        return int(m[1]) * {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[m[2]]
    try:
        return json.loads(text)
    except ValueError:
        return SAME.get(text.lower(), text.lower())
