"""The flags, variables and images in which two arms' servers differ. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .recipe import flags, image, rules, set_by_itself
from .values.plain import digest_of
from .values.point import Arm


@dataclass(frozen=True)
class Difference:
    """One flag, variable or image that differs; None for the arm that does not set it. `groups`: the groups that set it."""

    name: str
    one: str | None
    other: str | None
    groups: tuple[str, ...]


def differences(one: Arm, other: Arm) -> tuple[Difference, ...]:
    """Every flag and variable in which two arms differ, and the image; `$C` and similar names are not replaced."""
    told, otherwise = _told(one), _told(other)
    found = []
    for name in dict.fromkeys((*told, *otherwise)):
        (a, group_a), (b, group_b) = told.get(name, (None, "")), otherwise.get(name, (None, ""))
        if a != b:
            found.append(Difference(name, a, b, tuple(dict.fromkeys(g for g in (group_a, group_b) if g))))
    return tuple(found)


def _told(arm: Arm) -> dict[str, tuple[str | None, str]]:
    said: dict[str, tuple[str | None, str]] = {}
    for flag, setting in flags(arm).items():
        said[flag] = (in_words(setting.value), setting.group)
    for group, rule in rules(arm):
        for name, value in rule.env.items():
            if value is None:
                said.pop(name, None)
            else:
                said[name] = (value, group)
    said |= {flag: (in_words(value), f"engine/{arm.engine.id}") for flag, value in set_by_itself(arm).items()}
    own = {name: (value, "engine.env") for name, value in arm.engine.env.items()}
    return {**said, **own, "image": (image(arm) or None, "engine")}


def in_words(value: Any) -> str:
    """A flag's value as written in its group, with a table of concurrencies spelled out; empty for a bare flag."""
    if isinstance(value, Mapping):
        return ", ".join(f"{v} up to $C={limit}" if limit else f"{v} above" for limit, v in value["by_concurrency"])
    return "" if value is True else str(value)


def more_than_speculative(one: Arm, other: Arm) -> tuple[Difference, ...]:
    """The differences between two arms, except those that come only from the speculative setting."""
    return tuple(d for d in differences(one, other) if any(not group.startswith("speculative/") for group in d.groups))


def mtp_notes(arms: Sequence[Arm]) -> list[str]:
    """Notes on pairs of arms that should differ only in the speculative setting, but whose published recipes differ in more."""
    same: dict[str, list[Arm]] = {}
    for arm in arms:
        same.setdefault(digest_of(dataclasses.replace(arm, speculative=arms[0].speculative)), []).append(arm)
    notes = []
    for alike in same.values():
        for one, other in itertools.combinations({arm.speculative.id: arm for arm in alike}.values(), 2):
            more = more_than_speculative(one, other)
            if more:
                names = ", ".join(d.name for d in more)
                notes.append(f"{one.label} and {other.speculative.id} differ in more than speculation: {names}")
    return notes
