"""What all images of a source, and of what is tested on, are known by: each is read once."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from genrefocus.data.images import images_below
from genrefocus.data.processes import OrderedMap
from genrefocus.data.shards import INDEX_NAME, ShardDataset
from genrefocus.preparation.item import ImageFile, Item
from genrefocus.preparation.leakage import Fingerprint, PlacedImage, fingerprint_of
from genrefocus.rejection import Rejected
from genrefocus.writing import whole_lines

_SHOWN = 5

Advance = Callable[[str, int, int], None]
"""Told of (what is done, how many of it are done, how many there are)."""

Fingerprints = Mapping[str, Mapping[str, Fingerprint]]
"""Name of the item -> role -> fingerprint, roles in order."""


@dataclass(frozen=True)
class ReadingCache:
    """What is read of all images before a sample is made, each once: files keep it.

    Attributes:
        folder: of the files of JSON lines, which several processes may share.
        mapper: runs the reading.
        advance: called with the progress.
    """

    folder: Path
    mapper: OrderedMap
    advance: Advance

    def read(
        self, what: str, work: Callable[[Any], Any], items: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Key -> result of the work on the item of this key.

        Args:
            what: is read, for the file's name and the progress.
            work: item -> plain JSON data, or ``Rejected``, which is returned and not kept.
            items: key -> item.
        """
        path = self.folder / f"{what}.jsonl"
        with FileLock(f"{path}.lock"):
            known = dict(map(json.loads, whole_lines(path)))
            missing = {key: item for key, item in items.items() if key not in known}
            with path.open("ab") as file:
                results = zip(missing, self.mapper(work, missing.values()), strict=True)
                for number, (key, result) in enumerate(results, start=1):
                    known[key] = result
                    if not isinstance(result, Rejected):
                        file.write(json.dumps([key, result]).encode() + b"\n")
                        file.flush()
                    self.advance(what, number, len(missing))
        return {key: known[key] for key in items}


class Readable(Protocol):
    """What can be read: a file, a cell, a member of a shard."""

    def read(self) -> bytes: ...


def of_items(
    items: Sequence[Item], readings: ReadingCache
) -> tuple[dict[str, dict[str, Fingerprint]], dict[str, Rejected]]:
    """Of all images; and items of which one cannot be read, as nothing could compare them."""
    keys = {(i.name, role): _identity(image) for i in items for role, image in i.images.items()}
    images = {
        keys[item.name, role]: (item.name, image)
        for item in items
        for role, image in item.images.items()
    }
    found = readings.read("fingerprints", _fingerprint, images) if images else {}
    fingerprints, unreadable = {}, {}
    for item in items:
        own = {role: found[keys[item.name, role]] for role in sorted(item.images)}
        rejected = [one for one in own.values() if isinstance(one, Rejected)]
        if rejected:
            unreadable[item.name] = rejected[0]
        else:
            fingerprints[item.name] = {role: Fingerprint(*one) for role, one in own.items()}
    return fingerprints, unreadable


def of_folder(folder: Path, readings: ReadingCache) -> Iterator[PlacedImage]:
    """Fingerprints of a benchmark: images below a folder, or the AIF and bokeh of shards.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image, or some that cannot be read, and thus not compared.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"leakage.against: {folder} does not exist")
    title = f"fingerprints of {folder.name}"
    sets = sorted(path.parent for path in folder.rglob(INDEX_NAME))
    images: list[tuple[str, Readable]]
    if sets:
        images = [one for path in sets for one in _members(ShardDataset(path), path.name)]
    else:
        files = images_below(folder)
        images = [(one.relative_to(folder.parent).as_posix(), ImageFile(one)) for one in files]
    if not images:
        raise ValueError(f"leakage.against: no image and no set of shards in {folder}")
    unreadable = []
    found = readings.mapper(_fingerprint, images)
    for number, ((name, _), one) in enumerate(zip(images, found, strict=True), start=1):
        readings.advance(title, number, len(images))
        if isinstance(one, Rejected):
            unreadable.append(str(one) if name in str(one) else f"{name}: {one}")
        else:
            yield PlacedImage(name, name, folder.name, one)
    if unreadable:
        raise ValueError(
            f"leakage.against: {len(unreadable)} of {len(images)} images in {folder} cannot be "
            f"compared: {'; '.join(unreadable[:_SHOWN])}; mend them or take them out"
        )


@dataclass(frozen=True)
class _Member:
    dataset: ShardDataset
    number: int
    name: str

    def read(self) -> bytes:
        return self.dataset.members(self.number)[self.name]


def _members(dataset: ShardDataset, folder: str) -> Iterator[tuple[str, Readable]]:
    for number, key in enumerate(dataset.keys):
        for name in dataset.members(number):
            if name.split(".")[0] in ("aif", "bokeh"):
                yield f"{folder}/{key}.{name}", _Member(dataset, number, name)


def _fingerprint(named: tuple[str, Readable]) -> Fingerprint | Rejected:
    name, image = named
    try:
        return fingerprint_of(image.read(), name)
    except Rejected as rejected:
        return rejected


def _identity(image: ImageFile) -> str:
    status = image.path.stat()
    cell = "" if image.cell is None else f"#{image.cell[0]}.{image.cell[1]}"
    return f"{image.path}{cell}:{status.st_size}:{status.st_mtime_ns}"
