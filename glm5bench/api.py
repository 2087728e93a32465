"""Archives from Python: open, points as a pandas frame, one point's requests and chunks, merge.

    from glm5bench import api
    archive = api.open("outputs/quickstart")          # point files, campaigns, archives, `published`; one path or a list
    frame = api.points(archive)                       # a row a point
    requests, chunks = api.raw(archive, frame.key[0]) # a row a request, a row a streamed chunk
    api.merge(["cluster_a", "cluster_b"], "all.h5")

Files are read in a process of their own, so that a damaged one is an error here and nothing worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .archive import union
from .archive.collection import Found, surveys
from .archive.columns import COLUMNS, listed
from .archive.contents import Survey
from .archive.layout import optional_columns
from .archive.measurement import COUNTS, TIMES, Measurement
from .archive.points import measurement_at
from .errors import FileError, UsageError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Archive:
    """Files that were opened: what each holds."""

    surveys: tuple[Survey, ...]

    @property
    def names(self) -> list[str]:
        """The files."""
        return [str(s.path) for s in self.surveys]


def open(paths: str | Path | Sequence[str | Path]) -> Archive:
    """The files of the paths. Raises FileError for the first bad one: a frame has no place to say what it left out."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = tuple(each for each in surveys([str(path) for path in given], Found(is_strict=True)) if each.n)
    if not found:
        raise FileError("No point was found.", path=", ".join(map(str, given)))
    return Archive(found)


def points(archive: Archive) -> pd.DataFrame:
    """A row a point, each measurement once; columns and their units: docs/archive-format.md. Absent: NaN, <NA> or an empty text."""
    import pandas as pd

    columns: dict[str, list[Any]] = {c.name: [v for s in archive.surveys for v in listed(s.summaries[c.name])] for c in COLUMNS}
    frame = pd.DataFrame(columns).drop_duplicates(["key", "digest"])
    for c in COLUMNS:
        if c.kind == "count":
            frame[c.name] = frame[c.name].astype("Int64").mask(frame[c.name] < 0)
    return frame.sort_values(["source", "hardware", "precision", "speculative", "tp", "concurrency"], ignore_index=True)


def raw(archive: Archive, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The requests and the streamed chunks of one point, by its key or by its key and the beginning of its digest.

    Times in ns since the run's start; `request` of a chunk is the row of its request. Raises UsageError when there is no such point,
    or several; FileError when it holds no times.
    """
    import numpy as np
    import pandas as pd

    m = _measurement(archive, key)
    r = m.requests
    if r is None:
        raise FileError("The point holds no times: its source states figures alone.", path=key)
    optional = {name: values for name, values in optional_columns(r).items() if values is not None}
    requests = pd.DataFrame({name: getattr(r, name) for name in (*TIMES, *COUNTS)} | optional | {"error": list(r.error)})
    owner = np.repeat(np.arange(len(r.error)), np.diff(r.chunk_offsets))
    return requests, pd.DataFrame({"request": owner, "arrival_ns": r.chunk_ns, "tokens": r.chunk_tokens})


def merge(paths: Sequence[str | Path], output: str | Path, *, raw: str = "keep", jobs: int = 2) -> str:
    """Writes the union of the paths as an archive, whole or not at all. Its digest.

    `raw`: keep, or summary to leave out requests and chunks. Raises FileError at the first bad file, UsageError for a path that is not.
    """
    done = union.merge([str(p) for p in paths], Path(output), is_raw_kept=raw == "keep", jobs=jobs, strict=True)
    return done.digest


def _measurement(archive: Archive, key: str) -> Measurement:
    places: dict[tuple[str, str], tuple[Path, int]] = {}
    for s in archive.surveys:
        for i, (k, digest) in enumerate(zip(listed(s.summaries["key"]), listed(s.summaries["digest"]), strict=True)):
            if k == key or (f"{k}-{digest}".startswith(key) and len(key) > len(k)):
                places.setdefault((k, digest), (s.path, i))
    if len(places) != 1:
        names = ", ".join(f"{k}-{digest[:16]}" for k, digest in places) or "`points` shows all keys"
        what = f"names {len(places)} measurements" if places else "is no point here"
        raise UsageError(f"{key} {what}.", next_step=names)
    ((path, i),) = places.values()
    return measurement_at(path, i)
