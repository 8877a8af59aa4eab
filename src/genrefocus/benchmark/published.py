"""The paper's figures, and whether figures of this code may stand beside them.

The row Input needs no model: it is a property of data set, sizes and metrics alone. Where our own
row of the input agrees with the published one, the protocols agree as far as can be seen. Where it
does not, or the paper prints none, nothing of that table may be compared with ours.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from genrefocus.benchmark.protocol import Protocol

INPUT_ROW = "Input"
IDENTITY = "identity"
"""Name of the method whose answer is the input."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        method: as printed.
        table: number of the table.
        version: of the paper.
        values: metric -> value as printed; metrics that are not printed are absent.
        objection: why it may not be compared with our rows; None where it may.
    """

    method: str
    table: int
    version: str
    values: Mapping[str, float]
    objection: str | None

    @property
    def source(self) -> str:
        """Where in the paper it is printed."""
        return f"Table {self.table}"


def tolerance() -> float:
    """Part of a published Input value that ours may differ by."""
    return float(_content()["tolerance"])


def rows_for(
    task: str, dataset: str, protocol: Protocol, ours: Mapping[str, float]
) -> list[PublishedRow]:
    """Rows of the published tables that belong to a protocol.

    Args:
        task, dataset: of the protocol.
        protocol: that our rows were measured under; tables of another crop are left out.
        ours: metric -> mean of our identity row over all pictures; metrics without a full mean,
            or without the identity row, are absent.

    Returns:
        Rows in the order of the tables, with an objection each where our input differs.
    """
    return [
        PublishedRow(
            method=method,
            table=table["number"],
            version=_content()["version"],
            values={
                name: float(value)
                for name, value in zip(table["metrics"], values, strict=True)
                if value is not None
            },
            objection=_objection(table, ours),
        )
        for table in _content()["tables"]
        if (table["task"], table["dataset"]) == (task, dataset) and _belongs(table, protocol)
        for method, values in table["rows"].items()
    ]


def _belongs(table: Mapping[str, Any], protocol: Protocol) -> bool:
    crop = table["needs"]["crop"]
    return protocol.crop == (None if crop is None else tuple(crop))


def _objection(table: Mapping[str, Any], ours: Mapping[str, float]) -> str | None:
    if INPUT_ROW not in table["rows"]:
        return f"not comparable: Table {table['number']} has no Input row to check the protocol by"
    printed = dict(zip(table["metrics"], table["rows"][INPUT_ROW], strict=True))
    checked = {name: value for name, value in printed.items() if name in ours}
    if not checked:
        return f"not comparable: our {IDENTITY} row has none of the metrics of the Input row"
    missed = [
        f"{name} ours {ours[name]:.4f}, published {value:.4f}"
        for name, value in checked.items()
        if abs(ours[name] - value) > tolerance() * value
    ]
    return f"not comparable: Input row differs: {'; '.join(missed)}" if missed else None


@functools.cache
def _content() -> dict[str, Any]:
    file = resources.files("genrefocus.benchmark") / "published.yaml"
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content
