"""Numbers in the place of images, for routes that make everything from seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from genrefocus.data.sample import SPLITS
from genrefocus.preparation.item import Item
from genrefocus.rejection import Rejected


@dataclass(frozen=True)
class Numbered:
    """Items ``train-000000``, ``train-000001``, ... with the fact ``number``; each is a scene.

    Args:
        name: for provenance and messages.
        counts: split -> number of items.
        prefix: of the names, which are the samples' keys.
    """

    name: str
    counts: Mapping[str, int]
    prefix: str = ""

    roles: ClassVar[frozenset[str]] = frozenset({"scene"})

    def items(self) -> list[Item]:
        """See :class:`~genrefocus.preparation.item.Source`."""
        keyed = (
            (f"{self.prefix}{split}-{number:06d}", split, number)
            for split in SPLITS
            for number in range(self.counts.get(split, 0))
        )
        return [
            Item(key, scene=key, pictures={}, facts={"number": number}, split=split, key=key)
            for key, split, number in keyed
        ]

    def problems(self) -> list[tuple[str, Rejected]]:
        """See :class:`~genrefocus.preparation.item.Source`."""
        return []
