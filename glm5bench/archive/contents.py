"""The content of a file, as its survey found it: plain values and arrays, so that a reader process can return it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..values.plain import digest_of
from .columns import Summaries, plain
from .pointfile import refuse_impossible
from .stored import Check, Stored

Identity = tuple[int, int, int, int]


@dataclass(frozen=True)
class SourceTable:
    """A table from a source that contains no points: interpolated or aggregate values, as text."""

    name: str
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Survey:
    """What one file contains. `stored` is None if the positions of the stored bytes are not known."""

    path: Path
    identity: Identity
    summaries: Summaries = field(default_factory=dict)
    is_whole: tuple[bool, ...] = ()  # for each point, whether its raw rows are present
    stored: Stored | None = None
    is_verified: bool = False  # whether the stored bytes were checked against their digests
    tables: tuple[SourceTable, ...] = ()
    bad: tuple[FileError, ...] = ()
    rewritten: tuple[Path, ...] = ()

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.is_whole)

    def name(self, i: int) -> str:
        """The name of point `i` in archives."""
        return measurement_name(plain(self.summaries["key"][i]), plain(self.summaries["digest"][i]))

    def values(self, i: int) -> dict[str, Any]:
        """The summary of point `i`."""
        return {name: column[i] if type(column) is list else plain(column[i]) for name, column in self.summaries.items()}

    def first(self, n: int) -> Survey:
        """The same survey with at most the first `n` points."""
        assert self.stored is not None
        return dataclasses.replace(
            self,
            summaries={name: column[:n] for name, column in self.summaries.items()},
            is_whole=self.is_whole[:n],
            stored=self.stored.of_first(n),
        )

    def source_tables(self) -> dict[str, SourceTable]:
        """Its tables by their names in archives. A name is the digest of the table's content."""
        return {digest_of(table): table for table in self.tables}


@dataclass(frozen=True)
class Glance(Survey):
    """What a point file states about itself, not verified yet. `whole` is the check for all its bytes."""

    columns: dict[str, Any] = field(default_factory=dict)
    whole: Check = ("", [], "")

    def values(self, i: int) -> dict[str, Any]:
        """Its summary."""
        return self.columns


def measurement_name(key: str, digest: str) -> str:
    """The name of a measurement in archives: its key, and the beginning of its digest."""
    return f"{key}-{digest[:16]}"


def identity_of(descriptor: int) -> Identity:
    """Identifies this file in its present state. It differs for another file, and after a change."""
    s = os.fstat(descriptor)
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def refuse_untold(told: Mapping[str, Any], path: Path) -> None:
    """Raises FileError for a summary that no point can have."""
    refuse_impossible(told["key"], told["source"], told["digest"], str(path))
    if told["n_requests"] < 0 and told["source"] != "published" and not told["client"]:
        raise FileError(f"The point is marked {told['source']} but contains no times.", path=str(path))
