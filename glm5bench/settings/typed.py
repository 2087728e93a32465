"""Overrides as typed -> overrides that Hydra parses. Messages of Hydra never reach the user.

Values that Hydra's grammar does not take are quoted here: `workload.goodput=ttft<=2s,tpot<=50ms` needs no quotes within quotes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ..errors import SettingsError
from ..values.settings import Settings
from .validated import POINT_AXES, conf_dir, group_values

CONFIG_DIR = ("--config-dir", "-cd")
LAUNCHERS = ("hydra/launcher=slurm", "hydra/launcher=local", "hydra/launcher=plan")
TEXTS = ("engine.version", "engine.image", "name", "output_dir")  # 0.10 is a version, not a number
WHERE = "the command line"


def for_hydra(arguments: Sequence[str], *, is_typed: bool = True) -> list[str]:
    """The arguments for Hydra. Raises SettingsError for what is not an override, and for a misspelt group or choice.

    `is_typed`: a person typed them, so that `repeat=3` may be meant as a count.
    """
    options: list[str] = []  # they go first: Hydra refuses overrides on both sides of an option
    kept: list[str] = []
    rest = iter(arguments)
    folder = config_dir(arguments)
    _refuse_odd_folder(folder)
    for argument in rest:
        if argument in ("-m", "--multirun"):  # conf/config.yaml makes every command a multirun
            continue
        if argument.split("=")[0] in CONFIG_DIR:
            options.append(argument)
            options += [next(rest, "")] if "=" not in argument else []
        elif argument.startswith("-"):
            raise SettingsError(f"Unknown option {argument}.", where=WHERE, next_step=_instead_of(argument))
        else:
            kept.append(_override(argument, folder, is_typed=is_typed))
    return [*options, *kept]


def _refuse_odd_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise SettingsError(
            f"The directory {folder} does not exist.",
            where="--config-dir",
            next_step="name a directory with your groups: DIR/cluster/mysite.yaml",
        )
    if folder is not None and any(folder.glob("*.yaml")) and not any(folder.glob("*/*.yaml")):
        raise SettingsError(
            f"The directory {folder} contains no groups.", where="--config-dir", next_step=f"name its parent: --config-dir {folder.parent}"
        )


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The directory of the user's own groups, if the arguments name one."""
    for i, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in CONFIG_DIR:
            return Path(value or (arguments[i + 1] if i + 1 < len(arguments) else ""))
    return None


def groups(folder: Path | None = None) -> list[str]:
    """The names of the config groups, of conf/ and of the user's own directory."""
    places = [conf_dir(), *([folder] if folder else [])]
    return sorted({d.name for place in places if place.is_dir() for d in place.iterdir() if d.is_dir() and any(d.glob("*.yaml"))})


def defaults() -> dict[str, str]:
    """The default choice of each group, by conf/config.yaml."""
    found: dict[str, str] = {}
    for entry in _yaml(conf_dir() / "config.yaml").get("defaults", []):
        if isinstance(entry, dict):
            (name, choice), *_ = entry.items()
            found[str(name).removeprefix("override ")] = str(choice)
    return found


def suggestion(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_setting(path: str, folder: Path | None = None) -> SettingsError:
    """The error for a setting that the composition does not have."""
    known = setting_paths(folder)
    group = path.partition(".")[0]
    if path in _open_mappings():
        return SettingsError(f"{path} takes one key at a time.", where=WHERE, next_step=f"{path}.KEY=VALUE")
    if group == "search":
        text = f"The chosen search has no setting {path!r}."
        return SettingsError(text, where=WHERE, next_step="choose one that has it: search=frontier or search=slo")
    if path in _fields():
        text = f"The chosen {group} does not contain {path!r}."
        return SettingsError(text, where=WHERE, next_step=f"add it with a plus sign: +{path}=VALUE")
    if path in known:
        return SettingsError(
            f"The chosen {group} has no setting {path!r}.",
            where=WHERE,
            next_step=f"choose another {group}: {', '.join(group_values(group, folder))}",
        )
    return SettingsError(
        f"Unknown setting {path!r}.{suggestion(path, known)}", where=WHERE, next_step="`glm5bench plan --show settings` lists all settings"
    )


def unknown_choice(group: str, choice: str, folder: Path | None = None) -> SettingsError:
    """The error for a choice that a group does not have."""
    known = group_values(group, folder)
    own = "; your own need --config-dir DIR" if folder is None and group in ("cluster", "price", "experiment") else ""
    step = f"{group}= one of {', '.join(known)}{own}"
    return SettingsError(f"{group}={choice}: unknown choice.{suggestion(choice, known)}", where=WHERE, next_step=step)


def setting_paths(folder: Path | None = None) -> list[str]:
    """The dotted names of all settings of conf/ and of the user's own directory, and the groups."""
    found = dict.fromkeys([*groups(folder), *(k for k in _yaml(conf_dir() / "config.yaml") if k not in ("defaults", "hydra"))])
    for group in groups(folder):
        for place in (conf_dir(), folder):
            for file in sorted((place / group).glob("*.yaml")) if place else []:
                found |= dict.fromkeys(_paths(_yaml(file), group))
    return list(found)


def _paths(node: Any, path: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else []:
        if key != "defaults":
            yield f"{path}.{key}"
            yield from _paths(value, f"{path}.{key}")


@functools.cache
def _yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # Hydra names the fault when it reads the file
        return {}


def _instead_of(option: str) -> str:
    if option.split("=", maxsplit=1)[0] in ("--cfg", "-c", "--info", "-i", "--resolve"):
        return "`glm5bench plan --show settings` lists every setting with its value"
    return "`glm5bench plan --help`"


def _override(argument: str, folder: Path | None, *, is_typed: bool) -> str:
    if argument.startswith(("hydra/", "hydra.")) and argument not in LAUNCHERS:
        raise SettingsError(f"{argument}: of Hydra's own settings, only the launcher can be chosen.", next_step=" or ".join(LAUNCHERS))
    key, has_value, value = argument.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if not has_value and not key.startswith("~"):
        known = setting_paths(folder)
        near = argument if argument in known else next(iter(difflib.get_close_matches(argument, known, 1)), "")
        text = f"{argument!r} is not of the form setting=value."
        raise SettingsError(text, where=WHERE, next_step=f"{near}=VALUE" if near else "`glm5bench plan --help`")
    if not name or (name.split(".")[0] not in {p.split(".")[0] for p in _roots(folder)} and not key.startswith("hydra")):
        raise unknown_setting(name, folder)
    if key.startswith("+") and name in groups(folder):
        raise SettingsError(f"{argument}: a choice of {name} needs no plus sign.", where=WHERE, next_step=f"{name}={value}")
    if any(not part.strip() for part in value.split(",")[1:]) and not value.startswith(("[", "{", "'", '"')):
        step = f"write a list without spaces: {key}={value.strip(', ') or 'VALUE'},OTHER"
        raise SettingsError(f"{argument}: a value is missing after a comma.", where=WHERE, next_step=step)
    if name in groups(folder) and has_value:
        _refuse_unknown_choice(name, value, folder)
    if name in POINT_AXES and not key.startswith("~"):
        _refuse_odd_axis(name, value, argument, is_typed=is_typed)
    return _parsable(key, value, argument, folder) if has_value else argument


@functools.cache
def _fields() -> dict[str, Any]:
    """The type of every setting by its dotted name, also of those that a user's file may leave out."""

    def inside(kind: Any, path: str) -> Iterator[tuple[str, Any]]:
        for field, of in get_type_hints(kind).items():
            here = f"{path}.{field}" if path else field
            yield here, of
            if dataclasses.is_dataclass(of):
                yield from inside(of, here)

    return dict(inside(Settings, ""))


@functools.cache
def _open_mappings() -> frozenset[str]:
    """The settings that are mappings with keys of the user's choice, for example engine.env."""
    return frozenset(name for name, of in _fields().items() if get_origin(of) is dict)


def _roots(folder: Path | None) -> list[str]:
    return [*groups(folder), *(k for k in _yaml(conf_dir() / "config.yaml") if k != "defaults"), "hydra"]


def _refuse_unknown_choice(group: str, value: str, folder: Path | None) -> None:
    for choice in value.split(","):
        plain = choice.strip().strip("'\"")
        if re.fullmatch(r"[\w.+-]+", plain) and plain not in (*group_values(group, folder), "null"):
            raise unknown_choice(group, plain, folder)


def _refuse_odd_axis(name: str, value: str, argument: str, *, is_typed: bool) -> None:
    """Refuses what is neither numbers nor a range, and a repeat that may be meant as a count."""
    inside = re.fullmatch(r"\[(.+)\]", value)
    words = [word.strip() for word in (inside[1] if inside else value).split(",")]
    if re.fullmatch(r"\s*(range|choice)\s*\(.*\)\s*", value):
        return
    if not all(re.fullmatch(r"\d+", word) for word in words):
        low, high = (re.match(r"(\d+)\s*(?:-|:|\.\.|to)\s*(\d+)", value) or re.match(r"()()", value)).groups()  # type: ignore[union-attr]
        start, stop = (int(low), int(high)) if low and int(low) < int(high) and int(low) else (4, 64)
        some = ",".join(str(n) for n in _doubling(start, stop))
        if name != "concurrency":
            some = ",".join(map(str, range(int(low or 0), min(int(high or 2), 9) + 1)))
            raise SettingsError(f"{argument}: {name} takes whole numbers.", where=WHERE, next_step=f"a list: {name}={some}")
        raise SettingsError(
            f"{argument}: {name} takes whole numbers.",
            where=WHERE,
            next_step=f"a list: {name}={some}; or a range with a step, whose end is excluded: '{name}=range({start},{stop + 1},{start})'",
        )
    if is_typed and name == "repeat" and re.fullmatch(r"[1-9]\d*", value):
        count = ",".join(map(str, range(min(int(value), 9))))
        raise SettingsError(
            f"{argument} can be read in two ways: repeats are numbered from 0.",
            where=WHERE,
            next_step=f"{value} repeats: repeat={count}; only the repeat with number {value}: 'repeat=[{value}]'",
        )


def _doubling(start: int, stop: int) -> list[int]:
    found = [start]
    while found[-1] * 2 <= stop and len(found) < 8:
        found.append(found[-1] * 2)
    return found


def _parsable(key: str, value: str, argument: str, folder: Path | None) -> str:
    """The override, with quotes if Hydra needs them. Raises SettingsError if a value is missing in it."""
    name = key.lstrip("+~")
    if name == "tp":  # Hydra refuses a bare number as the choice of a group
        return f"tp={','.join(repr(v.strip()) if v.strip().isdigit() else v for v in value.split(','))}"
    if name.startswith("price.usd_per_gpu_h.") and name.rpartition(".")[2] not in group_values("hardware", folder):
        raise unknown_choice("hardware", name.rpartition(".")[2], folder)
    if name.rpartition(".")[0] in _open_mappings() and not key.startswith(("+", "~")):
        key, argument = f"++{key}", f"++{argument}"
    if name in TEXTS or name.startswith("engine.env."):
        value = ",".join(_quoted(v) if re.fullmatch(r"[0-9]+([.][0-9]*)?", v) else v for v in value.split(","))
        argument = f"{key}={value}"
    if any(not part.strip() for part in value.split(",")[1:]) and not value.startswith(("[", "{", "'", '"')):
        raise SettingsError(
            f"{argument}: a value is missing after the comma.", where=WHERE, next_step=f"{key}={value.strip(', ') or 'VALUE'}"
        )
    if _parses(argument):
        return argument
    inside = re.fullmatch(r"\[(.*)\]", value, re.DOTALL)
    for candidate in (f"{key}=[{','.join(_quoted(v.strip()) for v in inside[1].split(','))}]" if inside else "", f"{key}={_quoted(value)}"):
        if candidate and _parses(candidate) and (inside or not value.startswith(("[", "{"))):
            return candidate
    if value.startswith(("[", "{")) and not value.endswith(("]", "}")):
        raise SettingsError(
            f"{argument}: the closing {']' if value[0] == '[' else '}'} is missing.",
            where=WHERE,
            next_step="add it, and quote the whole argument",
        )
    raise SettingsError(f"{argument}: the value cannot be read.", where=WHERE, next_step=f"quote it twice: \"{key}='VALUE'\"")


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _quoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
