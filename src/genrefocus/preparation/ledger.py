"""What a preparation leaves beside its shards: ledger of rejections, measures, summary."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrefocus.data.shards import INDEX_NAME, ShardDataset
from genrefocus.rejection import Rejected

LEDGER_NAME = "rejections.jsonl"
SAMPLES_NAME = "samples.jsonl"
SUMMARY_NAME = "summary.json"

QUANTILES: Mapping[str, float] = {"min": 0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1}


def rejection(name: str, rejected: Rejected, split: str | None) -> dict[str, Any]:
    """An entry of the ledger, plain JSON data."""
    return {
        "name": name,
        "split": split,
        "reason": rejected.reason.value,
        "value": rejected.value,
        "detail": rejected.detail,
    }


def read_summary(out: Path) -> dict[str, Any]:
    """What a finished preparation says of itself.

    Raises:
        FileNotFoundError: no finished preparation.
    """
    path = out / SUMMARY_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no {SUMMARY_NAME} in {out}: no preparation, or an unfinished one; "
            "start genrefocus prepare with the same settings again, it goes on where it stopped"
        )
    return dict(json.loads(path.read_bytes()))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a ledger or of a list of samples, one at a time.

    Raises:
        FileNotFoundError: the list is missing.
        ValueError: a line is damaged.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield dict(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is damaged ({error}); copy it again, or prepare "
                    f"{path.parent} again"
                ) from error


def distribution(values: NDArray[np.float64]) -> dict[str, float]:
    """Minimum, maximum, median and outer quantiles of the finite values; empty without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    levels = np.quantile(finite, list(QUANTILES.values()))
    return dict(zip(QUANTILES, map(float, levels), strict=True))


def find_sets(folder: Path) -> dict[str, ShardDataset]:
    """Finished sets in a folder or below it, by their path within it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is damaged, or of another schema version.
    """
    if (folder / INDEX_NAME).is_file():
        return {folder.resolve().name: ShardDataset(folder)}
    found = sorted(path.parent for path in folder.rglob(INDEX_NAME))
    if not found:
        state = "holds no finished set" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{folder} {state}: no {INDEX_NAME} in it or below; give the folder of a set, or the "
            "folder that genrefocus prepare wrote"
        )
    return {path.relative_to(folder).as_posix(): ShardDataset(path) for path in found}
