"""Which candidate makes part of which shard: listing, fingerprints, splits, leakage.

The plan is a pure function of the source's images and the settings, so that every process of a
preparation finds the same one; what is slow about it, reading all images once, is kept in a file.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.random import Generator

from genrefocus.data.sample import SPLITS
from genrefocus.photograph.colours import SRGB
from genrefocus.preparation.fingerprints import Fingerprints, ReadingCache, of_folder, of_items
from genrefocus.preparation.item import Item, Source
from genrefocus.preparation.leakage import (
    DISTANCE,
    Fingerprint,
    PlacedImage,
    account,
    find_leaks,
    unexcused,
)
from genrefocus.preparation.ledger import rejection
from genrefocus.preparation.selection import not_among_sharpest
from genrefocus.rejection import Reason, Rejected
from genrefocus.writing import write_atomically

LEAKS_NAME = "leaks.jsonl"


@dataclass(frozen=True)
class LeakageCheck:
    """What images are compared with, and how.

    Attributes:
        against: folders of images, or of shards, that are tested on.
        distance: perceptual hashes that differ in so many bits or fewer are of one image.
        allow: names of items that may be there all the same.
    """

    against: tuple[Path, ...] = ()
    distance: int = DISTANCE
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """An item that has its place.

    Attributes:
        item: of the source.
        key: of its sample.
        split: train, val or test.
        seed: of everything random about it; of the preparation's seed and the key.
        fingerprints: role -> fingerprint of the encoded image.
    """

    item: Item
    key: str
    split: str
    seed: int
    fingerprints: Mapping[str, Fingerprint]

    def generator(self) -> Generator:
        """A new generator for this candidate."""
        return np.random.default_rng(self.seed)

    def provenance(self) -> dict[str, Any]:
        """What of a sample's provenance follows from its item."""
        files = {}
        for role, image in sorted(self.item.images.items()):
            digest, _, space = self.fingerprints[role]
            name = self.item.name if len(self.item.images) == 1 else image.path.name
            files[role] = {"file": name, "sha256": digest}
            if space != SRGB:
                files[role]["colours"] = f"converted to {SRGB} from {space}"
        item = self.item
        return {"source": item.name, "scene": item.scene, "images": files, "seed": self.seed}


@dataclass(frozen=True)
class Part:
    """What one shard is made of."""

    split: str
    number: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class ShardPlan:
    """Parts in order, entries of the ledger for what was turned away, digest of the listing."""

    parts: tuple[Part, ...]
    rejections: tuple[dict[str, Any], ...]
    listing: str


def plan_shards(
    source: Source,
    readings: ReadingCache,
    *,
    splits: Mapping[str, float],
    seed: int,
    items_per_shard: int,
    limit: int | None,
    leakage: LeakageCheck,
) -> ShardPlan:
    """List the source, compare its images, and divide it into parts.

    Args:
        source: of the items.
        readings: of all images.
        splits: split -> share of the scenes, by a stable hash; for items without a split.
        seed: of the preparation.
        items_per_shard: candidates of one shard; those that are turned away leave it smaller.
        limit: of items, chosen by a stable hash; None takes all.
        leakage: what to compare with.

    Raises:
        OSError: an image cannot be read.
        ValueError: shares that do not add up, or images that leak.
    """
    check_splits(splits)
    items = _limited(source.items(), limit)
    assert len({item.name for item in items}) == len(items), f"{source.name} lists a name twice"
    fingerprints, unreadable = of_items(items, readings)
    away = [rejection(*one, None) for one in (*source.problems(), *unreadable.items())]
    items = [item for item in items if item.name not in unreadable]
    split = _splits(source, items, fingerprints, splits, leakage.distance)
    _refuse_leaks(_placed(items, fingerprints, split), leakage, readings)
    copies = _copies(items, fingerprints)
    away += [rejection(name, one, split[name]) for name, one in copies.items()]
    parts: list[Part] = []
    for own in SPLITS:
        kept = [i for i in items if split[i.name] == own and i.name not in copies]
        blurred = not_among_sharpest(kept, fingerprints, readings)
        away += [rejection(i.name, blurred[i.name], own) for i in kept if i.name in blurred]
        candidates = [
            _candidate(item, own, seed, fingerprints[item.name])
            for item in kept
            if item.name not in blurred
        ]
        for number, first in enumerate(range(0, len(candidates), items_per_shard)):
            parts.append(Part(own, number, tuple(candidates[first : first + items_per_shard])))
    listed: list[Any] = [
        [i.name, split[i.name], _digests(fingerprints[i.name]), *(i.pool or ()), *_said(i)]
        for i in items
    ]
    return ShardPlan(tuple(parts), tuple(away), _hash(json.dumps(listed, sort_keys=True)))


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


def sample_key(name: str, digests: str) -> str:
    """Readable, and unique also for copies of one file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:40]
    return f"{stem}-{_hash(name + digests)[:12]}"


def _limited(items: list[Item], limit: int | None) -> list[Item]:
    """Those whose names hash lowest, in order."""
    if limit is None or len(items) <= limit:
        return items
    names = set(sorted((item.name for item in items), key=_hash)[:limit])
    return [item for item in items if item.name in names]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digests(fingerprints: Mapping[str, Fingerprint]) -> dict[str, str]:
    return {role: one.sha256 for role, one in fingerprints.items()}


def _said(item: Item) -> list[str]:
    return [] if item.caption is None else [item.caption]


def _placed(
    items: Sequence[Item], fingerprints: Fingerprints, split: Mapping[str, str]
) -> list[PlacedImage]:
    return [
        PlacedImage(item.name, item.scene or item.name, split[item.name], one)
        for item in items
        for one in fingerprints[item.name].values()
    ]


def _splits(
    source: Source,
    items: Sequence[Item],
    fingerprints: Fingerprints,
    splits: Mapping[str, float],
    distance: int,
) -> dict[str, str]:
    """Name -> split: the item's own, or by a hash of its scene.

    An image without a scene's name is known by its content, which a new name leaves alone. Those
    that look alike, as in a burst, are one scene, known by the least of their digests. Only those
    that different splits would get are compared, until no split parts any that look alike.
    """
    found = {item.name: item.split for item in items if item.split is not None}
    for item in items:
        if item.split is None and item.scene is not None:
            found[item.name] = split_of(_hash(f"{source.name}/{item.scene}"), splits)
    loose = [item for item in items if item.name not in found]
    digest = {i.name: next(iter(fingerprints[i.name].values())).sha256 for i in loose}
    group = {name: name for name in digest}  # to another of its group, or itself

    def first(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    while True:
        chosen = {name: split_of(digest[first(name)], splits) for name in digest}
        leaks = find_leaks(_placed(loose, fingerprints, chosen), distance=distance)
        if not leaks:
            return found | chosen
        for leak in leaks:
            low, high = sorted((first(leak.a.name), first(leak.b.name)), key=digest.__getitem__)
            group[high] = low


def _refuse_leaks(
    images: Sequence[PlacedImage], leakage: LeakageCheck, readings: ReadingCache
) -> None:
    against = [one for path in leakage.against for one in of_folder(path, readings)]
    leaks = unexcused(find_leaks(images, against, distance=leakage.distance), leakage.allow)
    record = readings.folder.parent / LEAKS_NAME
    record.unlink(missing_ok=True)
    if leaks:
        lines = ([x.a.name, x.a.split, x.b.name, x.b.split, x.distance] for x in leaks)
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_atomically(record, text.encode())
        raise ValueError(f"{account(leaks)}; all are in {record}")


def _copies(items: Sequence[Item], fingerprints: Fingerprints) -> dict[str, Rejected]:
    """Items whose images an earlier one has, by name."""
    first: dict[tuple[str, ...], str] = {}
    copies = {}
    for item in items:
        digests = tuple(_digests(fingerprints[item.name]).values())
        original = first.setdefault(digests, item.name) if digests else item.name
        if original != item.name:
            detail = f"the same file as {original}"
            copies[item.name] = Rejected(Reason.DUPLICATE, original, detail)
    return copies


def _candidate(
    item: Item, split: str, seed: int, fingerprints: Mapping[str, Fingerprint]
) -> Candidate:
    key = item.key or sample_key(item.name, "".join(_digests(fingerprints).values()))
    return Candidate(item, key, split, int(_hash(f"{seed}/{key}")[:15], 16), fingerprints)
