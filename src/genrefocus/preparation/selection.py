"""The sharpest of a pool of items, measured over the whole pool before a sample is made."""

import math
from collections import defaultdict
from collections.abc import Sequence

from genrefocus.data.images import image_of
from genrefocus.metrics.lvcorr import laplacian_variance
from genrefocus.preparation.fingerprints import Fingerprints, ReadingCache
from genrefocus.preparation.item import ImageFile, Item
from genrefocus.rejection import Reason, Rejected


def not_among_sharpest(
    items: Sequence[Item], fingerprints: Fingerprints, readings: ReadingCache
) -> dict[str, Rejected]:
    """Items that are not among the sharpest of their pool, with ``not_among_sharpest``, by name.

    The measure is the variance of the Laplacian of the sharp image at its full size
    (``metrics.lvcorr.laplacian_variance``). Of equally sharp ones the first names are kept.

    Args:
        items: of one split; those without a pool are kept.
        fingerprints: of all their images.
        readings: keep what was measured.

    Raises:
        OSError: an image cannot be read.
    """
    pools: dict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in items:
        if item.pool is not None:
            pools[item.pool].append(item)
    away: dict[str, Rejected] = {}
    for (pool, count), members in sorted(pools.items()):
        if len(members) <= count:
            continue
        content = {item.name: fingerprints[item.name]["sharp"].sha256 for item in members}
        images = {content[item.name]: item.images["sharp"] for item in members}
        measured = readings.read("sharpness", _sharpness, images)
        sharpness = {name: measured[digest] for name, digest in content.items()}
        ranked = sorted(members, key=lambda item: (-sharpness[item.name], item.name))
        least = sharpness[ranked[count - 1].name]
        detail = (
            f"not among the {count} sharpest of {len(members)} in {pool}: their variance of "
            f"the Laplacian is {least:.3g} or more"
        )
        for item in ranked[count:]:
            away[item.name] = Rejected(Reason.NOT_AMONG_SHARPEST, sharpness[item.name], detail)
    return away


def _sharpness(image: ImageFile) -> float:
    try:
        return float(laplacian_variance(image_of(image.read(), image.path.name)))
    except Rejected:
        return math.inf  # it stays, and is turned away for its own reason
