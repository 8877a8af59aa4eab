"""Sets of cases: shards of this project, and pairs of pictures in any layout."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from genrefocus.benchmark.case import Case, Task
from genrefocus.data.images import image_of
from genrefocus.data.order import spread
from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength


class CaseSet(Protocol):
    """A data set of one task."""

    @property
    def task(self) -> Task:
        """What is asked."""

    @property
    def name(self) -> str:
        """Of the data set, in tables."""

    @property
    def fingerprint(self) -> str:
        """Of the content; goes into the protocol."""

    @property
    def keys(self) -> list[str]:
        """Of all cases, in order."""

    def __getitem__(self, key: str) -> Case:
        """The case.

        Raises:
            Rejected, ValueError, OSError: it cannot be read; the message names the file.
        """


@dataclass(frozen=True)
class ShardCases:
    """A finished set of shards as cases.

    For ``deblur`` the photograph is the input and the AIF the target; for ``bokeh`` it is the other
    way round; for ``refocus`` the further picture ``blurry`` is the input, whose own focus and K
    the provenance may name (``source_focus_disparity``, ``source_k``).

    Attributes:
        task: what is asked.
        name: of the data set, in tables.
        folder: of the set.
        limit: first so many cases, or None.
        spread: take as many as ``limit`` says from all over the set instead.
        own_prompts: networks are asked with a sample's own prompt, where it has one.
    """

    task: Task
    name: str
    folder: Path
    limit: int | None = None
    spread: bool = False
    own_prompts: bool = False

    def __post_init__(self) -> None:
        dataset = ShardDataset(self.folder)
        first = range(len(dataset))[: self.limit]
        numbers = spread(len(dataset), self.limit) if self.spread else first
        kept = {dataset.keys[number]: number for number in numbers}
        object.__setattr__(self, "_dataset", dataset)
        object.__setattr__(self, "_numbers", kept)

    _dataset: Any = None
    _numbers: Any = None

    @property
    def fingerprint(self) -> str:
        if len(self._numbers) == len(self._dataset):
            return str(self._dataset.fingerprint)
        part = "spread" if self.spread else "first"
        return f"{self._dataset.fingerprint}, {part} {len(self._numbers)}"

    @property
    def keys(self) -> list[str]:
        return list(self._numbers)

    @property
    def prompts(self) -> set[str]:
        """Those that samples bring."""
        found = {self._dataset.metadata(number)["prompt"] for number in self._numbers.values()}
        return {prompt for prompt in found if prompt}

    def has(self, extra: str) -> bool:
        """Whether the first sample has a further image of this name."""
        return any(extra in self._dataset[n].extras for n in list(self._numbers.values())[:1])

    def __getitem__(self, key: str) -> Case:
        sample = self._dataset[self._numbers[key]]
        case = case_of(self.task, sample)
        return replace(case, prompt=sample.prompt) if self.own_prompts and sample.prompt else case


def case_of(task: Task, sample: Sample) -> Case:
    """A sample as a case.

    Raises:
        ValueError: a refocus case without the picture ``blurry``.
    """
    aif, photograph = to_float(sample.aif), to_float(sample.bokeh)
    extras = {name: to_float(image) for name, image in sample.extras.items()}
    known: dict[str, Any] = {
        "draft": extras.get("pre_deblur"),
        "series": {
            k / PROTOCOL_K[-1]: extras[f"sweep_{k:g}"]
            for k in PROTOCOL_K
            if f"sweep_{k:g}" in extras
        },
        "aif": aif,
        "disparity": sample.disparity,
        "focus_disparity": sample.focus_disparity,
        "strength": sample.strength,
    }
    if task == "deblur":
        return Case(task, sample.key, image=photograph, target=aif, **known)
    if task == "bokeh":
        return Case(task, sample.key, image=aif, target=photograph, **known)
    if "blurry" not in extras:
        raise ValueError(
            f"sample {sample.key} has no picture `blurry`, which refocusing starts from; has "
            f"{', '.join(extras) or 'none'}"
        )
    source = sample.provenance.get("source_k")
    strength = None if source is None else BlurStrength(float(source), *sample.size)
    return Case(
        task,
        sample.key,
        image=extras["blurry"],
        target=photograph,
        **known,
        source_focus_disparity=sample.provenance.get("source_focus_disparity"),
        source_strength=strength,
    )


class Readable(Protocol):
    """A file, or a cell of a table."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class PictureCases:
    """Pairs of pictures, such as DPDD's test set.

    Attributes:
        task: what is asked.
        name: of the data set, in tables.
        pairs: key, input, target.
    """

    task: Task
    name: str
    pairs: Sequence[tuple[str, Readable, Readable]]

    def __post_init__(self) -> None:
        by_key = {key: (image, target) for key, image, target in self.pairs}
        if len(by_key) != len(self.pairs):
            raise ValueError(f"{self.name} has two cases of one key; keys must be unique")
        object.__setattr__(self, "_by_key", by_key)

    _by_key: Any = None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key, image, target in self.pairs:
            for data in (key.encode(), image.read(), target.read()):
                digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    @property
    def keys(self) -> list[str]:
        return [key for key, _, _ in self.pairs]

    def __getitem__(self, key: str) -> Case:
        image, target = self._by_key[key]
        return Case(
            self.task, key, image=image_of(image.read(), key), target=image_of(target.read(), key)
        )


class Listing(Protocol):
    """What lists pairs, such as the sources of ``genrefocus.preparation``."""

    def items(self) -> Sequence[Any]:
        """Each has a ``name``, ``pictures`` (``photo`` and ``sharp``), and perhaps a ``split``."""

    def problems(self) -> Sequence[tuple[str, object]]:
        """Names and reasons of what is no pair."""


def listed_pairs(
    task: Task, name: str, source: Listing, split: str | None = None, limit: int | None = None
) -> PictureCases:
    """The pairs of a source as cases: its ``photo`` is the input, its ``sharp`` the target.

    A key is the photograph's name without suffix and without the folders that all share; other
    folders are joined by ``__``.

    Args:
        task: what is asked.
        name: of the data set, in tables.
        source: of pairs.
        split: of the pairs that are taken; None takes all.
        limit: first so many, or None.

    Raises:
        ValueError: a picture without its counterpart, or no pair of this split.
    """
    if problems := list(source.problems()):
        shown = "; ".join(f"{file}: {reason}" for file, reason in problems[:3])
        raise ValueError(f"{name} has {len(problems)} files that are no pair, such as {shown}")
    items = [item for item in source.items() if split is None or item.split == split]
    if not items:
        raise ValueError(f"{name} has no pair of the split {split}")
    names = {item.name: PurePosixPath(item.name).with_suffix("").parts for item in items}
    shared = _shared_folders(list(names.values()))
    pairs = [
        ("__".join(names[item.name][shared:]), item.pictures["photo"], item.pictures["sharp"])
        for item in items[:limit]
    ]
    return PictureCases(task, name, pairs)


def _shared_folders(names: Sequence[Sequence[str]]) -> int:
    """How many leading folders all names have in common."""
    columns = zip(*(name[:-1] for name in names), strict=False)
    count = 0
    for column in columns:
        if len(set(column)) > 1:
            break
        count += 1
    return count


@dataclass(frozen=True)
class CroppedCases:
    """Centre crops of another set's cases.

    Attributes:
        whole: the set.
        crop: height and width in px.
    """

    whole: CaseSet
    crop: tuple[int, int]

    @property
    def task(self) -> Task:
        return self.whole.task

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint

    @property
    def keys(self) -> list[str]:
        return self.whole.keys

    def __getitem__(self, key: str) -> Case:
        return cropped(self.whole[key], self.crop)


def cropped(case: Case, crop: tuple[int, int]) -> Case:
    """The centre of a case, (height, width) in px.

    Raises:
        ValueError: the case is smaller.
    """
    (height, width), size = crop, case.size
    if height > size[0] or width > size[1]:
        raise ValueError(f"case {case.key} of {size} px (HxW) is smaller than the crop {crop}")
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    changes: dict[str, Any] = {}
    rows, columns = slice(top, top + height), slice(left, left + width)
    for name in ("image", "target", "aif", "disparity", "draft"):
        if (image := getattr(case, name)) is not None:
            changes[name] = image[..., rows, columns].contiguous()
    changes["series"] = {k: image[..., rows, columns] for k, image in case.series.items()}
    for name in ("strength", "target_strength", "source_strength"):
        if (strength := getattr(case, name)) is not None:
            changes[name] = strength.cropped(height, width)
    return replace(case, **changes)
