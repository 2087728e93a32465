"""Archives: many measurements in one HDF5 file, and merging as a set union.

Enters: point files, campaign directories, archives. Leaves: one archive that is whole or absent. A measurement is (key, content
digest): the same one found twice is kept once, different ones of one key are both kept. Rows that are no points (tables of a
source) stand apart under /rows. Nothing bad is passed over in silence: every file left out comes back with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import FileError, UsageError
from .files import write_whole
from .measurement import Measurement
from .pointfile import FORMAT, kind_of, opened, read_from, write_into

PUBLISHED = Path(__file__).resolve().parent.parent / "published" / "published.h5"


@dataclass(frozen=True)
class Stored:
    """A measurement with its digest and the file that it was read from."""

    measurement: Measurement
    digest: str
    origin: str

    @property
    def name(self) -> str:
        """Its name in an archive."""
        return f"{self.measurement.key}-{self.digest[:16]}"


@dataclass
class Collected:
    """What was found in the paths, each measurement once, and what was left out with its reason."""

    points: dict[str, Stored] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bad: list[FileError] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 of the set: the same whatever the order, grouping and repetition of the sources."""
        h = hashlib.sha256()
        for name in sorted(self.points):
            h.update(f"{name} {self.points[name].digest}\n".encode())
        h.update(json.dumps(self.rows, sort_keys=True).encode())
        return h.hexdigest()


def collect(paths: Sequence[str], *, strict: bool = False) -> Collected:
    """Every measurement in the paths. `published` is the archive that ships with the package.

    Raises UsageError when a path does not exist; FileError at the first bad file under `strict`.
    """
    found = Collected()
    for file in _files(paths):
        try:
            _add_file(found, file)
        except FileError as error:
            if strict:
                raise
            found.bad.append(error)
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
            _add(found, Stored(*read_from(file, str(path)), str(path)))
            return
        for name in _children(file, "points"):
            where = f"{path}:/points/{name}"
            try:
                _add(found, Stored(*read_from(file["points"][name], where), str(path)))
            except FileError as error:
                found.bad.append(error)
            except (KeyError, OSError, RuntimeError) as error:
                found.bad.append(FileError(f"The point is damaged: {error}.", path=where))
        for name in _children(file, "rows"):
            found.rows[name] = json.loads(bytes(file["rows"][name][()].tobytes()))


def _children(file: h5py.File, group: str) -> list[str]:
    try:
        return sorted(file[group]) if group in file else []
    except (OSError, RuntimeError, KeyError) as error:
        raise FileError(f"The archive's list of {group} is damaged: {error}.", path=str(file.filename)) from error


def _add(found: Collected, stored: Stored) -> None:
    found.points.setdefault(stored.name, stored)


def write_archive(path: Path, collected: Collected) -> None:
    """The archive of everything collected, whole or not at all."""

    def write(beside: Path) -> None:
        with h5py.File(beside, "w", libver=("earliest", "v110")) as file:
            file.attrs.update(format=FORMAT, kind="archive", content_digest=collected.digest())
            points, rows = file.create_group("points"), file.create_group("rows")
            for name in sorted(collected.points):
                stored = collected.points[name]
                write_into(points.create_group(name), stored.measurement, stored.digest)
            for name in sorted(collected.rows):
                data = np.frombuffer(json.dumps(collected.rows[name], sort_keys=True).encode(), dtype=np.uint8)
                rows.create_dataset(name, data=data).attrs.update(unit="JSON", axes="byte")

    write_whole(path, write)
