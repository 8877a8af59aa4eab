"""Figures of single images: the one long table that runs write and that all tables are made of.

A row is one metric of one method on one image, with the columns ``COLUMNS``. ``value`` is missing
(NaN) where it failed, and ``failure`` then says why. ``protocol`` is the hash of the protocol that
it was measured under.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

COLUMNS = ("task", "dataset", "method", "key", "metric", "value", "failure", "protocol")

NOT_AVAILABLE = "not available: "
"""Begins the failure of a metric that cannot be computed on a machine; the remedy follows. Such
rows are no failures of the method."""

UNDEFINED = "the metric is not defined for this image"
"""The failure of a metric that does not apply, such as bleeding without a depth edge."""

_SCHEMA = pyarrow.schema(
    [(name, pyarrow.float64() if name == "value" else pyarrow.string()) for name in COLUMNS]
)


def figure_table(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """The long table of rows in the order of ``COLUMNS``; None stands for a missing value."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({name: "float64" if name == "value" else "str" for name in COLUMNS})


def write_figures(table: pd.DataFrame, path: str | Path) -> None:
    """Write a long table as parquet."""
    content = pyarrow.Table.from_pandas(table, schema=_SCHEMA, preserve_index=False)
    pyarrow.parquet.write_table(content.replace_schema_metadata(), path)


def read_figures(path: str | Path) -> pd.DataFrame:
    """The long table of a parquet file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file has other columns, or no rows.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no figures in {path}; run the benchmark first")
    content = pyarrow.parquet.read_table(path)
    if not content.schema.equals(_SCHEMA):
        names = ", ".join(content.schema.names)
        raise ValueError(f"{path} has the columns {names}, which are not those of a benchmark")
    table = content.to_pandas()
    if table.empty:
        raise ValueError(f"{path} has no rows; run the benchmark again")
    return table
