"""From a sample to what a training step sees: label, crop, flip, defocus map, batch."""

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from numpy.random import MT19937, RandomState, SeedSequence
from torch import Tensor
from torch.utils.data import Dataset

from genrefocus.data.buckets import Size, crops_of
from genrefocus.data.order import GlobalOrder, spread
from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.geometry import View, crop, flip
from genrefocus.optics import blur_radius, defocus_of_radius, lacking_radius
from genrefocus.render.apertures import described

Example = dict[str, Any]
KSource = Literal["exif", "reblurred", "noisy", "constant"]
LABELLED_ROUTE = "in_the_wild"
_CENTRE = (0.5, 0.5)


@dataclass(frozen=True)
class KLabel:
    """Where K of the photographs (route ``in_the_wild``) comes from.

    Attributes:
        source: ``exif`` is the label as stored; ``reblurred`` lowers its blur radii to what the
            all-in-focus images lack; ``noisy`` multiplies it by a log-normal factor that is fixed
            per key; ``constant`` replaces it by one value.
        deviation: of the logarithm of the factor, for ``noisy``.
        constant: K in px at 1/m for a photograph as stored, for ``constant``.
        seed: of the factors.
        restored_radius: px, see :func:`genrefocus.optics.lacking_radius` and
            ``preparation.reblurring``; for ``reblurred``.

    Raises:
        ValueError: an unknown source, or one that lacks its number.
    """

    source: KSource = "exif"
    deviation: float = 0.0
    constant: float | None = None
    seed: int = 0
    restored_radius: float | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(KSource):
            raise ValueError(f"K label {self.source!r}; choose from {', '.join(get_args(KSource))}")
        if self.source == "noisy" and not self.deviation > 0:
            raise ValueError(f"K label noisy needs a deviation above 0, got {self.deviation}")
        if self.source == "constant" and not (self.constant and self.constant > 0):
            raise ValueError(f"K label constant needs a K above 0, got {self.constant}")

    def apply(self, sample: Sample) -> Sample:
        """The sample with its K label replaced where the source says so."""
        strength = sample.strength
        if sample.route != LABELLED_ROUTE or strength is None:
            return sample
        if self.source in ("exif", "reblurred"):
            return sample
        if self.source == "constant":
            assert self.constant is not None
            return replace(sample, strength=replace(strength, k=self.constant))
        entropy = SeedSequence((self.seed, zlib.crc32(sample.key.encode())))
        factor = RandomState(MT19937(entropy)).lognormal(sigma=self.deviation)
        return replace(sample, strength=replace(strength, k=strength.k * float(factor)))

    def radius(self, sample: Sample, radius: Tensor) -> Tensor:
        """What the network is to be told of the sample's blur radii in px, any shape."""
        if self.source != "reblurred" or sample.route != LABELLED_ROUTE:
            return radius
        assert self.restored_radius is not None
        return lacking_radius(radius, self.restored_radius)


_AS_STORED = KLabel()


class TrainDraws(Dataset[Example]):
    """Draw n of the global order as an example; any n >= 0, so it has no length.

    Args:
        sets: shards per route.
        kept: per route, the indices into its set that may be drawn.
        order: over ``kept``.
        crops: per route, height and width in px of the crop of each of ``kept``.
        label: source of K.
        mirror: flip left to right at random.
        fixed: crop about the centre, not at random.
        caption_rate: share of the draws that keep the sample's own prompt; these are not mirrored,
            since words and sides would be wrong.
        shape: show the shape of the aperture, see :func:`to_example`.
    """

    def __init__(
        self,
        sets: Mapping[str, ShardDataset],
        kept: Mapping[str, Sequence[int]],
        order: GlobalOrder,
        *,
        crops: Mapping[str, Sequence[Size]],
        label: KLabel,
        mirror: bool,
        fixed: bool = False,
        caption_rate: float = 1.0,
        shape: bool = False,
    ) -> None:
        self.sets, self.kept, self.order = dict(sets), dict(kept), order
        self.crops, self.label, self.mirror, self.fixed = dict(crops), label, mirror, fixed
        self.caption_rate, self.shape = caption_rate, shape

    def __getitem__(self, n: int) -> Example:
        draw = self.order.draw(n)
        sample = self.sets[draw.route][self.kept[draw.route][draw.index]]
        # Of random.Random only random() is promised to stay the same over Python versions.
        rng = random.Random(draw.sample_seed)
        place = _CENTRE if self.fixed else (rng.random(), rng.random())
        mirrored = self.mirror and rng.random() < 0.5
        size = self.crops[draw.route][draw.index]
        if rng.random() >= self.caption_rate:
            sample = replace(sample, prompt=None)
        mirrored &= sample.prompt is None
        return {"draw": n, **to_example(sample, size, place, mirrored, self.label, self.shape)}


class EvalExamples(Dataset[Example]):
    """Examples for evaluation, numbered through one or more sets."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Examples in each set."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        """What each set is called on the screen."""
        raise NotImplementedError


class EvalSamples(EvalExamples):
    """Samples of some sets, one set after the other, cropped about their centre.

    Args:
        sets: shards.
        crop: edge of the square crop in px.
        buckets: crops in its place, see :func:`crops_of`; samples of one come after those of
            another, as sets of their own.
        label: source of K.
        most: samples of a set, spread over it; None takes all.
        shape: show the shape of the aperture, see :func:`to_example`.
    """

    def __init__(
        self,
        sets: Sequence[ShardDataset],
        *,
        crop: int,
        buckets: Sequence[Size] | None = None,
        label: KLabel,
        most: int | None = None,
        shape: bool = False,
    ) -> None:
        self.label, self.shape = label, shape
        self.taken: list[tuple[ShardDataset, Size, list[int]]] = []
        for one in sets:
            crops = crops_of(one, spread(len(one), most), crop, buckets)
            for size in buckets or [(crop, crop)]:
                self.taken.append((one, size, [n for n, own in crops.items() if own == size]))
        self.places = [(one, size, n) for one, size, taken in self.taken for n in taken]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(taken) for *_, taken in self.taken)

    @property
    def names(self) -> tuple[str, ...]:
        several = len({size for _, size, _ in self.taken}) > 1
        return tuple(
            "/".join(one.folder.parts[-3:]) + (f" at {height}x{width} px" if several else "")
            for one, (height, width), _ in self.taken
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, n: int) -> Example:
        one, size, index = self.places[n]
        return {"draw": n, **to_example(one[index], size, _CENTRE, False, self.label, self.shape)}


def to_example(
    sample: Sample,
    size: Size,
    place: tuple[float, float],
    mirrored: bool,
    label: KLabel = _AS_STORED,
    shape: bool = False,
) -> Example:
    """Label, crop, mirror, derive the defocus map, and draw the shape of the aperture.

    Args:
        sample: any.
        size: height and width of the crop in px; K stays as it is.
        place: of the crop, (0, 0) top left to (1, 1) bottom right.
        mirrored: left to right.
        label: source of K.
        shape: of the aperture, as the sample describes it; a disc where it does not.

    Returns:
        key, route, prompt; aif, bokeh and extras (3, *size) in [0, 1]; where it is asked for, shape
        (1, s, s) in [0, 1] with s the shorter edge, see ``Aperture.image``; and where they are
        known: disparity (1, *size) in 1/m, and defocus (1, *size) in [0, 1], k, the size that k is
        stated for being the crop's, focus_disparity, radius (mean blur radius in px).

    Raises:
        ValueError: the sample is smaller than the crop.
    """
    sample = label.apply(sample)
    height, width = sample.size
    if height < size[0] or width < size[1]:
        raise ValueError(
            f"sample {sample.key} is {width}x{height} px (WxH), smaller than the crop of "
            f"{size[1]}x{size[0]}; set data.crop={min(height, width)} or prepare larger samples"
        )
    top = min(int(place[0] * (height - size[0] + 1)), height - size[0])
    left = min(int(place[1] * (width - size[1] + 1)), width - size[1])

    def seen(view: View) -> View:
        part = crop(view, top, left, *size)
        return flip(part) if mirrored else part

    sharp = seen(View(sample.aif, sample.disparity, sample.mask, sample.strength))
    others = {"bokeh": sample.bokeh, **sample.extras}
    example: Example = {
        "key": sample.key,
        "route": sample.route,
        "prompt": sample.prompt,
        "aif": to_float(sharp.image),
        **{name: to_float(seen(View(image)).image) for name, image in others.items()},
    }
    if shape:
        drawn = described(sample.aperture or {"kind": "disk"}).image(min(size))
        example["shape"] = drawn.flip(-1) if mirrored else drawn
    if sharp.disparity is not None:
        example["disparity"] = sharp.disparity[None]
        if sharp.strength is not None and sample.focus_disparity is not None:
            radius = blur_radius(sharp.disparity, sample.focus_disparity, sharp.strength)
            radius = label.radius(sample, radius)
            example["defocus"] = defocus_of_radius(radius)[None]
            example["radius"] = float(radius.mean())
            example["k"] = sharp.strength.k
            example["focus_disparity"] = sample.focus_disparity
    return example


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """Batch of what all examples have: tensors and measures stacked, text and draws as lists."""
    shared = [name for name in examples[0] if all(name in one for one in examples)]
    return {name: _together([one[name] for one in examples]) for name in shared}


def _together(values: list[Any]) -> Tensor | list[Any]:
    if isinstance(values[0], Tensor):
        return torch.stack([value.contiguous() for value in values])
    if isinstance(values[0], float):
        return torch.tensor(values, dtype=torch.float32)
    return values
