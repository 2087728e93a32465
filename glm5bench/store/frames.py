"""Points as a pandas frame, for notebooks: `from glm5bench.store.frames import points`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from ..errors import FileError
from .archive import collect


def points(paths: Sequence[str]) -> pd.DataFrame:
    """One row a point of all files in the paths (point files, campaigns, archives, `published`), figures recomputed from raw times.

    Columns: the series (source, hardware, ...), tp, concurrency, ..., throughput in tok/s per GPU, times in seconds, validity, reasons.
    Raises FileError at the first bad file: a frame has no place to say what it left out.
    """
    collected = collect(paths, strict=True)
    rows = [stored.row for stored in collected.points.values()]
    if not rows:
        raise FileError("No point was found.", path=", ".join(paths))
    frame = pd.DataFrame([{**asdict(row.series), **{k: v for k, v in asdict(row).items() if k != "series"}} for row in rows])
    return frame.sort_values(["source", "hardware", "precision", "speculative", "tp", "concurrency"], ignore_index=True)
