"""Selection of points by conditions on their summary columns, as in `hardware=b200,tp<=8`. All conditions must hold."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .columns import BY_NAME

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of one column with one value."""

    column: str
    relation: str
    value: str | float


@dataclass(frozen=True)
class Selection:
    """Selects the points for which every condition holds. Without conditions, all points."""

    conditions: tuple[Condition, ...] = ()

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a point with this summary is selected."""
        return all(OPERATORS[c.relation](values[c.column], c.value) for c in self.conditions)


def selection(text: str) -> Selection:
    """The selection that `text` describes. Raises UsageError for an unknown column or an impossible comparison."""
    return Selection(tuple(_condition(part) for part in text.split(",") if part.strip()))


def _condition(text: str) -> Condition:
    found = CONDITION.fullmatch(text)
    if not found:
        raise UsageError(
            f"--where {text.strip()!r} is not a valid condition.",
            next_step="for example: --where 'hardware=b200,precision=nvfp4,tp<=8'",
        )
    name, relation, value = found.groups()
    if name not in BY_NAME:
        near = ", ".join(difflib.get_close_matches(name, BY_NAME, 3)) or "hardware, precision, speculative, tp, concurrency, validity"
        raise UsageError(f"--where {name}: points have no such column.", next_step=f"one of {near}")
    if BY_NAME[name].kind == "text":
        if relation not in ("=", "!="):
            raise UsageError(f"--where {text.strip()}: {name} is a text and needs = or !=.", next_step=f"{name}={value} or {name}!={value}")
        return Condition(name, relation, value)
    try:
        return Condition(name, relation, float(value))
    except ValueError as error:
        raise UsageError(f"--where {text.strip()}: {name} is a number, but {value!r} is not.", next_step=f"{name}=8") from error
