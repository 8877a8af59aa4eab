"""The paper's figures, and whether figures of this code may stand beside them.

The row Input needs no model: it is a property of data set, sizes and metrics alone. Where our own
row of the input agrees with the published one, the protocols agree as far as can be seen. Where it
does not, or the paper prints none, nothing of that table may be compared with ours.
"""

import functools
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import yaml

from genrefocus.benchmark.protocol import BenchmarkProtocol

INPUT_ROW = "Input"
IDENTITY = "identity"
"""Name of the method whose answer is the input."""


def tolerance() -> float:
    """Part of a published Input value that ours may differ by."""
    return float(_content()["tolerance"])


def published_figures(
    protocol: BenchmarkProtocol, ours: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Figures of the published tables that belong to a protocol.

    Args:
        protocol: that our figures were measured under; tables of another crop are left out.
        ours: metric -> mean of our identity row over all images; metrics without a full mean, or
            without the identity row, are absent.

    Yields:
        ``method`` as printed, ``metric``, ``mean`` as printed, ``source`` and ``version`` (table
        and paper), and ``objection``: why it may not be compared with our figures, None where it
        may. The order is that of the tables.
    """
    for table in _content()["tables"]:
        belongs = (table["task"], table["dataset"]) == (protocol.task, protocol.dataset.name)
        crop = None if protocol.crop is None else list(protocol.crop)
        if not belongs or table["needs"]["crop"] != crop:
            continue
        shared = {
            "source": f"Table {table['number']}",
            "version": _content()["version"],
            "objection": _objection(table, ours),
        }
        for method, values in table["rows"].items():
            for metric, value in zip(table["metrics"], values, strict=True):
                if value is not None:
                    yield {"method": method, "metric": metric, "mean": float(value), **shared}


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
