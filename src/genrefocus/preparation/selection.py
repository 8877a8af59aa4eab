"""The sharpest of a pool of items, measured over the whole pool before a sample is made."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from genrefocus.data.images import image_of
from genrefocus.data.processes import OrderedMap
from genrefocus.metrics.lvcorr import laplacian_variance
from genrefocus.preparation.fingerprints import Advance, Marks
from genrefocus.preparation.item import Item, Picture
from genrefocus.rejection import Reason, Rejected
from genrefocus.writing import whole_lines

SHARPNESS_NAME = "sharpness.jsonl"


def without_blurred(
    items: Sequence[Item], marks: Marks, folder: Path, mapper: OrderedMap, advance: Advance
) -> tuple[list[Item], list[tuple[Item, Rejected]]]:
    """Items without those that are not among the sharpest of their pool.

    The measure is the variance of the Laplacian of the sharp picture at its full size
    (``metrics.lvcorr.laplacian_variance``). Of equally sharp ones the first names are kept.

    Args:
        items: of one split; those without a pool are kept.
        marks: of all their pictures.
        folder: for the file of what was measured.
        mapper: runs the reading of pictures.
        advance: is told of the progress.

    Returns:
        What is kept, in order, and the others with ``not_among_sharpest``.

    Raises:
        OSError: a picture cannot be read.
    """
    pools: dict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in items:
        if item.pool is not None:
            pools[item.pool].append(item)
    away: dict[str, Rejected] = {}
    for (pool, count), members in sorted(pools.items()):
        if len(members) <= count:
            continue
        measured = _measured(members, marks, folder, mapper, advance)
        ranked = sorted(members, key=lambda item: (-measured[item.name], item.name))
        least = measured[ranked[count - 1].name]
        for item in ranked[count:]:
            detail = (
                f"not among the {count} sharpest of {len(members)} in {pool}: their variance of "
                f"the Laplacian is {least:.3g} or more"
            )
            value = measured[item.name]
            away[item.name] = Rejected(Reason.NOT_AMONG_SHARPEST, value, detail)
    kept = [item for item in items if item.name not in away]
    return kept, [(item, away[item.name]) for item in items if item.name in away]


def _measured(
    items: Sequence[Item], marks: Marks, folder: Path, mapper: OrderedMap, advance: Advance
) -> dict[str, float]:
    """By name of the item; items that share a sharp picture share its value."""
    digests = {item.name: marks[item.name, "sharp"][0] for item in items}
    pictures = {digests[item.name]: item.pictures["sharp"] for item in items}
    path = folder / SHARPNESS_NAME
    with FileLock(path.with_suffix(".lock")):
        known = dict(map(json.loads, whole_lines(path)))
        missing = {digest: one for digest, one in pictures.items() if digest not in known}
        with path.open("ab") as file:
            values = mapper(_sharpness, missing.values())
            for number, (digest, value) in enumerate(zip(missing, values, strict=True), start=1):
                known[digest] = value
                file.write(json.dumps([digest, value]).encode() + b"\n")
                file.flush()
                advance("sharpness", number, len(missing))
    return {name: known[digest] for name, digest in digests.items()}


def _sharpness(picture: Picture) -> float:
    try:
        return float(laplacian_variance(image_of(picture.read(), picture.path.name)))
    except Rejected:
        return math.inf  # it stays, and is turned away for its own reason
