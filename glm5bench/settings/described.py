"""Every composed setting of a command: its value, where it comes from, and one line of help from the comments of conf/."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..values.plain import plain
from ..values.settings import Asked
from .typed import config_dir, defaults, groups
from .validated import conf_dir

HELP = "name in tables, keys and messages"
MORE = {
    "cluster": ("template",),
    "checkpoint": ("architecture/glm_moe_dsa", "models/glm5"),
    "search": ("frontier", "slo"),
}  # which the default choice inherits or lacks


@dataclass(frozen=True)
class Described:
    """One setting. `values`: one text, or one per arm if they differ."""

    name: str
    values: tuple[str, ...]
    origin: str
    help: str


def described(asked: Asked, overrides: Sequence[str], arguments: Sequence[str]) -> list[Described]:
    """All settings in the order of conf/config.yaml. `overrides`: those of the command line; `arguments`: all that was typed."""
    folder = config_dir(arguments)
    of_arms = [dict(_leaves(plain(arm), "")) for arm in asked.arms]
    of_all = dict(_leaves(plain(asked.campaign), ""))
    typed = {o.lstrip("+~").partition("=")[0] for o in overrides}
    experiment = next((o.partition("=")[2] for o in overrides if o.startswith("experiment=")), "")
    from_experiment = _keys_of(experiment, folder) if experiment and experiment != "null" else set()
    ids = {name: value for arm in of_arms for name, value in arm.items()} | of_all
    found = []
    for name in dict.fromkeys([*(n for arm in of_arms for n in arm), *of_all]):
        values = tuple(dict.fromkeys(_text(arm[name]) for arm in (of_arms if name not in of_all else [of_all]) if name in arm))
        group = name.partition(".")[0]
        if any(name == key or name.startswith(f"{key}.") for key in typed if key not in groups(folder)):
            origin = "command line"
        elif any(name == key or name.startswith(f"{key}.") for key in from_experiment if key not in groups(folder)):
            origin = f"experiment={experiment}"
        else:
            origin = _file_of(name, str(ids.get(f"{group}.id", ids.get(f"{group}.size", ""))), folder)
            origin += f" ({group}: command line)" if group in typed else f" ({group}: experiment)" if group in from_experiment else ""
        found.append(Described(name, values, origin, _help(name, folder)))
    return found


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value and ("." not in here or path in ("cluster", "checkpoint", "price", "failure")):
            yield from _leaves(value, here)
        else:
            yield here, value


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(v, int | float | str) for v in value) and len(value) < 12:
        return ",".join(map(str, value)) if len(value) > 1 or (value and not isinstance(value[0], str)) else json.dumps(value)
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value or "''"


def _keys_of(experiment: str, folder: Path | None) -> set[str]:
    raw: Any = next((_raw(f) for f in _files("experiment", folder) if f.stem == experiment), {})
    told = [*raw.get("common", []), *(o for arm in raw.get("arms", []) for o in arm)]
    return {str(o).lstrip("+~").partition("=")[0] for o in told}


def _files(group: str, folder: Path | None) -> list[Path]:
    """The files of a group, the user's own first."""
    places = [*([folder / group] if folder else []), conf_dir() / group]
    return [f for place in places if place.is_dir() for f in sorted(place.rglob("*.yaml"))]


def _file_of(name: str, choice: str, folder: Path | None) -> str:
    """The file that sets it: of the chosen file and those that it inherits from."""
    group, _, inner = name.partition(".")
    if not inner:
        return "config.yaml"
    files = _files(group, folder)
    chosen = next((f for f in files if f.stem == choice), next((f for f in files if str(_raw(f).get("id")) == choice), None))
    return group if chosen is None else _shown(_defining(chosen, inner, group, folder) or chosen)


def _defining(file: Path, inner: str, group: str, folder: Path | None) -> Path | None:
    """The file itself if it has the setting, else the one of its defaults that has it."""
    raw = _raw(file)
    node: Any = raw
    for part in inner.split("."):
        node = node.get(part) if isinstance(node, dict) and part in node else _MISSING
    if node is not _MISSING:
        return file
    for parent in raw.get("defaults", []):
        stem = str(next(iter(parent.values()))) if isinstance(parent, dict) else str(parent)
        package = re.search(r"@(\w+)", str(next(iter(parent)))) if isinstance(parent, dict) else None
        inside = inner if package is None else inner.removeprefix(f"{package[1]}.")
        for candidate in _files(group, folder):
            if candidate.stem == stem.rpartition("/")[2] and candidate != file:
                found = _defining(candidate, inside, group, folder)
                if found:
                    return found
    return None


_MISSING: Any = object()


def _shown(file: Path) -> str:
    return str(file.relative_to(conf_dir())) if file.is_relative_to(conf_dir()) else str(file)


def _help(name: str, folder: Path | None) -> str:
    """The comment on the setting's own line in the file that documents its group, or on the line of the mapping that holds it."""
    group, _, inner = name.partition(".")
    if not inner:
        return comments(conf_dir() / "config.yaml").get(name, "")
    documented = (defaults().get(group, ""), *MORE.get(group, ()))  # in other files comments are remarks on values
    files = [f for stem in documented if (f := conf_dir() / group / f"{stem}.yaml").is_file()] or _files(group, folder)
    while inner:
        for file in files:
            told = comments(file)
            for key in (inner, inner.partition(".")[2]):  # an inherited file stands below its package: checkpoint.architecture
                if key in told:
                    return told[key]
        inner = inner.rpartition(".")[0]
    return HELP if name.endswith(".id") else ""


@functools.cache
def _raw(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


@functools.cache
def comments(file: Path) -> dict[str, str]:
    """The comment behind each key of a YAML file, by dotted name."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, str] = {}

    def walk(node: Any, path: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else str(key.value)
            end = value.end_mark if value.end_mark.line == key.start_mark.line else key.end_mark
            comment = re.search(r"\s#\s*(.+)$", lines[key.start_mark.line][end.column :])
            if comment:
                found[here] = comment[1].strip()
            walk(value, here)

    walk(yaml.compose(text), "")
    return found
