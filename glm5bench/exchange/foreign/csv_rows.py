"""A CSV with named columns and one row per point: the output of `export csv`, the published points.csv, or your own file.

Known columns are those of the summary (archive.columns.COLUMNS), latencies also in `_ms`, and the few names of points.csv. A name that is
similar to a known one is an error. Any other column is kept under its own name: numbers as figures, texts as metadata.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...archive.columns import BY_NAME, DEFINITIONS
from ...archive.measurement import SOURCES
from ...errors import FileError
from .imported import FACTS, Results, Told, fact
from .reading import MAX_COUNT, MAX_TEXT, ForeignFile

CLIENT = "csv"
ALIASES = {"isl": "isl_tokens", "osl": "osl_tokens", "tpot_ms": "tpot_median_s"}
OF_THE_ROW = ("key", "digest", "validity", "reasons", "definitions", "source", "client", "few_samples")
PROVENANCE = {"node": "host", "job_id": "job_id", "started_utc": "start_utc", "measured_on": "measured_on", "reasons": "reasons"}
OTHERS = (  # columns of the tables, computed with prices and windows
    "cost_usd_per_mtok", "input_cost_usd_per_mtok", "output_cost_usd_per_mtok", "node_cost_usd_per_mtok", "tput_per_mw_tok_s",
    "steady_tput_per_gpu_tok_s", "peak_output_tput_per_gpu_tok_s",
)  # fmt: skip
COST = {"cost_usd_per_mtok": "$ per million tokens, at the source's prices"}
FURTHER = re.compile(r"(ttft|tpot|itl_chunk|itl_token|e2el)_(min|max|p[\d.]+)_m?s")  # statistics without a column
NEAR = 0.85  # difflib's ratio from which a name counts as mistyped


def told(file: ForeignFile) -> Results:
    """One entry per row. A wrong row affects only itself. Raises FileError if the header is wrong or no row is valid."""
    reader = csv.reader(io.StringIO(file.text, newline=""), strict=True)
    results = Results([], [])
    try:
        header = [name.strip() for name in next(reader)]
        _refuse_header(header, file)
    except (csv.Error, StopIteration) as error:
        raise _no_csv(file, reader.line_num, error) from error
    index = 0
    while True:
        try:
            row = next(reader)
            if row:
                index += 1
                results.told.append(_told(_row(file, reader.line_num, header, row), index - 1))
        except StopIteration:
            break
        except csv.Error as error:
            results.bad.append(_no_csv(file, reader.line_num, error))
        except FileError as error:
            results.bad.append(error)
    if not results.told:
        none = FileError("The file has no rows below its header.", path=file.path, next_step=_NEXT)
        raise results.bad[0] if results.bad else none
    return results


def _no_csv(file: ForeignFile, line: int, error: Exception) -> FileError:
    return FileError(f"The file is not valid CSV: {error}.", path=f"{file.path}, line {line}", next_step=_NEXT)


_NEXT = "see docs/exchange.md for the columns"


def _refuse_header(header: list[str], file: ForeignFile) -> None:
    known = [*BY_NAME, *ALIASES, *OTHERS, *PROVENANCE]
    for name in header:
        if header.count(name) > 1 or not name:
            raise FileError(f"The column {name!r} occurs twice or has no name.", path=f"{file.path}, line 1", next_step=_NEXT)
        near = difflib.get_close_matches(_figure(name)[0], known, 1, NEAR)
        if near and _figure(name)[0] not in known and not FURTHER.fullmatch(name):
            raise FileError(f"Unknown column {name!r}.", path=f"{file.path}, line 1", next_step=f"rename the column if you mean {near[0]}")
    if not any(name in known for name in header):
        raise FileError("None of the columns is known.", path=f"{file.path}, line 1", next_step=_NEXT)


def _figure(name: str) -> tuple[str, float]:
    """The figure in a column, and the factor to its unit here: tpot_mean_ms is tpot_mean_s with a factor of 1e-3."""
    if name in ALIASES:
        return ALIASES[name], 1e-3 if name.endswith("_ms") else 1.0
    seconds = f"{name.removesuffix('_ms')}_s"
    return (seconds, 1e-3) if name.endswith("_ms") and seconds in BY_NAME else (name, 1.0)


def _row(file: ForeignFile, line: int, header: list[str], cells: list[str]) -> _Row:
    where = f"{file.path}, line {line}"
    if len(cells) != len(header):
        raise FileError(f"The line has {len(cells)} cells, but the header has {len(header)} columns.", path=where, next_step=_NEXT)
    absent = ("", "nan")
    return _Row(where, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip().lower() not in absent})


@dataclass(frozen=True)
class _Row:
    """The cells of a line by column. Empty cells are absent."""

    where: str
    cells: Mapping[str, str]

    def wrong(self, column: str, what: str) -> FileError:
        """The error for a cell that does not fit its column."""
        said = f"{what}, but is {self.cells[column]!r:.60}"
        return FileError(f"{said}.", path=f"{self.where}, column {column}", next_step="correct the cell, or leave it empty")

    def fact(self, column: str, name: str) -> Any:
        """The cell as a fact of the point."""
        try:
            return fact(name, self.cells[column])
        except ValueError as error:
            raise self.wrong(column, str(error)) from error

    def number(self, column: str) -> float:
        """The cell as a finite number."""
        number = _number(self.cells[column])
        if number is None:
            raise self.wrong(column, "it should be a finite number")
        return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _told(row: _Row, index: int) -> Told:
    point, stated, words = {}, {}, {}
    for column in row.cells:
        name, unit = _figure(column)
        if name in FACTS:
            point[name] = row.fact(column, name)
        elif name in BY_NAME and BY_NAME[name].kind != "text" and name not in OF_THE_ROW:
            stated[name] = _counted(row, column) if BY_NAME[name].kind == "count" else row.number(column) * unit
        elif column in OTHERS or (column not in OF_THE_ROW and column not in PROVENANCE and _number(row.cells[column]) is not None):
            stated[column] = row.number(column)
        elif column not in OF_THE_ROW and column not in PROVENANCE:
            words[column] = row.cells[column][:MAX_TEXT]
    if not stated:
        raise FileError("The line has no figure.", path=row.where, next_step=_NEXT)
    _refuse_definitions(row)
    return Told(
        client=row.cells.get("client", CLIENT),
        entry=index,
        point=point,
        stated=stated,
        definitions=COST,
        provenance=_provenance(row, words),
        source=_source(row.cells),
        is_simulated_time=True,
    )


def _counted(row: _Row, column: str) -> int:
    number = row.number(column)
    if number != int(number) or not 0 <= number <= MAX_COUNT:
        raise row.wrong(column, "it should be a count")
    return int(number)


def _refuse_definitions(row: _Row) -> None:
    if "definitions" in row.cells and row.number("definitions") != DEFINITIONS:
        raise row.wrong("definitions", f"it should be {DEFINITIONS}, the version of the figures' definitions in this program")


def _source(cells: Mapping[str, str]) -> str | None:
    """Measured, simulated or published. Any other word is the name of the publisher."""
    word = cells.get("source")
    return None if word is None else word if word in SOURCES else "published"


def _provenance(row: _Row, words: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: row.cells[column] for column, name in PROVENANCE.items() if column in row.cells}
    if row.cells.get("source", SOURCES[0]) not in SOURCES:
        found["source"] = row.cells["source"]
    exported = {name: row.cells[name] for name in ("key", "digest", "validity") if name in row.cells}
    return found | ({"exported": exported} if exported else {}) | ({"metadata": words} if words else {})
