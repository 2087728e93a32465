"""The formats that can be imported, and a file of one as measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..measurement import Measurement
from . import aiperf, csv_rows, guidellm, inferencex, sglang, vllm
from .imported import Given, Told, measurement
from .reading import ForeignFile, foreign_file

FORMATS: dict[str, Callable[[ForeignFile], list[Told]]] = {
    "vllm": vllm.told,
    "sglang": sglang.told,
    "inferencex": inferencex.told,
    "aiperf": aiperf.told,
    "guidellm": guidellm.told,
    "csv": csv_rows.told,
}


def imported(format_: str, path: Path, said: Given) -> list[Measurement]:
    """The points of a file, with what the user says of them.

    Raises FileError for what is no such file, SettingsError where file and user contradict each other.
    """
    file = foreign_file(path)
    return [measurement(told, said, file, format_) for told in FORMATS[format_](file)]
