"""What paths hold: their HDF5 files, each once, and the measurements in them, each once.

Enters: paths as a user types them. Leaves: files, or the rows that tables are made of. Nothing bad is passed over in silence: each file
or point left out comes back with its reason.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.rows import Row
from ..errors import FileError, UsageError
from .contents import SourceTable, Survey, measurement_name
from .reading import Readers
from .summary import rows
from .survey import survey
from .writer import PUBLISHED, set_digest


@dataclass
class Found:
    """What is left out, with its reason; under `strict` the first one is raised."""

    is_strict: bool = False
    bad: list[FileError] = field(default_factory=list)

    def refuse(self, error: FileError) -> None:
        """One more bad file; under `strict` the error itself."""
        if self.is_strict:
            raise error
        if (error.path, error.message) not in {(e.path, e.message) for e in self.bad}:
            self.bad.append(error)


@dataclass
class Gathered(Found):
    """A set of measurements, by their names, and of source tables."""

    tables: dict[str, SourceTable] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[str, bool]]:
        """Of each measurement its digest, and whether its raw times are there."""
        raise NotImplementedError

    def digest(self) -> str:
        """SHA-256 of the set: the same whatever the order, grouping and repetition of the sources."""
        return set_digest(self.members(), self.tables)


@dataclass
class Collected(Gathered):
    """The rows of tables, each measurement once."""

    rows: dict[str, Row] = field(default_factory=dict)
    is_whole: dict[str, bool] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[str, bool]]:
        """As of any set."""
        return {name: (row.digest, self.is_whole[name]) for name, row in self.rows.items()}


def no_point(where: str) -> UsageError:
    """The error of paths in which nothing was found."""
    return UsageError(f"No point was found in {where}.", next_step="`glm5bench status DIR` says what a campaign holds")


def collect(paths: Sequence[str], *, strict: bool = False, jobs: int = 1) -> Collected:
    """Every measurement in the paths, from their summaries. `published` is the archive that ships with the package.

    Raises UsageError when a path does not exist; FileError at the first bad file under `strict`.
    """
    found = Collected(is_strict=strict)
    for each in surveys(paths, found, jobs=jobs):
        for row, is_whole in zip(rows(each.summaries, str(each.path)), each.is_whole, strict=True):
            name = measurement_name(row.key, row.digest)
            found.rows.setdefault(name, row)
            found.is_whole[name] = found.is_whole.get(name, False) or is_whole
        found.tables |= each.source_tables()
    return found


def surveys(paths: Sequence[str], found: Found, *, jobs: int = 1) -> Iterator[Survey]:
    """The survey of each file of the paths, made in readers' processes; what is bad in them goes to `found`.

    Raises UsageError when a path does not exist.
    """
    with Readers(survey, lambda path: path, jobs=jobs) as readers:
        for _, result in readers.map(files(paths)):
            for error in [result] if isinstance(result, FileError) else result.bad:
                found.refuse(error)
            if isinstance(result, Survey):
                yield result


def files(paths: Sequence[str]) -> Iterator[Path]:
    """The HDF5 files that the paths mean, each once: files, folders with all below them, patterns, `published`.

    Raises UsageError when a path does not exist.
    """
    seen: set[tuple[int, int] | Path] = set()
    for given in paths:
        for path in _meant(given):
            for file in _below(path) if path.is_dir() else [path]:
                which = _which(file)
                if which not in seen:
                    seen.add(which)
                    yield file


def _which(file: Path) -> tuple[int, int] | Path:
    """The same for every path and link that leads to one file."""
    try:
        told = os.stat(file)
    except OSError:  # links in a circle, say
        return file
    return told.st_dev, told.st_ino


def _meant(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    if given == "published":
        return [PUBLISHED]
    found = [Path(p) for p in sorted(glob.glob(given, recursive=True))]
    if not found:
        raise UsageError(f"There is no {given}.", next_step="name a point file, a campaign's directory, an archive, or `published`")
    return found


def _below(directory: Path) -> Iterator[Path]:
    """The HDF5 files of a directory tree, through links, each folder once, and folders that cannot be read.

    A campaign's archive.h5 is derived from its points; hidden files and folders are those of writers at work.
    """
    seen: set[str] = set()
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(directory, followlinks=True, onerror=unreadable.append):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        is_derived = "points" in folders
        for name in sorted(names):
            if name.endswith(".h5") and not name.startswith(".") and not (name == "archive.h5" and is_derived):
                yield Path(folder) / name
    yield from (Path(error.filename) for error in unreadable)
