"""Archives: many measurements in one HDF5 file, and merging as a set union.

Enters: point files, campaign directories, archives. Leaves: one archive that is whole or absent. A measurement is (key, content
digest): the same one found twice is kept once, different ones of one key are both kept. Rows that are no points (tables of a
source) stand apart under /tables. Nothing bad is passed over in silence: every file left out comes back with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from ..analysis.comparison import Row
from ..errors import FileError, UsageError
from ..point import canonical_json, digest_of, from_plain
from .measurement import Measurement
from .pointfile import FORMAT, child, json_bytes, kind_of, opened, read_from, write_into
from .sealed import write_sealed
from .summary import row_of

PUBLISHED = Path(__file__).resolve().parent.parent / "published" / "published.h5"


DAMAGED = (
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)  # what h5py raises on hostile files


@dataclass(frozen=True)
class Stored:
    """A measurement with its digest, its row in tables, and the file that it was read from."""

    measurement: Measurement
    digest: str
    row: Row
    origin: str

    @property
    def name(self) -> str:
        """Its name in an archive."""
        return f"{self.measurement.key}-{self.digest[:16]}"


@dataclass(frozen=True)
class SourceTable:
    """A table of a source that holds no points: interpolated or aggregate values, as text."""

    name: str
    rows: tuple[dict[str, str], ...]


@dataclass
class Collected:
    """What was found in the paths, each measurement and table once, and what was left out with its reason."""

    points: dict[str, Stored] = field(default_factory=dict)
    tables: dict[str, SourceTable] = field(default_factory=dict)
    bad: list[FileError] = field(default_factory=list)
    is_strict: bool = False

    def digest(self) -> str:
        """SHA-256 of the set: the same whatever the order, grouping and repetition of the sources."""
        h = hashlib.sha256()
        for name in sorted(self.points):
            h.update(f"{name} {self.points[name].digest}\n".encode())
        for name in sorted(self.tables):
            h.update(f"{name}\n".encode())
        return h.hexdigest()

    def add_point(self, measurement: Measurement, digest: str, origin: str) -> None:
        """Raises FileError when it cannot be a row of any table."""
        stored = Stored(measurement, digest, row_of(measurement, digest, origin), origin)
        self.points.setdefault(stored.name, stored)

    def add_table(self, table: SourceTable) -> None:
        """Its name in an archive is a digest of its content."""
        self.tables.setdefault(digest_of(table), table)

    def refuse(self, error: FileError) -> None:
        """One more bad file; under `strict` the error itself."""
        if self.is_strict:
            raise error
        self.bad.append(error)


def collect(paths: Sequence[str], *, strict: bool = False) -> Collected:
    """Every measurement in the paths. `published` is the archive that ships with the package.

    Raises UsageError when a path does not exist; FileError at the first bad file under `strict`.
    """
    found = Collected(is_strict=strict)
    for path in _files(paths):
        try:
            _add_file(found, path)
        except FileError as error:
            found.refuse(error)
        except DAMAGED as error:
            found.refuse(FileError(f"The file is damaged: {' '.join(str(error).split())[:200]}.", path=str(path)))
    return found


def _files(paths: Sequence[str]) -> Iterator[Path]:
    seen: set[Path] = set()
    for given in paths:
        path = PUBLISHED if given == "published" and not Path(given).exists() else Path(given)
        if not path.exists():
            raise UsageError(f"There is no {given}.", next_step="name a point file, a campaign's directory, an archive, or `published`")
        for file in sorted(_below(path)) if path.is_dir() else [path]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _below(directory: Path) -> Iterable[Path]:
    """The HDF5 files of a directory tree; a campaign's archive.h5 is derived from its points and left out beside them."""
    for file in directory.rglob("*.h5"):
        is_derived = file.name == "archive.h5" and (file.parent / "points").is_dir()
        if file.is_file() and not file.name.startswith(".") and not is_derived:
            yield file


def _add_file(found: Collected, path: Path) -> None:
    with opened(path) as file:
        if kind_of(file, path) == "point":
            return found.add_point(*read_from(file, str(path)), str(path))
        for name in sorted(child(file, "points")):
            where = f"{path}:/points/{name}"
            try:
                found.add_point(*read_from(child(file["points"], name), where), str(path))
            except FileError as error:
                found.refuse(error)
            except DAMAGED as error:
                found.refuse(FileError(f"The point is damaged: {' '.join(str(error).split())[:200]}.", path=where))
        for name in sorted(child(file, "tables")):
            rows = json.loads(json_bytes(child(file["tables"], name)))
            found.add_table(from_plain(SourceTable, rows))
        return None


def refuse_to_overwrite(path: Path) -> None:
    """Raises UsageError when something stands there that is no archive of glm5bench, FileError when it is a damaged one."""
    if not path.exists():
        return
    with_what = "a directory" if path.is_dir() else "no file of bytes" if not path.is_file() else ""
    if not with_what:
        try:
            with opened(path) as file:
                with_what = "" if kind_of(file, path) == "archive" else "a point file"
        except FileError as error:
            with_what = f"no archive that can be read ({error.message.rstrip('.')})"
    if with_what:
        raise UsageError(f"{path} is {with_what}, and is not overwritten.", next_step="give -o another name")


def write_archive(path: Path, collected: Collected) -> None:
    """The archive of everything collected, whole or not at all."""

    def fill(file: h5py.File) -> None:
        file.attrs.update(format=FORMAT, kind="archive", content_digest=collected.digest())
        points, tables = file.create_group("points"), file.create_group("tables")
        for name in sorted(collected.points):
            stored = collected.points[name]
            write_into(points.create_group(name), stored.measurement, stored.digest)
        for name in sorted(collected.tables):
            data = np.frombuffer(canonical_json(collected.tables[name]).encode(), dtype=np.uint8)
            tables.create_dataset(name, data=data).attrs.update(unit="JSON", axes="byte")

    write_sealed(path, fill)
