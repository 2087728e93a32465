"""The formats that can be imported, and a file of one as measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import FileError
from ..measurement import Measurement
from . import aiperf, csv_rows, guidellm, inferencex, sglang, vllm
from .imported import Given, Results, measurement
from .reading import ForeignFile, foreign_file

FORMATS: dict[str, Callable[[ForeignFile], Results]] = {
    "vllm": vllm.told,
    "sglang": sglang.told,
    "inferencex": inferencex.told,
    "aiperf": aiperf.told,
    "guidellm": guidellm.told,
    "csv": csv_rows.told,
}


def imported(format_: str, path: Path, said: Given, bad: list[FileError] | None = None) -> list[Measurement]:
    """The points of a file, with what the user says of them.

    An entry that cannot be read goes to `bad`, and the others are read; without `bad` it is raised. Raises FileError for what is no such
    file or has no readable entry, SettingsError where file and user contradict each other.
    """
    file = foreign_file(path)
    results = FORMATS[format_](file)
    points, wrong = [], list(results.bad)
    for told in results.told:
        try:
            points.append(measurement(told, said, file, format_))
        except FileError as error:
            wrong.append(error)
    if wrong and (bad is None or not points):
        raise wrong[0]
    if bad is not None:
        bad += wrong
    return points
