"""Numbers in the place of images, for routes that make everything from seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genrefocus.data.sample import SPLITS
from genrefocus.preparation.item import Item, Source


@dataclass(frozen=True)
class NumberedScenes(Source):
    """Items ``train-000000``, ``train-000001``, ... with the fact ``number``; each is a scene.

    Args:
        name: for provenance and messages.
        counts: split -> number of items.
        prefix: of the names.
        facts: of all items.
        keyed: whether the names are the keys of the samples, too.

    Raises:
        ValueError: an unknown split.
    """

    name: str
    counts: Mapping[str, int]
    prefix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    keyed: bool = True

    def __post_init__(self) -> None:
        if set(self.counts) - set(SPLITS):
            raise ValueError(f"counts for {', '.join(self.counts)}; splits are {', '.join(SPLITS)}")

    def items(self) -> list[Item]:
        named = (
            (f"{self.prefix}{split}-{number:06d}", split, number)
            for split in SPLITS
            for number in range(self.counts.get(split, 0))
        )
        return [
            Item(
                name,
                scene=name,
                images={},
                facts={**self.facts, "number": number},
                split=split,
                key=name if self.keyed else None,
            )
            for name, split, number in named
        ]


def procedural_scenes(
    *, counts: Mapping[str, int], seed: int, height: int, width: int, kind: str = "day"
) -> NumberedScenes:
    """Procedural scenes as a source: no images, exact depth, rendered through a sampled lens.

    Args:
        counts: split -> number of scenes; those of val and test are made of texture families that
            train never sees.
        seed: of all of them.
        height, width: px.
        kind: ``day``, or ``night`` with many point lights.

    Raises:
        ValueError: an unknown split or kind.
    """
    if kind not in ("day", "night"):
        raise ValueError(f"scenes of kind {kind!r}; choose from day, night")
    name = f"procedural {kind} scenes, {height}x{width} px, seed {seed}"
    facts = {"kind": kind, "size": [height, width]}
    return NumberedScenes(name, counts, f"{kind}-", facts, keyed=False)
