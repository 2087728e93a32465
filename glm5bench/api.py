"""Archives from Python: open, points as a pandas frame, one point's requests and chunks, merge.

    from glm5bench import api
    archive = api.open("outputs/quickstart")          # one path or a list: point files, campaigns, archives, `published`
    frame = api.points(archive)                       # one row per point
    requests, chunks = api.raw(archive, frame.key[0]) # one row per request, one row per streamed chunk
    api.merge(["cluster_a", "cluster_b"], "all.h5")

Files are read in a separate process, so that a damaged file raises an error here and cannot crash this process.
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
    """The opened files and their contents."""

    surveys: tuple[Survey, ...]

    @property
    def names(self) -> list[str]:
        """The paths of the files."""
        return [str(s.path) for s in self.surveys]


def open(paths: str | Path | Sequence[str | Path]) -> Archive:
    """Opens the files of the paths. Raises FileError for the first bad file, because a frame cannot report what was left out."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = tuple(each for each in surveys([str(path) for path in given], Found(is_strict=True)) if each.n)
    if not found:
        raise FileError("No point was found.", path=", ".join(map(str, given)))
    return Archive(found)


def points(archive: Archive) -> pd.DataFrame:
    """One row per point, each measurement once. Columns and units: docs/archive-format.md. Missing values: NaN, <NA> or an empty text."""
    import pandas as pd

    columns: dict[str, list[Any]] = {c.name: [v for s in archive.surveys for v in listed(s.summaries[c.name])] for c in COLUMNS}
    frame = pd.DataFrame(columns).drop_duplicates(["key", "digest"])
    for c in COLUMNS:
        if c.kind == "count":
            frame[c.name] = frame[c.name].astype("Int64").mask(frame[c.name] < 0)
    return frame.sort_values(["source", "hardware", "precision", "speculative", "tp", "concurrency"], ignore_index=True)


def raw(archive: Archive, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The requests and the streamed chunks of one point, found by its key, or by its key and the beginning of its digest.

    Times are ns since the run's start; `request` of a chunk is the row of its request. Raises UsageError if no point or several points
    match, FileError if the point contains no times.
    """
    import numpy as np
    import pandas as pd

    m = _measurement(archive, key)
    r = m.requests
    if r is None:
        raise FileError("The point contains no times, because its source gives only figures.", path=key)
    optional = {name: values for name, values in optional_columns(r).items() if values is not None}
    requests = pd.DataFrame({name: getattr(r, name) for name in (*TIMES, *COUNTS)} | optional | {"error": list(r.error)})
    owner = np.repeat(np.arange(len(r.error)), np.diff(r.chunk_offsets))
    return requests, pd.DataFrame({"request": owner, "arrival_ns": r.chunk_ns, "tokens": r.chunk_tokens})


def merge(paths: Sequence[str | Path], output: str | Path, *, raw: str = "keep", jobs: int = 2) -> str:
    """The digest of the archive that it writes: the union of the paths. The file is complete or absent.

    `raw`: keep, or summary to leave out requests and chunks. Raises FileError at the first bad file, UsageError for a missing path.
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
        names = ", ".join(f"{k}-{digest[:16]}" for k, digest in places) or "use api.points to see all keys"
        what = f"matches {len(places)} measurements" if places else "is not the key of a point in these files"
        raise UsageError(f"{key} {what}.", next_step=names)
    ((path, i),) = places.values()
    return measurement_at(path, i)
