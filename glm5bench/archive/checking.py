"""Judges every point of a file again from its raw times, and compares them with its stored figures. Reads in a reader process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.reasons import Reason, Verdict
from ..errors import FileError
from .collection import Gathered, surveys
from .columns import COLUMNS
from .contents import Survey
from .decoding import measurements
from .measurement import Measurement
from .reading import Readers
from .summary import summary
from .union import Progress, no_progress
from .writer import name_of

POINTS_AT_ONCE = 32
TOLERANCE = 1e-9  # sums differ between versions of numpy


@dataclass(frozen=True)
class Checked:
    """One judged point. `differing`: figures in the file that do not follow from its raw times."""

    values: dict[str, Any]
    origin: str
    verdict: Verdict
    is_whole: bool
    differing: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether tables may use it without changes."""
        return self.verdict.validity != "invalid" and not self.differing


@dataclass
class Check(Gathered):
    """The measurements in the paths, each once, and the errors."""

    points: dict[str, Checked] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[str, bool]]:
        """See `Gathered.members`."""
        return {name: (c.values["digest"], c.is_whole) for name, c in self.points.items()}

    def add(self, each: Checked) -> None:
        """Adds a point. If there are several copies of one measurement, the first with raw times is kept."""
        name = name_of(each.values)
        if name not in self.points or (each.is_whole and not self.points[name].is_whole):
            self.points[name] = each


@dataclass(frozen=True)
class _Task:
    """Points `begin` to `end` of a file."""

    path: Path
    begin: int
    end: int


def check(paths: Sequence[str], *, jobs: int = 1, progress: Progress = no_progress) -> Check:
    """Every point of the paths, judged. Raises UsageError if a path does not exist."""
    found = Check()
    tasks: list[_Task] = []
    for each in surveys(paths, found, jobs=jobs):
        found.tables |= each.source_tables()
        tasks += _tasks(each)
    with Readers(_judged, lambda task: task.path, jobs=jobs) as judges:
        for i, (_, judged) in enumerate(judges.map(tasks), 1):
            progress(i, len(tasks))
            for point in [judged] if isinstance(judged, FileError) else judged:
                found.refuse(point) if isinstance(point, FileError) else found.add(point)
    return found


def _tasks(found: Survey) -> list[_Task]:
    n = found.n + len(found.bad)  # bad points also have positions
    begins = range(0, n, POINTS_AT_ONCE)
    return [_Task(found.path, begin, begin + POINTS_AT_ONCE) for begin in begins]


def _judged(task: _Task) -> list[Checked | FileError]:
    """The judged points of a task. A point that cannot be read is returned as its error."""
    return [
        each if isinstance(each, FileError) else _checked(*each, origin=str(task.path))
        for each in measurements(task.path, range(task.begin, task.end))
    ]


def _checked(m: Measurement | None, stored: dict[str, Any] | None, digest: str, *, origin: str) -> Checked | FileError:
    if m is None:  # only its summary was merged
        assert stored is not None
        reasons = tuple(Reason(code, "from the stored summary, without raw times") for code in stored["reasons"].split(",") if code)
        return Checked(stored, origin, Verdict(stored["validity"], reasons), is_whole=False)
    try:
        values = summary(m, digest, where=origin)
    except FileError as error:
        return error
    differing = tuple(_differing(stored, values)) if stored is not None else ()
    return Checked(values, origin, m.verdict(), is_whole=True, differing=differing)


def _differing(stored: dict[str, Any], computed: dict[str, Any]) -> Iterator[str]:
    if stored["definitions"] != computed["definitions"]:  # other definitions: readers compute these figures again
        return
    for c in COLUMNS:
        said, is_ = stored[c.name], computed[c.name]
        if not (is_close(said, is_) if c.kind == "figure" else said == is_):
            yield f"{c.name} is stored as {said!r}, but the raw times give {is_!r}"


def is_close(a: float, b: float) -> bool:
    """Whether two figures are equal, apart from rounding that differs between versions of numpy."""
    return math.isclose(a, b, rel_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
