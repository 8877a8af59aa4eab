"""Crops of several shapes, of which each sample takes the one nearest to its own proportions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which imports torch, and configurations ask for edges
    from genrefocus.data.shards import ShardDataset

Size = tuple[int, int]
"""Height and width, px."""


class SmallerThanBuckets(UserWarning):
    """Samples that hold no bucket are left out."""


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size | None:
    """The crop of a sample of ``size``: of the buckets that it holds, the nearest in proportions.

    Returns:
        The first of equally near ones; None where it holds none.
    """

    def distance(bucket: Size) -> float:
        return abs(math.log(bucket[0] / bucket[1]) - math.log(size[0] / size[1]))

    held = (one for one in buckets if one[0] <= size[0] and one[1] <= size[1])
    return min(held, key=distance, default=None)


def least_edge(crop: int, buckets: Sequence[Size] | None) -> int:
    """Shortest edge of any crop, px: of the square ``crop``, or of buckets in its place."""
    return min(min(one) for one in buckets) if buckets else crop


def crops_of(
    one: ShardDataset, indices: Iterable[int], crop: int, buckets: Sequence[Size] | None
) -> dict[int, Size]:
    """Samples of a set, and height and width in px of their crops.

    Args:
        one: the set.
        indices: of the samples.
        crop: edge of the square crop.
        buckets: crops in its place: the one that is nearest to a sample's proportions. Samples that
            hold none of them are left out, which a warning counts.
    """
    if buckets is None:
        return dict.fromkeys(indices, (crop, crop))
    found = {index: bucket_of(one.size(index), buckets) for index in indices}
    crops = {index: size for index, size in found.items() if size is not None}
    if len(crops) < len(found):
        warnings.warn(
            f"{one.folder}: {len(found) - len(crops)} of {len(found)} samples hold none of "
            "data.buckets and are left out",
            SmallerThanBuckets,
            stacklevel=2,
        )
    return crops
