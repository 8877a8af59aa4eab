"""Figures of single pictures: the one form that runs write and statistics read."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet


@dataclass(frozen=True)
class Row:
    """One figure of one picture.

    Attributes:
        task, dataset, method, key: what was measured.
        metric: name, such as ``lpips`` or ``ssim``.
        value: None where it failed.
        failure: why there is no value; None where there is one.
        protocol: hash of the protocol that it was measured under.
    """

    task: str
    dataset: str
    method: str
    key: str
    metric: str
    value: float | None
    failure: str | None
    protocol: str

    def __post_init__(self) -> None:
        if (self.value is None) == (self.failure is None):
            raise ValueError(f"{self.method}, {self.key}, {self.metric}: a value or a failure")


_SCHEMA = pyarrow.schema(
    [
        *(pyarrow.field(n, pyarrow.string()) for n in ("task", "dataset", "method", "key")),
        pyarrow.field("metric", pyarrow.string()),
        pyarrow.field("value", pyarrow.float64()),
        pyarrow.field("failure", pyarrow.string()),
        pyarrow.field("protocol", pyarrow.string()),
    ]
)


def write_rows(rows: Iterable[Row], path: str | Path) -> None:
    """Write rows as parquet."""
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
    pyarrow.parquet.write_table(table, path)


def read_rows(path: str | Path) -> Iterator[Row]:
    """Rows of a parquet file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none of this project's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no rows in {path}; run the benchmark first")
    table = pyarrow.parquet.read_table(path)
    if not table.schema.equals(_SCHEMA):
        raise ValueError(f"{path} has columns {', '.join(table.schema.names)}: no benchmark rows")
    yield from (Row(**record) for record in table.to_pylist())
