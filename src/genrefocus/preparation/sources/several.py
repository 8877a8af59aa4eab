"""Several sources as one, for a set of samples that is made of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from genrefocus.preparation.item import Item, Source
from genrefocus.rejection import Rejected


@dataclass(frozen=True)
class CombinedSource(Source):
    """The items of several sources, named ``<source>/<name>``; splits and scenes stay theirs.

    Args:
        sources: name -> source. Items have the roles that all of them have.

    Raises:
        ValueError: no source.
    """

    sources: Mapping[str, Source]

    name = "several"

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("several sources without a source; give source.sources")

    @property
    def roles(self) -> frozenset[str]:
        """What all sources have."""
        return frozenset.intersection(*(source.roles for source in self.sources.values()))

    def items(self) -> list[Item]:
        return [
            replace(item, name=f"{name}/{item.name}", scene=_below(name, item.scene))
            for name, source in sorted(self.sources.items())
            for item in source.items()
        ]

    def problems(self) -> list[tuple[str, Rejected]]:
        return [
            (f"{name}/{problem}", rejected)
            for name, source in sorted(self.sources.items())
            for problem, rejected in source.problems()
        ]


def _below(name: str, scene: str | None) -> str | None:
    return None if scene is None else f"{name}/{scene}"
