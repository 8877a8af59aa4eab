"""Which candidate makes part of which shard: listing, fingerprints, splits, leakage.

The plan is a pure function of the source's pictures and the settings, so that every process of a
preparation finds the same one; what is slow about it, reading all pictures once, is kept in a file.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from numpy.random import Generator

from genrefocus.data.images import is_picture
from genrefocus.data.processes import OrderedMap
from genrefocus.data.sample import SPLITS
from genrefocus.data.shards import INDEX_NAME, ShardDataset
from genrefocus.preparation.item import Item, Picture, Source
from genrefocus.preparation.leakage import Fingerprint, Leaked, find_leaks, hashes, refuse
from genrefocus.rejection import Reason, Rejected
from genrefocus.writing import write_atomically

FINGERPRINTS_NAME = "fingerprints.jsonl"
LEAKS_NAME = "leaks.jsonl"
COMPARED_ROLES = ("photo", "sharp")

Advance = Callable[[str, int, int], None]
"""Told of (what is done, how many of it are done, how many there are)."""


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
    """

    item: Item
    key: str
    split: str
    seed: int
    digests: Mapping[str, str]

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
    marks = _fingerprints(items, folder, mapper, advance)
    names = {item.name: item for item in items}
    assert len(names) == len(items), f"{source.name} lists a name twice"
    alike = _alike(items, marks, splits, leakage.distance)
    chosen = {item.name: _split(source, item, alike, splits) for item in items}
    _check_leaks(items, chosen, marks, leakage, folder, mapper, advance)
    kept, twice = _without_copies(items, chosen, marks)
    parts: list[Part] = []
    for split in SPLITS:
        candidates = [_candidate(item, split, seed, marks) for item in kept[split]]
        for number, first in enumerate(range(0, len(candidates), items_per_shard)):
            chunk = candidates[first : first + items_per_shard]
            parts.append(Part(split, number, tuple(chunk)))
    listed = [[item.name, chosen[item.name], _digests(item, marks)] for item in items]
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
    items: Sequence[Item], marks: "Marks", splits: Mapping[str, float], distance: int
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
            Fingerprint(item.name, item.name, split_of(scenes[item.name], splits), *mark)
            for item in loose
            for mark in _compared(item, marks)
        ]
        leaks = find_leaks(own, distance=distance)
        if not leaks:
            return scenes
        for leak in leaks:
            low, high = sorted((first(leak.a.name), first(leak.b.name)), key=digest.__getitem__)
            group[high] = low


def _compared(item: Item, marks: "Marks") -> list[tuple[str, str | None]]:
    return [marks[item.name, role] for role in COMPARED_ROLES if role in item.pictures]


Marks = dict[tuple[str, str], tuple[str, str | None]]
"""(name, role) -> sha256 of the encoded picture and its perceptual hash, if it has structure."""


def _digests(item: Item, marks: Marks) -> dict[str, str]:
    return {role: marks[item.name, role][0] for role in sorted(item.pictures)}


def _candidate(item: Item, split: str, seed: int, marks: Marks) -> Candidate:
    digests = _digests(item, marks)
    key = sample_key(item.name, "".join(digests.values()))
    own = int(_hash(f"{seed}/{key}")[:15], 16)
    return Candidate(item, key, split, own, digests)


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
        Fingerprint(item.name, item.scene or item.name, chosen[item.name], *mark)
        for item in items
        for mark in _compared(item, marks)
    ]
    against = [mark for folder in leakage.against for mark in _of_folder(folder, mapper, advance)]
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


def _of_folder(folder: Path, mapper: OrderedMap, advance: Advance) -> Iterator[Fingerprint]:
    """Fingerprints of a benchmark: pictures below a folder, or the AIF and bokeh of shards."""
    if not folder.is_dir():
        raise FileNotFoundError(f"leakage.against: {folder} does not exist")
    title = f"fingerprints of {folder.name}"
    sets = sorted(path.parent for path in folder.rglob(INDEX_NAME))
    pictures: list[tuple[str, Encoded]]
    if sets:
        pictures = [one for path in sets for one in _members(ShardDataset(path), path.name)]
    else:
        files = [one for one in sorted(folder.rglob("*")) if is_picture(one)]
        pictures = [(one.relative_to(folder.parent).as_posix(), Picture(one)) for one in files]
    if not pictures:
        raise ValueError(f"leakage.against: no picture and no set of shards in {folder}")
    found = mapper(_hashes, (picture for _, picture in pictures))
    for number, ((name, _), mark) in enumerate(zip(pictures, found, strict=True), start=1):
        advance(title, number, len(pictures))
        yield Fingerprint(name, name, folder.name, *mark)


class Encoded(Protocol):
    """What can be read: a file, a cell, a member of a shard."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class _Member:
    dataset: ShardDataset
    number: int
    name: str

    def read(self) -> bytes:
        return self.dataset.members(self.number)[self.name]


def _members(dataset: ShardDataset, folder: str) -> Iterator[tuple[str, Encoded]]:
    for number, key in enumerate(dataset.keys):
        for name in dataset.members(number):
            if name.split(".")[0] in ("aif", "bokeh"):
                yield f"{folder}/{key}.{name}", _Member(dataset, number, name)


def _hashes(picture: Encoded) -> tuple[str, str | None]:
    """Of a picture, or of another file such as depth; what is no picture has no second hash."""
    data = picture.read()
    try:
        return hashes(data, "")
    except Rejected:
        return hashlib.sha256(data).hexdigest(), None


def _fingerprints(
    items: Sequence[Item], folder: Path, mapper: OrderedMap, advance: Advance
) -> Marks:
    """Of all pictures; those that an earlier process has read are in the file."""
    wanted = {(item.name, role): item.pictures[role] for item in items for role in item.pictures}
    if not wanted:
        return {}
    path = folder / FINGERPRINTS_NAME
    with FileLock(folder / f"{FINGERPRINTS_NAME}.lock"):
        known = _read_fingerprints(path)
        identities = {one: _identity(picture) for one, picture in wanted.items()}
        distinct = {identities[one]: picture for one, picture in wanted.items()}
        missing = {key: one for key, one in distinct.items() if key not in known}
        with path.open("ab") as file:
            results = mapper(_hashes, missing.values())
            for number, (key, mark) in enumerate(zip(missing, results, strict=True), start=1):
                known[key] = mark
                file.write(json.dumps([key, *mark]).encode() + b"\n")
                file.flush()
                advance("fingerprints", number, len(missing))
    return {one: known[identity] for one, identity in identities.items()}


def _identity(picture: Picture) -> str:
    status = picture.path.stat()
    cell = "" if picture.cell is None else f"#{picture.cell[0]}.{picture.cell[1]}"
    return f"{picture.path}{cell}:{status.st_size}:{status.st_mtime_ns}"


def _read_fingerprints(path: Path) -> dict[str, tuple[str, str | None]]:
    # A process that was killed may have left its last line unfinished.
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
    if lines and not lines[-1].endswith(b"\n"):
        path.write_bytes(b"".join(lines[:-1]))
    return {key: (sha256, phash) for key, sha256, phash in whole}


def facts_of(candidate: Candidate) -> dict[str, Any]:
    """Provenance of a sample that follows from its item."""
    item = candidate.item
    files = {
        role: {
            "file": item.name if len(item.pictures) == 1 else picture.path.name,
            "sha256": candidate.digests[role],
        }
        for role, picture in sorted(item.pictures.items())
    }
    return {"source": item.name, "scene": item.scene, "pictures": files, "seed": candidate.seed}
