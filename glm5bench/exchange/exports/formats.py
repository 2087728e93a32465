"""The export formats, and points written as files of one format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...archive.measurement import Measurement
from ...errors import UsageError
from ...files import Taken, write_whole
from . import inferencex, sglang, table, vllm
from .summary_row import SummaryRow, summary_row

FORMATS = ("vllm", "sglang", "inferencex", "csv", "parquet")
Point = tuple[Mapping[str, Any], Callable[[], Measurement | None]]  # its summary, and a function that reads it
ORDER = ("source", "model", "hardware", "engine", "checkpoint", "precision", "speculative", "variant", "isl_tokens", "osl_tokens",
         "tp", "concurrency", "seed", "repeat", "digest")  # fmt: skip


def export(format_: str, points: Iterable[Point], output: Path, *, detailed: bool = False) -> list[Path]:
    """The files that were written: one file, or for several points in vLLM's format one file each in a directory. Nothing is overwritten.

    The points' times are read only with `detailed`. Raises UsageError if a file already exists.
    """
    found = [(summary_row(values), read) for values, read in points]
    found.sort(key=lambda pair: [_sortable(pair[0][name]) for name in ORDER])
    rows = [row for row, _ in found]
    if format_ == "vllm":
        return _vllm(found, output, detailed=detailed)
    if format_ == "parquet":
        return [_new(output, lambda beside: table.write_parquet(beside, rows))]
    return [_new_text(output, _text(format_, rows))]


def _sortable(value: Any) -> Any:
    return -1 if value is None else value


def _text(format_: str, rows: Sequence[SummaryRow]) -> str:
    if format_ == "csv":
        return table.csv_text(rows)
    if format_ == "inferencex":
        return json.dumps([inferencex.inferencex_row(row) for row in rows], indent=2, allow_nan=False) + "\n"
    return "".join(json.dumps(sglang.sglang_line(row)) + "\n" for row in rows)  # SGLang writes a bare Infinity; absent values are null


def _vllm(found: Sequence[tuple[SummaryRow, Callable[[], Measurement | None]]], output: Path, *, detailed: bool) -> list[Path]:
    is_one = len(found) == 1 and not output.is_dir()
    return [
        _new_text(
            output if is_one else output / f"{row['key']}-{row['digest'][:16]}.json",
            json.dumps(vllm.vllm_json(row, read() if detailed else None), allow_nan=False) + "\n",
        )
        for row, read in found
    ]


def _new_text(path: Path, text: str) -> Path:
    return _new(path, lambda beside: _written(beside, text))


def _written(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _new(path: Path, write: Callable[[Path], None]) -> Path:
    try:
        write_whole(path, write, is_new=True)
    except Taken as error:
        raise UsageError(f"{path} already exists, and is not overwritten.", next_step="give another -o FILE") from error
    return path
