"""Sets of cases: shards of this project, pairs of images in any layout, and focal stacks."""

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from genrefocus.benchmark.case import BenchmarkTask, Case
from genrefocus.data.focal_stack import FocalStack, all_in_focus
from genrefocus.data.images import image_of
from genrefocus.data.order import spread
from genrefocus.data.sample import Sample, to_float, to_uint8
from genrefocus.data.shards import ShardDataset
from genrefocus.geometry import View, resize, size_within
from genrefocus.metrics.aperture_shape import Light
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength
from genrefocus.preparation.item import Source
from genrefocus.render.apertures import described
from genrefocus.render.lettering import Lettering


class CaseSet(Protocol):
    """A data set of one task."""

    @property
    def task(self) -> BenchmarkTask: ...

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


@dataclass
class ShardCases:
    """A finished set of shards as cases, see :func:`case_of`.

    Attributes:
        task: of the cases.
        name: of the data set, in tables.
        folder: of the set.
        limit: first so many cases, or None.
        spread: take as many as ``limit`` says from all over the set instead.
        own_prompts: networks are asked with a sample's own prompt, where it has one; figures are
            then not compared with those of other prompts.
    """

    task: BenchmarkTask
    name: str
    folder: Path
    limit: int | None = None
    spread: bool = False
    own_prompts: bool = False

    def __post_init__(self) -> None:
        self._dataset = dataset = ShardDataset(self.folder)
        first = range(len(dataset))[: self.limit]
        numbers = spread(len(dataset), self.limit) if self.spread else first
        self._numbers = {dataset.keys[number]: number for number in numbers}

    @property
    def fingerprint(self) -> str:
        own = ", own prompts" if self.prompts else ""
        if len(self._numbers) == len(self._dataset):
            return self._dataset.fingerprint + own
        part = "spread" if self.spread else "first"
        return f"{self._dataset.fingerprint}, {part} {len(self._numbers)}{own}"

    @property
    def keys(self) -> list[str]:
        return list(self._numbers)

    @property
    def prompts(self) -> set[str]:
        """Those that samples bring, and networks are asked with."""
        return {prompt for prompt in self._captions.values() if prompt}

    @property
    def shows_words(self) -> bool:
        """Whether the first sample says which word it shows."""
        return any(self[key].lettering is not None for key in self.keys[:1])

    def has(self, extra: str) -> bool:
        """Whether the first sample has a further image of this name."""
        return any(extra in self._dataset[n].extras for n in list(self._numbers.values())[:1])

    def __getitem__(self, key: str) -> Case:
        sample = self._dataset[self._numbers[key]]
        case = case_of(self.task, sample)
        if not self.own_prompts or sample.prompt is None:
            return case
        following = [*self._numbers, *self._numbers][self.keys.index(key) :]
        others = (self._captions[one] for one in following)
        other = next((text for text in others if text not in (None, sample.prompt)), None)
        return replace(case, prompt=sample.prompt, other_prompt=other)

    @cached_property
    def _captions(self) -> dict[str, str | None]:
        """Key -> prompt, None where networks are not asked with one."""
        if not self.own_prompts:
            return dict.fromkeys(self._numbers)
        return {key: self._dataset.metadata(n)["prompt"] for key, n in self._numbers.items()}


def case_of(task: BenchmarkTask, sample: Sample) -> Case:
    """A sample as a case.

    For ``deblur`` the photograph is the input and the AIF the target; for ``bokeh`` it is the other
    way round; for ``refocus`` the further image ``blurry`` is the input, whose own focus and K the
    provenance may name (``source_focus_disparity``, ``source_k``).

    Raises:
        ValueError: a refocus case without the image ``blurry``.
    """
    aif, photograph = to_float(sample.aif), to_float(sample.bokeh)
    extras = {name: to_float(image) for name, image in sample.extras.items()}
    word = sample.provenance.get("lettering")
    lights = sample.provenance.get("lights")
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
        "lettering": Lettering(**word) if word else None,
        "held_out_lens": bool(sample.provenance.get("held_out_lens", False)),
        "aperture": None if sample.aperture is None else described(sample.aperture),
        "lights": lights and [Light(one["x"], one["y"], one["disparity"]) for one in lights],
    }
    if task == "deblur":
        return Case(task, sample.key, image=photograph, target=aif, **known)
    if task == "bokeh":
        return Case(task, sample.key, image=aif, target=photograph, **known)
    if "blurry" not in extras:
        raise ValueError(
            f"sample {sample.key} has no image `blurry`, which refocusing starts from; has "
            f"{', '.join(extras) or 'none'}"
        )
    source = sample.provenance.get("source_k")
    return Case(
        task,
        sample.key,
        image=extras["blurry"],
        target=photograph,
        **known,
        source_focus_disparity=sample.provenance.get("source_focus_disparity"),
        source_strength=None if source is None else BlurStrength(float(source), *sample.size),
    )


@dataclass
class PairCases:
    """Pairs of images, such as DPDD's test set: ``photo`` is the input, ``sharp`` the target.

    A key is the photograph's name without suffix and without the folders that all share; other
    folders are joined by ``__``.

    Attributes:
        task: of the cases.
        name: of the data set, in tables.
        source: of pairs, see ``genrefocus.preparation``.
        split: of the pairs that are taken; None takes all.
        limit: first so many, or None.

    Raises:
        ValueError: an image without its counterpart, two pairs of one key, or no pair of this
            split.
    """

    task: BenchmarkTask
    name: str
    source: Source
    split: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if problems := list(self.source.problems()):
            shown = "; ".join(f"{file}: {reason}" for file, reason in problems[:3])
            raise ValueError(
                f"{self.name} has {len(problems)} files that are no pair, such as {shown}"
            )
        items = [one for one in self.source.items() if self.split in (None, one.split)]
        if not items:
            raise ValueError(f"{self.name} has no pair of the split {self.split}")
        names = [PurePosixPath(one.name).with_suffix("").parts for one in items]
        shared = len(os.path.commonprefix([name[:-1] for name in names]))
        keys = ["__".join(name[shared:]) for name in names]
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self.name} has two pairs of one name; rename one of them")
        self._pairs = dict(list(zip(keys, items, strict=True))[: self.limit])

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key, item in self._pairs.items():
            for data in (key.encode(), *(item.images[of].read() for of in ("photo", "sharp"))):
                digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    @property
    def keys(self) -> list[str]:
        return list(self._pairs)

    def __getitem__(self, key: str) -> Case:
        files = self._pairs[key].images
        image, target = (image_of(files[of].read(), key) for of in ("photo", "sharp"))
        return Case(self.task, key, image=image, target=target)


class StackSource(Protocol):
    """What lists focal stacks, see ``genrefocus.preparation.sources.FocalStacks``."""

    def stacks(self) -> Mapping[str, tuple[FocalStack, str | None]]:
        """Folder -> its stack and the split, or None where the set has no splits."""


@dataclass
class FocalStackCases:
    """Two photographs of each focal stack, in either direction: near in focus, and far.

    A tenth of the pixels is sharp in frames before that of the near photograph, a tenth behind that
    of the far one; they are two frames. Disparity is the index map, counted in frames from the
    farthest, and a plane of focus is the photograph's frame. K, px per frame, is not known. A key
    is the stack's folder without the parts that all share, and ``-near`` or ``-far``, the target.

    Attributes:
        task: ``refocus`` goes from one photograph to the other, ``bokeh`` from the all-in-focus
            image to a photograph, ``deblur`` back.
        name: of the data set, in tables.
        source: of the stacks.
        validation: scenes of the split for training, not those for testing; without splits every
            fifth scene, not the others.
        long_edge: to which all is scaled down, px; None keeps the size.
        limit: first so many cases, or None.

    Raises:
        ValueError: there are no such scenes.
    """

    task: BenchmarkTask
    name: str
    source: StackSource
    validation: bool = False
    long_edge: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        found = self.source.stacks()
        parts = [PurePosixPath(folder).parts or ("stack",) for folder in found]
        while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [part[:-1] for part in parts]
        shared = len(os.path.commonprefix([part[:-1] for part in parts]))
        self._stacks: dict[str, FocalStack] = {}
        for number, (part, (stack, split)) in enumerate(zip(parts, found.values(), strict=True)):
            held_out = number % 5 == 0 if split is None else split == "train"
            if held_out == self.validation:
                name = "__".join(part[shared:])
                self._stacks |= {f"{name}-near": stack, f"{name}-far": stack}
        self._stacks = dict(list(self._stacks.items())[: self.limit])
        if not self._stacks:
            use = "choose settings on" if self.validation else "measure"
            raise ValueError(
                f"{self.name} has no scenes to {use}, of {len(found)}: source.root is a folder "
                "with one folder of frames for each scene, and without source.test the first of "
                "every five is left for choosing settings (docs/sources.md)"
            )

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key, stack in self._stacks.items():
            for data in (key.encode(), *(file.read_bytes() for file in stack.files)):
                digest.update(hashlib.sha256(data).digest())
        return f"{digest.hexdigest()}, long edge {self.long_edge or 'as it is'}"

    @property
    def keys(self) -> list[str]:
        return list(self._stacks)

    def __getitem__(self, key: str) -> Case:
        scene, near = _two_of(self._stacks[key], self.long_edge), key.endswith("-near")
        photograph, other = (scene.images[at] for at in ((0, 1) if near else (1, 0)))
        image, target = {
            "deblur": (photograph, scene.aif),
            "bokeh": (scene.aif, photograph),
            "refocus": (other, photograph),
        }[self.task]
        planes = scene.planes if near else scene.planes[::-1]
        return Case(
            self.task,
            key,
            image=to_float(image),
            target=to_float(target),
            aif=to_float(scene.aif),
            disparity=scene.disparity,
            focus_disparity=planes[0],
            source_focus_disparity=planes[1] if self.task == "refocus" else None,
        )


@dataclass(frozen=True)
class _TwoPhotographs:
    """Of a stack: near and far, (3, H, W) uint8, with disparity and planes of focus in frames."""

    images: tuple[Tensor, Tensor]
    planes: tuple[float, float]
    aif: Tensor
    disparity: Tensor


@functools.lru_cache(maxsize=64)  # methods come one after the other, and all read all cases
def _two_of(stack: FocalStack, long_edge: int | None) -> _TwoPhotographs:
    frames, index = stack.read()
    last = len(frames) - 1
    near, far = (round(float(np.quantile(index.numpy(), part))) for part in (0.1, 0.9))
    if near == far:
        near, far = max(near - 1, 0), min(far + 1, last)
    views = [View(to_float(frames[at])) for at in (near, far)]
    views.append(View(all_in_focus(frames, index), last - index))
    if long_edge is not None:
        size = size_within(index.shape[0], index.shape[1], long_edge)
        views = [resize(view, *size) for view in views]
    images = [to_uint8(view.image) for view in views]
    disparity = views[-1].disparity
    assert disparity is not None
    planes = float(last - near), float(last - far)
    return _TwoPhotographs((images[0], images[1]), planes, images[2], disparity)


def cropped(case: Case, crop: tuple[int, int]) -> Case:
    """The centre of a case, (height, width) in px.

    Raises:
        ValueError: the case is smaller.
    """
    (height, width), size = crop, case.size
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"case {case.key} is {size[1]}x{size[0]} px, smaller than the crop of {width}x{height} "
            "px (WxH)"
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2

    def inner(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[..., top : top + height, left : left + width].contiguous()
        if isinstance(value, Lettering):
            return replace(value, top=value.top - top, left=value.left - left)
        return value.cropped(height, width) if isinstance(value, BlurStrength) else value

    changes = {one.name: inner(getattr(case, one.name)) for one in fields(case)}
    changes["series"] = {k: inner(x) for k, x in case.series.items()}
    moved = [one._replace(x=one.x - left, y=one.y - top) for one in case.lights or ()]
    return replace(case, **changes | {"lights": moved or None})
