"""Which candidate makes part of which shard: listing, fingerprints, splits, leakage.

The plan is a pure function of the source's pictures and the settings, so that every process of a
preparation finds the same one; what is slow about it, reading all pictures once, is kept in a file.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.random import Generator

from genrefocus.colours import SRGB
from genrefocus.data.processes import OrderedMap
from genrefocus.data.sample import SPLITS
from genrefocus.preparation.fingerprints import Advance, Marks, of_folder, of_items
from genrefocus.preparation.item import Item, Source
from genrefocus.preparation.leakage import Fingerprint, Leaked, Mark, find_leaks, refuse
from genrefocus.preparation.selection import without_blurred
from genrefocus.rejection import Reason, Rejected
from genrefocus.writing import write_atomically

LEAKS_NAME = "leaks.jsonl"


@dataclass(frozen=True)
class LeakageCheck:
    """What pictures are compared with, and how.

    Attributes:
        against: folders of pictures, or of shards, that are tested on.
        distance: perceptual hashes that differ in so many bits or fewer are of one picture.
        allow: names of items that may be there all the same.
    """

    against: tuple[Path, ...]
    distance: int
    allow: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """An item that has its place.

    Attributes:
        item: of the source.
        key: of its sample.
        split: train, val or test.
        seed: of everything random about it; of the preparation's seed and the key.
        digests: role -> sha256 of the encoded picture.
        spaces: role -> colour space of the picture, see ``colours.Pixels``.
    """

    item: Item
    key: str
    split: str
    seed: int
    digests: Mapping[str, str]
    spaces: Mapping[str, str] = field(default_factory=dict)

    def generator(self) -> Generator:
        """A new generator for this candidate."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Part:
    """What one shard is made of."""

    split: str
    number: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Turned:
    """An item that was turned away."""

    name: str
    split: str | None
    rejected: Rejected


@dataclass(frozen=True)
class Plan:
    """Parts in order, what the listing turned away, and a digest of all that was listed."""

    parts: tuple[Part, ...]
    turned: tuple[Turned, ...]
    listing: str


def make_plan(
    source: Source,
    *,
    folder: Path,
    splits: Mapping[str, float],
    seed: int,
    items_per_shard: int,
    limit: int | None,
    leakage: LeakageCheck,
    mapper: OrderedMap,
    advance: Advance,
) -> Plan:
    """List the source, compare its pictures, and divide it into parts.

    Args:
        source: of the items.
        folder: for the file of fingerprints.
        splits: split -> share of the scenes, by a stable hash; for items without a split.
        seed: of the preparation.
        items_per_shard: candidates of one shard; those that are turned away leave it smaller.
        limit: of items, chosen by a stable hash; None takes all.
        leakage: what to compare with.
        mapper: runs the reading of pictures.
        advance: is told of the progress.

    Raises:
        OSError: a picture cannot be read.
        ValueError: shares that do not add up, or pictures that leak (``leakage.Leaked``).
    """
    check_splits(splits)
    items, turned = list_items(source, limit)
    names = {item.name: item for item in items}
    assert len(names) == len(items), f"{source.name} lists a name twice"
    marks, unreadable = of_items(items, folder, mapper, advance)
    turned += unreadable.items()
    items = [item for item in items if item.name not in unreadable]
    alike = _alike(items, marks, splits, leakage.distance)
    chosen = {item.name: _split(source, item, alike, splits) for item in items}
    _check_leaks(items, chosen, marks, leakage, folder, mapper, advance)
    kept, twice = _without_copies(items, chosen, marks)
    parts: list[Part] = []
    for split in SPLITS:
        taken, blurred = without_blurred(kept[split], marks, folder, mapper, advance)
        twice += [Turned(item.name, split, rejected) for item, rejected in blurred]
        candidates = [_candidate(item, split, seed, marks) for item in taken]
        for number, first in enumerate(range(0, len(candidates), items_per_shard)):
            chunk = candidates[first : first + items_per_shard]
            parts.append(Part(split, number, tuple(chunk)))
    listed: list[Any] = [
        [item.name, chosen[item.name], _digests(item, marks), *(item.pool or ())] for item in items
    ]
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    away = [Turned(name, None, rejected) for name, rejected in turned]
    return Plan(tuple(parts), tuple(away + twice), digest)


def list_items(source: Source, limit: int | None) -> tuple[list[Item], list[tuple[str, Rejected]]]:
    """Items and problems of a source; with a limit those whose names hash lowest, in order."""
    items = source.items()
    problems = source.problems()
    if limit is not None and len(items) > limit:
        lowest = sorted(items, key=lambda item: _hash(item.name))[:limit]
        names = {item.name for item in lowest}
        items = [item for item in items if item.name in names]
    return items, problems


def check_splits(splits: Mapping[str, float]) -> None:
    """Raise ValueError where shares are of other splits, negative, or do not add up to 1."""
    if set(splits) - set(SPLITS) or any(share < 0 for share in splits.values()):
        raise ValueError(f"splits {dict(splits)}: give shares >= 0 of {', '.join(SPLITS)}")
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ValueError(f"splits {dict(splits)} must add up to 1")


def split_of(digest: str, splits: Mapping[str, float]) -> str:
    """The split of a scene by a hexadecimal digest of it: adding scenes moves none."""
    place, begin = int(digest[:15], 16) / 16**15, 0.0
    for split, share in splits.items():
        begin += share
        if place < begin:
            return split
    return list(splits)[-1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _split(
    source: Source, item: Item, alike: Mapping[str, str], splits: Mapping[str, float]
) -> str:
    if item.split is not None:
        return item.split
    if item.scene is not None:
        return split_of(_hash(f"{source.name}/{item.scene}"), splits)
    return split_of(alike[item.name], splits)


def _alike(
    items: Sequence[Item], marks: Marks, splits: Mapping[str, float], distance: int
) -> dict[str, str]:
    """Name -> digest of the scene, for items that name none.

    A picture without a scene's name is known by its content, which a new name leaves alone. Those
    that look alike, as in a burst, are one scene, known by the least of their digests. Only those
    that different splits would get are compared, until no split parts any that look alike.
    """
    loose = [item for item in items if item.split is None and item.scene is None]
    digest = {item.name: next(iter(_digests(item, marks).values())) for item in loose}
    group = {name: name for name in digest}  # to another of its group, or itself

    def first(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    while True:
        scenes = {name: digest[first(name)] for name in digest}
        own = [
            Fingerprint(
                item.name,
                item.name,
                split_of(scenes[item.name], splits),
                mark.sha256,
                mark.phash,
            )
            for item in loose
            for mark in _compared(item, marks)
        ]
        leaks = find_leaks(own, distance=distance)
        if not leaks:
            return scenes
        for leak in leaks:
            low, high = sorted((first(leak.a.name), first(leak.b.name)), key=digest.__getitem__)
            group[high] = low


def _compared(item: Item, marks: Marks) -> list[Mark]:
    return [marks[item.name, role] for role in sorted(item.pictures)]


def _digests(item: Item, marks: Marks) -> dict[str, str]:
    return {role: marks[item.name, role].sha256 for role in sorted(item.pictures)}


def _candidate(item: Item, split: str, seed: int, marks: Marks) -> Candidate:
    digests = _digests(item, marks)
    key = sample_key(item.name, "".join(digests.values()))
    own = int(_hash(f"{seed}/{key}")[:15], 16)
    spaces = {role: marks[item.name, role].space for role in sorted(item.pictures)}
    return Candidate(item, key, split, own, digests, spaces)


def sample_key(name: str, digests: str) -> str:
    """Readable, and unique also for copies of one file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:40]
    return f"{stem}-{_hash(name + digests)[:12]}"


def _without_copies(
    items: Sequence[Item], chosen: Mapping[str, str], marks: Marks
) -> tuple[dict[str, list[Item]], list[Turned]]:
    """Items by split, without those whose pictures an earlier one of another scene has."""
    kept: dict[str, list[Item]] = defaultdict(list)
    seen: dict[tuple[str, ...], Item] = {}
    turned = []
    for item in items:
        digests = tuple(_digests(item, marks).values())
        first = seen.setdefault(digests, item) if digests else item
        if first is item:
            kept[chosen[item.name]].append(item)
        else:
            detail = f"the same file as {first.name}"
            rejected = Rejected(Reason.DUPLICATE, first.name, detail)
            turned.append(Turned(item.name, chosen[item.name], rejected))
    return kept, turned


def _check_leaks(
    items: Sequence[Item],
    chosen: Mapping[str, str],
    marks: Marks,
    leakage: LeakageCheck,
    folder: Path,
    mapper: OrderedMap,
    advance: Advance,
) -> None:
    own = [
        Fingerprint(item.name, item.scene or item.name, chosen[item.name], mark.sha256, mark.phash)
        for item in items
        for mark in _compared(item, marks)
    ]
    against = [mark for folder in leakage.against for mark in of_folder(folder, mapper, advance)]
    leaks = find_leaks(own, against, distance=leakage.distance)
    record = folder.parent / LEAKS_NAME
    try:
        refuse(leaks, leakage.allow)
    except Leaked as leaked:
        lines = (
            json.dumps([leak.a.name, leak.a.split, leak.b.name, leak.b.split, leak.distance])
            for leak in leaked.leaks
        )
        write_atomically(record, "".join(f"{line}\n" for line in lines).encode())
        raise ValueError(f"{leaked}; all are in {record}") from leaked
    record.unlink(missing_ok=True)


def facts_of(candidate: Candidate) -> dict[str, Any]:
    """Provenance of a sample that follows from its item."""
    item = candidate.item
    files = {
        role: {
            "file": item.name if len(item.pictures) == 1 else picture.path.name,
            "sha256": candidate.digests[role],
            **_converted(candidate.spaces.get(role, SRGB)),
        }
        for role, picture in sorted(item.pictures.items())
    }
    return {"source": item.name, "scene": item.scene, "pictures": files, "seed": candidate.seed}


def _converted(space: str) -> dict[str, str]:
    return {} if space == SRGB else {"colours": f"converted to {SRGB} from {space}"}
