"""The settings of an arm and of its points' axes, validated.

Input: plain data as Hydra composed it (overrides.py). Output: frozen Settings, or an error with the path and value of the first fault.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from ..engines.known import adapter
from ..errors import SettingsError
from ..files import sha256
from ..sessions.file import read_sessions
from ..sessions.shipped import located
from ..values.cluster import CLASSES
from ..values.plain import plain, type_adapter
from ..values.secrets import stated_secrets
from ..values.settings import Settings
from ..values.workload import Workload, impossible

MOST_PAUSE_S = 3500.0  # conf/engine makes servers keep an idle connection for 3600 s
POINT_AXES = ("concurrency", "repeat", "seed")


def conf_dir() -> Path:
    """The folder of config groups: inside the package in a wheel, at the top in a checkout or an editable install."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise SettingsError("The folder conf/ of glm5bench is missing.", where=str(package), next_step="reinstall the package")


def group_values(group: str, config_dir: Path | None = None) -> list[str]:
    """The choices of a config group, sorted."""
    places = [conf_dir(), *([config_dir] if config_dir else [])]
    return sorted({f.stem for place in places for f in (place / group).glob("*.yaml")})


def validated(asked: dict[str, Any]) -> Settings:
    """The settings of one composed arm. Raises SettingsError with the path and the value of the first thing that is wrong."""
    for axis in POINT_AXES:
        if not isinstance(asked.get(axis), list):
            asked[axis] = [asked.get(axis)]
    settings: Settings = validate(Settings, asked, "")
    refuse_unknown(asked, plain(settings, is_whole=True), "")
    for hardware in {*settings.cluster.hardware, settings.hardware.id}:
        settings.cluster.resources(hardware)
    if settings.stage == "local" and (settings.cluster.stage_dir is None or settings.cluster.checkpoint_dir is None):
        lacks = "stage_dir, a disk of the nodes' own" if settings.cluster.stage_dir is None else "checkpoint_dir to copy from"
        raise SettingsError(f"stage=local: cluster {settings.cluster.id} has no {lacks}.", next_step="cluster.stage_dir=/local/scratch")
    if settings.accuracy.task and settings.accuracy.data is None:
        raise SettingsError(
            f"accuracy={settings.accuracy.id} needs its questions.",
            where="accuracy.data",
            next_step="accuracy.data=DIR, with train.jsonl and test.jsonl, on a file system that compute nodes see",
        )
    for name in stated_secrets(settings.engine.env, settings.engine.extra_args):
        raise SettingsError(
            f"{name} holds a secret, and its value would be stored with the plan and every point.",
            where="engine.env or engine.extra_args",
            next_step=f"export it, and pass it by name in single quotes: 'engine.env.{name.strip('-').upper().replace('-', '_')}=$NAME'",
        )
    adapter(settings.engine)  # raises for one that is unknown
    _refuse_bad_expressions(settings)
    settings = replace(settings, workload=complete_workload(settings.workload))
    if settings.workload.has_sessions and settings.stop_when is not None:
        raise SettingsError(
            "Agent sessions have no saturation to stop at: at a higher concurrency the cache may fail, or still help.",
            where=f"stop_when={settings.stop_when}",
            next_step="remove stop_when",
        )
    if settings.speculative.pinned is None:
        settings = replace(settings, speculative=replace(settings.speculative, of_pinned=()))
    elif settings.accuracy.task:
        raise SettingsError(
            "With a pinned acceptance length the server's text is wrong, so no accuracy can be tested.",
            where=f"speculative.pinned={settings.speculative.pinned:g} and accuracy={settings.accuracy.id}",
            next_step="test the accuracy in a campaign without speculative.pinned",
        )
    if not settings.workload.has_sessions:  # these rules would only be a difference from plans of earlier versions
        settings = replace(settings, engine=replace(settings.engine, of_sessions=()))
    strange = set(settings.cluster.hardware) - {settings.hardware.id, *_hardware_names()}
    if strange:
        known = ", ".join(_hardware_names())
        raise SettingsError(
            f"cluster.hardware.{min(strange)} is not a known hardware.", where=f"cluster {settings.cluster.id}", next_step=known
        )
    unknown = set(settings.failure.classes) ^ set(CLASSES)
    if unknown:
        raise SettingsError(f"failure.classes: {min(unknown)} is missing or no class.", where="conf/failure", next_step=", ".join(CLASSES))
    return settings


def complete_workload(w: Workload) -> Workload:
    """The same, with the hash of its file: what that holds changes the measurement, where it lies does not.

    Agent sessions also set the lengths: the means of their requests, and the longest one. Raises SettingsError for a workload that
    contradicts itself, and where the file cannot be read, is not the one that was meant, or is wrong.
    """
    wrong = impossible(w)
    if wrong:
        raise SettingsError(f"{wrong}.", where="the command line or conf/workload", next_step="`glm5bench plan --help`")
    if w.file is None:
        return w
    path = located(w.file)
    try:
        found = sha256(Path(path).expanduser())
    except OSError as error:
        raise SettingsError(f"workload.file cannot be read: {error.strerror or error}.", where=w.file) from error
    if w.file_sha256 not in (None, found):
        raise SettingsError("workload.file is not the one whose hash workload.file_sha256 gives.", where=w.file)
    kept = w.file if path != w.file else str(Path(path).expanduser().absolute())  # a shipped file has its name everywhere
    w = replace(w, file=kept, file_sha256=found)
    return _with_lengths(w, path, found) if w.has_sessions else w


def _with_lengths(w: Workload, path: str, digest: str) -> Workload:
    isl, osl, longest, delay_s = _lengths_of(path, digest)
    paused_s = min(delay_s, w.idle_cap_s) if w.idle_cap_s is not None else delay_s
    if paused_s > MOST_PAUSE_S:
        raise SettingsError(
            f"A session pauses for {paused_s:g} s, longer than the {MOST_PAUSE_S:g} s for which servers are told to keep connections.",
            where=path,
            next_step=f"set workload.idle_cap_s to at most {MOST_PAUSE_S:g}",
        )
    cap = w.idle_cap_s if w.idle_cap_s is not None and w.idle_cap_s < delay_s else None  # one that changes nothing is no other workload
    return replace(w, isl_tokens=isl, osl_tokens=osl, range_ratio=1.0, most_tokens=longest, most_pause_s=paused_s, idle_cap_s=cap)


@functools.lru_cache(maxsize=8)
def _lengths_of(path: str, digest: str) -> tuple[int, int, int, float]:
    """Mean prompt, mean answer and longest request of a file of sessions, in tokens, and its longest pause in seconds."""
    read = read_sessions(path)
    asked = [(session.prompt_tokens(call), call.output_tokens) for session, call in read.calls]
    isl, osl = (max(1, round(sum(lengths) / len(asked))) for lengths in zip(*asked, strict=True))
    return isl, osl, read.longest_tokens, read.longest_delay_s


def _refuse_bad_expressions(settings: Settings) -> None:
    for name, expressions in (("phases", settings.engine.phases), ("fatal", settings.engine.fatal)):
        for expression in expressions:
            try:
                re.compile(expression)
            except re.error as error:
                raise SettingsError(f"engine.{name}: {expression!r} is not a regular expression: {error}.", where="conf/engine") from error


@functools.cache
def _hardware_names() -> tuple[str, ...]:
    return tuple(group_values("hardware"))


def validate(kind: type[Any], asked: Any, prefix: str) -> Any:
    """A value of this kind. Raises SettingsError with the path and the value of the first thing that is wrong."""
    try:
        return type_adapter(cast(Hashable, kind)).validate_python(asked)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([p for p in (prefix, *map(str, first["loc"])) if p])
        group = path.partition(".")[0]
        if first["type"] == "missing":
            text, step = f"The setting {path} is missing.", f"add it to the file of this {group}; conf/{group} has complete examples"
        else:
            text, step = f"{path}={first['input']!r}: {_in_words(first)}.", f"`glm5bench plan --show settings` explains {path}"
        raise SettingsError(text, where="the command line or conf/", next_step=step) from error


def _in_words(error: Any) -> str:
    """What is wrong with a value, in words of this program."""
    kinds = {
        "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text", "tuple": "a list: [a,b]",
        "dict": "a mapping", "finite_number": "a finite number",
    }  # fmt: skip
    kind = next((words for name, words in kinds.items() if error["type"].startswith(name)), "")
    return (
        f"it must be {kind}"
        if kind
        else str(error["msg"]).replace("Input should be", "it must be").replace("greater than or equal to", "at least")
    )


def refuse_unknown(asked: Any, known: Any, path: str) -> None:
    """Raises SettingsError for the first key, however deep, that is asked and not known."""
    if not isinstance(asked, dict) or not isinstance(known, dict):
        return
    for key, value in asked.items():
        here = f"{path}.{key}" if path else str(key)
        if str(key) not in known:
            raise SettingsError(f"{here} is not a setting.", where="conf/", next_step=f"known here: {', '.join(sorted(known))}")
        refuse_unknown(value, known[str(key)], here)
