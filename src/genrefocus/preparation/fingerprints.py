"""What all pictures of a source, and of what is tested on, are known by: each is read once."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from genrefocus.data.images import pictures_below
from genrefocus.data.processes import OrderedMap
from genrefocus.data.shards import INDEX_NAME, ShardDataset
from genrefocus.preparation.item import Item, Picture
from genrefocus.preparation.leakage import Fingerprint, Mark, mark_of
from genrefocus.rejection import Rejected
from genrefocus.writing import whole_lines

FINGERPRINTS_NAME = "fingerprints.jsonl"

_SHOWN = 5

Advance = Callable[[str, int, int], None]
"""Told of (what is done, how many of it are done, how many there are)."""

Marks = dict[tuple[str, str], Mark]
"""(name, role) -> what is known of the picture."""


def of_folder(folder: Path, mapper: OrderedMap, advance: Advance) -> Iterator[Fingerprint]:
    """Fingerprints of a benchmark: pictures below a folder, or the AIF and bokeh of shards.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture, or some that cannot be read, and thus not compared.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"leakage.against: {folder} does not exist")
    title = f"fingerprints of {folder.name}"
    sets = sorted(path.parent for path in folder.rglob(INDEX_NAME))
    pictures: list[tuple[str, Encoded]]
    if sets:
        pictures = [one for path in sets for one in _members(ShardDataset(path), path.name)]
    else:
        files = pictures_below(folder)
        pictures = [(one.relative_to(folder.parent).as_posix(), Picture(one)) for one in files]
    if not pictures:
        raise ValueError(f"leakage.against: no picture and no set of shards in {folder}")
    unreadable = []
    found = mapper(_mark, pictures)
    for number, ((name, _), mark) in enumerate(zip(pictures, found, strict=True), start=1):
        advance(title, number, len(pictures))
        if isinstance(mark, Rejected):
            unreadable.append(str(mark) if name in str(mark) else f"{name}: {mark}")
        else:
            yield Fingerprint(name, name, folder.name, mark.sha256, mark.phash)
    if unreadable:
        raise ValueError(
            f"leakage.against: {len(unreadable)} of {len(pictures)} pictures in {folder} cannot be "
            f"compared: {'; '.join(unreadable[:_SHOWN])}; mend them or take them out"
        )


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


def _mark(named: tuple[str, Encoded]) -> Mark | Rejected:
    name, picture = named
    try:
        return mark_of(picture.read(), name)
    except Rejected as rejected:
        return rejected


def of_items(
    items: Sequence[Item], folder: Path, mapper: OrderedMap, advance: Advance
) -> tuple[Marks, dict[str, Rejected]]:
    """Of all pictures, and items of which one cannot be read, as nothing could compare them.

    Those that an earlier process has read are in the file.
    """
    wanted = {(item.name, role): item.pictures[role] for item in items for role in item.pictures}
    if not wanted:
        return {}, {}
    path = folder / FINGERPRINTS_NAME
    unreadable: dict[str, Rejected] = {}
    with FileLock(folder / f"{FINGERPRINTS_NAME}.lock"):
        known = {key: Mark(*mark) for key, *mark in map(json.loads, whole_lines(path))}
        identities = {one: _identity(picture) for one, picture in wanted.items()}
        distinct = {identities[one]: (one[0], picture) for one, picture in wanted.items()}
        missing = {key: one for key, one in distinct.items() if key not in known}
        with path.open("ab") as file:
            results = mapper(_mark, missing.values())
            for number, (key, mark) in enumerate(zip(missing, results, strict=True), start=1):
                advance("fingerprints", number, len(missing))
                if isinstance(mark, Rejected):
                    unreadable[key] = mark
                    continue
                known[key] = mark
                file.write(json.dumps([key, *mark]).encode() + b"\n")
                file.flush()
    marks = {one: known[key] for one, key in identities.items() if key not in unreadable}
    away = {one[0]: unreadable[key] for one, key in identities.items() if key in unreadable}
    return marks, away


def _identity(picture: Picture) -> str:
    status = picture.path.stat()
    cell = "" if picture.cell is None else f"#{picture.cell[0]}.{picture.cell[1]}"
    return f"{picture.path}{cell}:{status.st_size}:{status.st_mtime_ns}"
