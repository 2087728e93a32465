"""The HDF5 files in the given paths, each once, and the measurements in them, each once.

Enters: paths as the user typed them. Leaves: files, or the rows from which tables are made. Each file or point that is left out is
reported with its reason.
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
    """What was left out, with reasons. With `is_strict` the first one is raised."""

    is_strict: bool = False
    bad: list[FileError] = field(default_factory=list)

    def refuse(self, error: FileError) -> None:
        """Adds the error of a bad file or point. With `is_strict` it is raised."""
        if self.is_strict:
            raise error
        if (error.path, error.message) not in {(e.path, e.message) for e in self.bad}:
            self.bad.append(error)


@dataclass
class Gathered(Found):
    """A set of measurements and source tables, by name."""

    tables: dict[str, SourceTable] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[str, bool]]:
        """For each measurement its digest, and whether its raw times are present."""
        raise NotImplementedError

    def digest(self) -> str:
        """SHA-256 of the set. It does not depend on the order, grouping or repetition of the sources."""
        return set_digest(self.members(), self.tables)


@dataclass
class Collected(Gathered):
    """The rows of tables, one per measurement."""

    rows: dict[str, Row] = field(default_factory=dict)
    is_whole: dict[str, bool] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[str, bool]]:
        """See `Gathered.members`."""
        return {name: (row.digest, self.is_whole[name]) for name, row in self.rows.items()}


def no_point(where: str) -> UsageError:
    """The error for paths that contain no points."""
    return UsageError(f"No point was found in {where}.", next_step="run `glm5bench status DIR` to see what a campaign contains")


def collect(paths: Sequence[str], *, strict: bool = False, jobs: int = 1) -> Collected:
    """Every measurement in the paths, from its summary. `published` is the archive that ships with the package.

    Raises UsageError if a path does not exist; with `strict`, FileError for the first bad file.
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
    """The survey of each file of the paths, made in reader processes. Errors are added to `found`.

    Raises UsageError if a path does not exist.
    """
    with Readers(survey, lambda path: path, jobs=jobs) as readers:
        for _, result in readers.map(files(paths)):
            for error in [result] if isinstance(result, FileError) else result.bad:
                found.refuse(error)
            if isinstance(result, Survey):
                yield result


def files(paths: Sequence[str]) -> Iterator[Path]:
    """The HDF5 files in the paths, each once. A path is a file, a folder (searched recursively), a pattern or `published`.

    Raises UsageError if a path does not exist.
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
    """A value that is the same for every path and link to one file."""
    try:
        told = os.stat(file)
    except OSError:  # for example circular links
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
        raise UsageError(f"{given} does not exist.", next_step="give a point file, a campaign directory, an archive or `published`")
    return found


def _below(directory: Path) -> Iterator[Path]:
    """The HDF5 files of a directory tree, and its unreadable folders. Follows links, and visits each folder once.

    Skips a campaign's archive.h5, which is derived from its points, and hidden files and folders, which belong to running writers.
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
