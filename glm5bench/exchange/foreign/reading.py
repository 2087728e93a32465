"""Files of other tools as checked values: files of limited size, JSON objects, and fields of the expected types.

Enters: a path. Leaves: entries whose fields are numbers, counts or texts, or absent. These files are untrusted. Anything invalid raises
a FileError with the file, the entry and the field. Nothing in the files is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FileError

MAX_BYTES = 2**30
MAX_COUNT = 2**53  # larger JSON numbers may not be exact integers
MAX_SECONDS = 1e8  # of a run: three years
MAX_TEXT = 2000
REPLACED, MOST_REPLACED = "\ufffd", 0.01  # the character for invalid bytes, and its largest share of a text
KEYS_OF = {  # fields that identify a file of each tool
    "vllm": ("model_id", "duration", "completed"),
    "sglang": ("backend", "total_output_tokens", "mean_e2e_latency_ms"),
    "inferencex": ("hw", "conc", "tput_per_gpu"),
    "aiperf": ("input_config", "request_latency"),
    "aiperf_requests": ("metadata", "metrics"),
    "guidellm": ("benchmarks", "metadata"),
}
RENAMED = {  # names of fields in earlier releases, and their current names
    "sglang": {  # July 2024. Latencies are in ms, although their names do not show it
        "total_input": "total_input_tokens", "total_output": "total_output_tokens",
        "total_output_retokenized": "total_output_tokens_retokenized", "output_token_throughput": "output_throughput",
        "mean_e2e_latency": "mean_e2e_latency_ms", "median_e2e_latency": "median_e2e_latency_ms",
        "median_ttft": "median_ttft_ms", "median_itl": "median_itl_ms", "benchmark_duration": "duration",
    },
}  # fmt: skip
OLDER = (  # formats that are recognised but not read: fields present, fields missing, description, next step
    (("benchmarks",), ("metadata",), "GuideLLM before 0.5, whose figures are defined otherwise", "run it again with GuideLLM 0.5 or later"),
    (
        ("records", "input_config"),
        ("request_latency",),
        "AIPerf of before October 2025 (its issue 340), whose figures are inside `records`",
        "export it with a newer AIPerf",
    ),
)


@dataclass(frozen=True)
class Read:
    """The entries of a file that could be read, and the errors of the others."""

    entries: list[Entry]
    bad: list[FileError]


@dataclass(frozen=True)
class ForeignFile:
    """The bytes of a file, its name without the directory, and their hash."""

    path: str
    name: str
    text: str
    sha256: str


def foreign_file(path: Path) -> ForeignFile:
    """The whole file. Raises FileError if it is missing, empty, too large or not text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileError(f"The file cannot be read: {error.strerror or error}.", path=str(path), next_step="check the path") from error
    text = data.decode("utf-8-sig", "replace")  # an invalid byte affects its line at most
    if text.count(REPLACED) > MOST_REPLACED * len(text):
        raise FileError("The file is not UTF-8 text.", path=str(path), next_step=_OTHER)
    if len(data) > MAX_BYTES:
        raise FileError(f"The file has more than {MAX_BYTES:,} bytes.", path=str(path), next_step="import it without per-request details")
    if not text.strip():
        raise FileError("The file is empty.", path=str(path), next_step="check that the benchmark finished, or run it again")
    return ForeignFile(str(path), path.name, text, hashlib.sha256(data).hexdigest())


_OTHER = "give the file that the tool itself wrote"


def documents(file: ForeignFile) -> Iterator[Any]:
    """The JSON values of a file: one, several, or one per line. A value that is cut off or not JSON is returned as its FileError.

    In a file with one value per line, a bad line affects only itself.
    """
    values, wrong = _one_after_another(file)
    lines = [(number, line) for number, line in enumerate(file.text.split("\n"), start=1) if line.strip()]
    if wrong is not None and any(line.startswith("{") and _is_object(line) for _, line in lines):
        values = [_document(line, file, f"{file.path}, line {number}") for number, line in lines]
    elif wrong is not None:
        values = [*values, wrong]
    yield from values


def _one_after_another(file: ForeignFile) -> tuple[list[Any], FileError | None]:
    """The JSON values up to the first error, and that error."""
    at, decoder = 0, json.JSONDecoder()
    values: list[Any] = []
    while (at := _after_blanks(file.text, at)) < len(file.text):
        try:
            value, at = decoder.raw_decode(file.text, at)
        except (ValueError, RecursionError) as error:
            return values, _unread(error, file.path)
        values.append(value)
    return values, None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _document(text: str, file: ForeignFile, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _unread(error, where)


def _unread(error: Exception, where: str) -> FileError:
    if isinstance(error, RecursionError):
        return FileError("The JSON is nested too deeply to be a result.", path=where, next_step=_OTHER)
    return FileError(f"The file is no whole JSON: {_short(error)}.", path=where, next_step=_OTHER)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def entries(file: ForeignFile, format_: str) -> Read:
    """The results of this tool in a file, and the errors of other values. Raises FileError if there are no results."""
    values = [value for document in documents(file) for value in (document if isinstance(document, list) else [document])]
    read = Read([], [])
    for i, value in enumerate(values):
        try:
            entry = Entry(_renamed(_object(value, file, i), format_), file, i)
            _refuse_others(entry, format_)
        except FileError as error:
            read.bad.append(error)
        else:
            read.entries.append(entry)
    if not read.entries:
        raise read.bad[0] if read.bad else FileError("The file contains no result.", path=file.path, next_step=_OTHER)
    return read


def _renamed(value: Mapping[str, Any], format_: str) -> Mapping[str, Any]:
    """The same fields under their current names. If a field is present under both names, the current one is used."""
    names = RENAMED.get(format_, {})
    return {names.get(key, key): field for key, field in value.items()} | {key: value[key] for key in names.values() if key in value}


def _object(value: Any, file: ForeignFile, index: int) -> Mapping[str, Any]:
    if isinstance(value, FileError):
        raise value
    if not isinstance(value, dict):
        raise FileError(f"Entry {index} is {_kind(value)}, and no object with named fields.", path=file.path, next_step=_OTHER)
    return value


def _refuse_others(entry: Entry, format_: str) -> None:
    lacks = [key for key in KEYS_OF[format_] if key not in entry.values]
    if not lacks:
        return
    for has, not_, what, next_step in OLDER:
        if all(key in entry.values for key in has) and not any(key in entry.values for key in not_):
            raise entry.error(f"This is a result of {what}", next_step=next_step)
    likely = [name for name, keys in KEYS_OF.items() if all(key in entry.values for key in keys)]
    next_step = f"run `glm5bench import {likely[0].split('_')[0]} ...`: the file looks like its output" if likely else _OTHER
    raise entry.error(f"This is no result of {format_}: it has no {' and no '.join(lacks)}", next_step=next_step)


@dataclass(frozen=True)
class Entry:
    """One object of a foreign file. A field that is missing, null or NaN is None. A field of another type raises FileError."""

    values: Mapping[str, Any]
    file: ForeignFile
    index: int
    path: str = ""  # path of the object within its entry, with a dot at its end

    def error(self, message: str, *, next_step: str = _OTHER) -> FileError:
        """An error about this entry."""
        return FileError(f"{message}.", path=f"{self.file.path}, entry {self.index}", next_step=next_step)

    def wrong(self, key: str, wanted: str) -> FileError:
        """An error about a field with a wrong value."""
        return self.error(f"{self.path}{key} is {_kind(self.values.get(key))}, and should be {wanted}")

    def number(self, key: str) -> float | None:
        """A finite number."""
        value = self.values.get(key)
        if value is None:
            return None
        number = _float(value)
        if number is not None and math.isnan(number):
            return None
        if number is None or math.isinf(number):
            raise self.wrong(key, "a finite number")
        return number

    def needed(self, key: str) -> float:
        """A number that must be present."""
        number = self.number(key)
        if number is None:
            raise self.error(f"{self.path}{key} is missing")
        return number

    def count(self, key: str) -> int | None:
        """A whole number from 0."""
        number = self.number(key)
        if number is None:
            return None
        if number != int(number) or not 0 <= number <= MAX_COUNT:
            raise self.wrong(key, "a count")
        return int(number)

    def clock_ns(self, key: str) -> int:
        """A time in whole ns. It may be an epoch time, which a float cannot represent exactly."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise self.wrong(key, "a time in ns")
        return value

    def text(self, key: str) -> str | None:
        """A text, cut to MAX_TEXT characters; None if it is empty."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value[:MAX_TEXT] if value else None

    def truth(self, key: str) -> bool:
        """True or false; false if the field is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def child(self, key: str) -> Entry:
        """The object in a field; an empty one if the field is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Entry(value or {}, self.file, self.index, f"{self.path}{key}.")

    def is_absent(self, key: str) -> bool:
        """Whether a field is missing, null, empty or NaN."""
        value = self.values.get(key)
        return value is None or value == "" or (isinstance(value, float) and math.isnan(value))

    def children(self, key: str) -> Iterator[Entry]:
        """The objects of a list; no objects if the list is absent."""
        for i, value in enumerate(self.listed(key)):
            if not isinstance(value, dict):
                raise self.wrong(key, "a list of objects")
            yield Entry(value, self.file, self.index, f"{self.path}{key}[{i}].")

    def listed(self, key: str) -> Sequence[Any]:
        """A list; an empty one if the field is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value or []

    def seconds(self, key: str) -> list[float]:
        """A list of times or durations. NaN is kept."""
        return [self._second(key, value) for value in self.listed(key)]

    def gaps(self, key: str) -> list[list[float]]:
        """A list of lists of durations."""
        found = self.listed(key)
        if not all(isinstance(gaps, list) for gaps in found):
            raise self.wrong(key, "a list of lists of seconds")
        return [[self._second(key, value) for value in gaps] for gaps in found]

    def _second(self, key: str, value: Any) -> float:
        number = _float(value)
        if number is None or not (0 <= number <= MAX_SECONDS * 100 or math.isnan(number)):  # epoch times in seconds are below this limit
            raise self.error(f"{self.path}{key} holds {_kind(value)}, and should hold seconds")
        return number

    def counts(self, key: str) -> list[int]:
        """A list of whole numbers from 0."""
        numbers = [_float(value) for value in self.listed(key)]
        if any(n is None or not 0 <= n <= MAX_COUNT or n != int(n) for n in numbers):
            raise self.wrong(key, "a list of counts")
        return [int(n) for n in numbers if n is not None]


def _float(value: Any) -> float | None:
    """The value as a float; None if it is not a number. NaN and infinity are kept."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return "nothing" if value is None else repr(value)[:60]
