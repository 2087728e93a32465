"""Points as a table with every column of the summary: CSV, a pandas frame, Parquet.

The columns are archive.columns.COLUMNS, in the same order and with the same kinds. An absent value is an empty cell, or null. In Parquet
the metadata of each field contains the column's unit and definition.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...archive.columns import COLUMNS, DEFINITIONS
from ...errors import EnvironmentLacks
from .summary_row import SummaryRow

if TYPE_CHECKING:  # an extra: the rest of the program does not need it
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
KINDS = {"text": "string", "count": "Int64", "figure": "float64"}


def csv_text(rows: Sequence[SummaryRow]) -> str:
    """One line of names, then one line per point. A float is written so that reading it gives the same value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([c.name for c in COLUMNS])
    writer.writerows([_cell(row[c.name]) for c in COLUMNS] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else no_formula(value) if isinstance(value, str) else str(value)


def no_formula(text: str) -> str:
    """The text with an apostrophe in front if a spreadsheet would calculate it: texts can come from other people's files."""
    return f"'{text}" if text.startswith(FORMULA) else text


def frame(rows: Sequence[SummaryRow]) -> pd.DataFrame:
    """One row per point, with pandas' nullable column types."""
    import pandas as pd  # it takes a second to import

    columns = {c.name: pd.Series([row[c.name] for row in rows], dtype=object) for c in COLUMNS}
    return pd.DataFrame(columns).astype({c.name: KINDS[c.kind] for c in COLUMNS})


def write_parquet(path: Path, rows: Sequence[SummaryRow]) -> None:
    """The frame as a Parquet file. Raises EnvironmentLacks without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise EnvironmentLacks("pyarrow is not installed.", next_step="pip install 'glm5bench[parquet]'") from error
    kinds = {"text": pa.string(), "count": pa.int64(), "figure": pa.float64()}
    fields = [pa.field(c.name, kinds[c.kind], metadata={"unit": c.unit, "definition": c.what}) for c in COLUMNS]
    schema = pa.schema(fields, metadata={"glm5bench": json.dumps({"definitions": DEFINITIONS})})
    columns = [pa.array([row[c.name] for row in rows], type=kinds[c.kind]) for c in COLUMNS]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
