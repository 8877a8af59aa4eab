"""Sets of cases: shards of this project, and pairs of pictures in any layout."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genrefocus.benchmark.case import Case, Task
from genrefocus.data.images import image_of
from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset
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
    """

    task: Task
    name: str
    folder: Path
    limit: int | None = None

    def __post_init__(self) -> None:
        dataset = ShardDataset(self.folder)
        numbers = {key: number for number, key in enumerate(dataset.keys)}
        kept = dict(list(numbers.items())[: self.limit])
        object.__setattr__(self, "_dataset", dataset)
        object.__setattr__(self, "_numbers", kept)

    _dataset: Any = None
    _numbers: Any = None

    @property
    def fingerprint(self) -> str:
        return str(self._dataset.fingerprint)

    @property
    def keys(self) -> list[str]:
        return list(self._numbers)

    def __getitem__(self, key: str) -> Case:
        return case_of(self.task, self._dataset[self._numbers[key]])


def case_of(task: Task, sample: Sample) -> Case:
    """A sample as a case.

    Raises:
        ValueError: a refocus case without the picture ``blurry``.
    """
    aif, photograph = to_float(sample.aif), to_float(sample.bokeh)
    known: dict[str, Any] = {
        "aif": aif,
        "disparity": sample.disparity,
        "focus_disparity": sample.focus_disparity,
        "strength": sample.strength,
    }
    if task == "deblur":
        return Case(task, sample.key, image=photograph, target=aif, **known)
    if task == "bokeh":
        return Case(task, sample.key, image=aif, target=photograph, **known)
    if "blurry" not in sample.extras:
        raise ValueError(
            f"sample {sample.key} has no picture `blurry`, which refocusing starts from; has "
            f"{', '.join(sample.extras) or 'none'}"
        )
    source = sample.provenance.get("source_k")
    strength = None if source is None else BlurStrength(float(source), *sample.size)
    return Case(
        task,
        sample.key,
        image=to_float(sample.extras["blurry"]),
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
