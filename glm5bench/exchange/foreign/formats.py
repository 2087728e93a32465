"""The import formats, and their files as measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...archive.measurement import Measurement
from ...archive.reading import limited_memory, size_of
from ...errors import FileError
from . import aiperf, csv_rows, guidellm, inferencex, sglang, vllm
from .imported import Given, Pair, Results, measurement
from .reading import MAX_BYTES, ForeignFile, foreign_file

MEMORY_BYTES = 4 << 30  # of address space: libraries that are imported meanwhile reserve much more than they use
MEMORY_PER_BYTE_OF_TEXT = 60  # JSON of small numbers as objects of Python, and the arrays that are made of them
FORMATS: dict[str, Callable[[ForeignFile], Results]] = {
    "vllm": vllm.told,
    "sglang": sglang.told,
    "inferencex": inferencex.told,
    "aiperf": aiperf.told,
    "guidellm": guidellm.told,
    "csv": csv_rows.told,
}


def imported(format_: str, path: Path, said: Given, bad: list[FileError] | None = None) -> list[Measurement]:
    """The points of one file. See `imported_together`."""
    return imported_together(format_, [path], said, bad)


def imported_together(format_: str, paths: Sequence[Path], said: Given, bad: list[FileError] | None = None) -> list[Measurement]:
    """The points of files of one format, with the facts that the user gives. Two files of one AIPerf run become one point.

    The error of an entry that cannot be read is added to `bad`; without `bad` it is raised. Raises FileError for a file of another kind
    or without a readable entry, SettingsError if a file and the user contradict each other.
    """
    size = sum(size_of(path) for path in paths)
    try:
        with limited_memory(MEMORY_BYTES + MEMORY_PER_BYTE_OF_TEXT * min(size, MAX_BYTES)):
            return _imported(format_, paths, said, bad)
    except MemoryError as error:
        message = "Reading the file takes more memory than a file of its size can need: it is damaged or hostile."
        raise FileError(message, path=", ".join(map(str, paths))) from error


def _imported(format_: str, paths: Sequence[Path], said: Given, bad: list[FileError] | None) -> list[Measurement]:
    files = [foreign_file(path) for path in paths]
    results = [FORMATS[format_](file) for file in files]
    pairs = [(told, file) for file, result in zip(files, results, strict=True) for told in result.told]
    points, wrong = _measurements(aiperf.joined(pairs) if format_ == "aiperf" else pairs, said, format_)
    wrong = [*(error for result in results for error in result.bad), *wrong]
    if wrong and (bad is None or not points):
        raise wrong[0]
    if bad is not None:
        bad += wrong
    return points


def _measurements(pairs: Sequence[Pair], said: Given, format_: str) -> tuple[list[Measurement], list[FileError]]:
    """A measurement for each valid entry, and the errors of the others."""
    points, wrong = [], []
    for told, file in pairs:
        try:
            points.append(measurement(told, said, file, format_))
        except FileError as error:
            wrong.append(error)
    return points, wrong
