"""Hydra overrides -> settings, one value an arm. With launchers/, the only place that knows Hydra.

Input: command-line overrides and conf/. Output: settings.Settings. Hydra composes once per arm. Concurrency, repeat and seed are lists
inside a composition, so `concurrency=4,8` and `concurrency=[4,8]` are the same. An experiment is a union of products of overrides; the
command line is added to every arm. No other module uses OmegaConf.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import BenchError, SettingsError
from ..values.plain import digest_of, plain
from ..values.settings import Asked, Settings, together
from .typed import WHERE, config_dir, for_hydra, unknown_choice, unknown_setting
from .validated import POINT_AXES, conf_dir, refuse_unknown, validate, validated

# these change no point, and no campaign\'s name
ABOUT_THE_RUN = ("wait", "name", "output_dir", "hydra", "cluster", "price", "experiment", "failure", "retries", "stage", "telemetry_s",
                 "accuracy", "repeat_scope", "stop_when")  # fmt: skip
PATIENCE = ("engine.start_timeout_s", "engine.stall_timeout_s", "engine.start_estimate_s")  # nor do these


@dataclass(frozen=True)
class Experiment:
    """A union of products: every arm is a list of overrides, `common` stands before each."""

    arms: Annotated[tuple[tuple[str, ...], ...], MinLen(1)]
    common: tuple[str, ...] = ()


@dataclass(frozen=True)
class Multirun:
    """Everything that one command asked for: what the Hydra launcher hands over at once."""

    launcher: str
    name: str
    overrides: tuple[str, ...]
    asked: Asked

    @classmethod
    def of(cls, launcher: str, experiment: str | None, overrides: tuple[str, ...], composed: Sequence[Settings]) -> Multirun:
        """From the arms as Hydra composed them. Raises SettingsError if a setting of the campaign differs between them."""
        asked = together(composed)
        return cls(launcher, campaign_name(experiment, overrides, asked.campaign.name), overrides, asked)


def run_hydra(arguments: Sequence[str], task: Callable[[Multirun], int], *, program: str) -> int:
    """The task's exit code, called once with all arms that the arguments ask for.

    Raises SettingsError for anything that Hydra or the validation refuses.
    """
    _plugins_on_path()
    import hydra  # here, so that commands without overrides do not pay for it

    received: list[Multirun] = []
    decorated = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(received.append)
    # without --multirun Hydra composes twice, and where that fails it speaks of commas in place of the cause
    with _arguments_and_errors([program, "--multirun", *for_hydra(arguments)]):
        try:
            decorated()
        except BenchError:
            raise
        except Exception as error:  # Hydra lets YAML's, Unicode's and its own type errors through: all are of what was asked
            raise _settings_error(error, config_dir(arguments)) from error
    return task(received[-1]) if received else 0


def _plugins_on_path() -> None:
    """In a checkout the Hydra plugins are in launchers/, which comes before the copy of an editable install."""
    launchers = Path(__file__).resolve().parents[2] / "launchers"
    if launchers.is_dir() and sys.path[0] != str(launchers):
        sys.path.insert(0, str(launchers))


class _arguments_and_errors:  # noqa: N801  a context manager reads as a verb
    """hydra.main reads its arguments from sys.argv, and raises errors only if HYDRA_FULL_ERROR is set."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv

    def __enter__(self) -> None:
        self._saved = (sys.argv, os.environ.get("HYDRA_FULL_ERROR"))
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = self._argv, "1"

    def __exit__(self, *_: object) -> None:
        sys.argv = self._saved[0]
        if self._saved[1] is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = self._saved[1]


def _settings_error(error: Exception, folder: Path | None = None) -> SettingsError:
    """What Hydra refuses, in words of our own."""
    cause, override = error.__cause__, getattr(error, "override", None)
    text = (f"{override}: " if override else "") + " ".join(str(error).split()).partition(" Config search path:")[0]
    unknown = re.search(r"Could not override '([^']+)'|Could not append to config. An item is already at '([^']+)'", text)
    if unknown and unknown[1]:
        return unknown_setting(unknown[1], folder)
    if unknown:
        return SettingsError(
            f"The setting {unknown[2]} exists already.", where=WHERE, next_step=f"leave out the plus sign: {unknown[2]}=VALUE"
        )
    missing = re.search(r"Could not find '([^'/]+)/([^']+)'", text)
    if missing:
        return unknown_choice(missing[1], missing[2], folder)
    if isinstance(cause, OmegaConfBaseException) and str(cause).split("\n")[0] not in text:
        text += ": " + str(cause).split("\n")[0]
    text = re.sub(r" ?See https://hydra\S+.*| To append to your config use [^:]*", "", text)
    return SettingsError(text, where=f"{WHERE} or conf/", next_step="`glm5bench plan --help` lists groups and values")


def arm_overrides(experiment: Mapping[str, Any] | None, command_line: Sequence[Any], parse: Callable[[list[str]], Any]) -> list[list[str]]:
    """The override list of every arm: the experiment's arms (or one empty arm), each a product, the command line on top.

    `parse` is Hydra's OverridesParser.parse_overrides; `command_line` is already parsed.
    """
    if any(o.get_key_element() == "experiment" and o.is_sweep_override() for o in command_line):
        raise SettingsError("A campaign has one experiment.", where="the command line", next_step="one sweep for each, then merge")
    if experiment is None:
        common: list[str] = []
        arms: list[list[str]] = [[]]
    else:
        shape = validate(Experiment, experiment, "experiment")
        refuse_unknown(experiment, plain(shape), "experiment")
        common, arms = list(shape.common), [list(arm) for arm in shape.arms]
    return [job for arm in arms for job in _product([*parse(for_hydra([*common, *arm], is_typed=False)), *command_line])]


def _product(overrides: Sequence[Any]) -> list[list[str]]:
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        values = _values(override)
        if key in POINT_AXES:
            choices[key] = [f"{key}=[{','.join(values)}]"]
        else:
            choices[key] = [f"{key}={value}" if not key.startswith("~") else key for value in values]
    return [list(job) for job in itertools.product(*choices.values())]


def _values(override: Any) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep() and not override.is_range_sweep():
            raise SettingsError(f"{override.input_line}: this kind of sweep is not read here.", next_step="list the values: a=1,2,3")
        return list(override.sweep_string_iterator())
    text = override.get_value_element_as_str()
    if override.get_key_element() in POINT_AXES and text.startswith("[") and text.endswith("]"):
        return [v for v in text[1:-1].split(",") if v]
    return [text]


class Arms:
    """Override lists -> settings. Hydra composes once for each choice of groups, which takes it 0.1 s; arms that differ in plain values
    of that composition are made from it. What is anything else (a new key, a deletion, an interpolation) is left to Hydra.
    """

    def __init__(self, compose_one: Callable[[list[str]], DictConfig], parse: Callable[[list[str]], Any], is_group: Callable[[str], bool]):
        self._compose, self._parse, self._is_group = compose_one, parse, is_group
        self._composed: dict[tuple[str, ...], Any] = {}

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The settings of one arm. Raises SettingsError for what is wrong in it."""
        axes, rest = _axes(overrides)
        plain_values: dict[str, Any] = {}
        composed = []
        for override in self._parse(rest):
            is_plain = override.type.name == "CHANGE" and override.package is None and "@" not in override.key_or_group
            if is_plain and not self._is_group(override.key_or_group):
                plain_values[override.key_or_group] = override.value()
            else:
                composed.append(override.input_line)
        asked = self._asked(tuple(composed))
        if not _replaced(asked, plain_values):
            asked = _container(self._compose(rest))
        return validated({**asked, **axes})

    def _asked(self, composed: tuple[str, ...]) -> Any:
        if composed not in self._composed:
            self._composed[composed] = _container(self._compose(list(composed)), resolve=False)
        return copy.deepcopy(self._composed[composed])


def _axes(overrides: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """The points' axes taken out of an arm's overrides: Hydra takes milliseconds to parse a long list."""
    axes: dict[str, list[Any]] = {}
    rest = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in POINT_AXES and value.startswith("[") and value.endswith("]") and all(v.strip().isdigit() for v in value[1:-1].split(",")):
            axes[key] = [int(v) for v in value[1:-1].split(",")]
        else:
            rest.append(override)
    return axes, rest


def _replaced(asked: Any, values: Mapping[str, Any]) -> bool:
    """Puts the values in their places. False if one is not a plain value of the composition, or if the composition has interpolations."""
    text = json.dumps(asked)
    if "${" in text or '"???"' in text:
        return False
    for path, value in values.items():
        *parents, last = path.split(".")
        place = asked
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place or isinstance(place[last], dict | list) or not _is_scalar(value):
            return False
        place[last] = value
    return True


def _is_scalar(value: Any) -> bool:
    return value is None or (isinstance(value, str | int | float) and "${" not in str(value) and value != "???")


def _container(composed: DictConfig, *, resolve: bool = True) -> Any:
    own = OmegaConf.masked_copy(composed, [str(k) for k in composed if k not in ("hydra", "experiment")])
    try:
        return OmegaConf.to_container(own, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        raise _settings_error(error) from error


def campaign_name(experiment: str | None, overrides: Sequence[str], explicit: str | None) -> str:
    """The same for the same question: the experiment, and a hash of what else was asked that changes the points."""
    if explicit:
        if not all(c.isalnum() or c in "._-" for c in explicit) or explicit.startswith("."):
            raise SettingsError(
                f"name={explicit!r} is not a valid name for a directory.", next_step="use letters, digits, '.', '_' and '-'"
            )
        return explicit
    keys = {o: o.lstrip("+~").partition("=")[0] for o in overrides}
    rest = sorted(o for o, key in keys.items() if re.split("[./@]", key)[0] not in ABOUT_THE_RUN and key not in PATIENCE)
    if experiment and not rest:
        return experiment
    return f"{experiment or 'sweep'}-{digest_of(rest, 8)}"


def compose(*overrides: str) -> Settings:
    """One arm from conf/ without a command line: for the simulator's command, the shipped tables and tests."""
    _plugins_on_path()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            return validated(_container(hydra_compose("config", overrides=for_hydra(overrides, is_typed=False))))
    except BenchError:
        raise
    except Exception as error:  # as in run_hydra
        raise _settings_error(error) from error
