"""How samples are made of candidates: what a route is, and what several routes measure alike."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrefocus.data.images import image_of
from genrefocus.data.sample import Sample, to_uint8
from genrefocus.estimators import (
    DepthEstimator,
    DetailRetention,
    InFocus,
    MaskEstimator,
    Photo,
    mask_agreement,
)
from genrefocus.geometry import View, resize, size_within
from genrefocus.optics import BlurStrength, blur_radius, depth_to_disparity, focus_disparity
from genrefocus.preparation.pairs import PairMeasures, measure_pair
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.rejection import Reason, Rejected


@dataclass(frozen=True)
class Prepared:
    """A sample, and what was measured on the way, as numbers by name.

    ``more`` holds further samples of the same candidate.
    """

    sample: Sample
    measures: Mapping[str, float]
    more: tuple[Sample, ...] = ()


class Route(ABC):
    """How samples are made: a dataclass whose fields are its settings.

    Each candidate of a batch is loaded, estimators see all that were loaded, and each becomes a
    sample. ``load`` and ``sample`` may raise ``Rejected``, which goes to the ledger, and
    ``OSError`` for a file that cannot be read, which ends the preparation.
    """

    roles: ClassVar[frozenset[str]] = frozenset()
    """Roles of images that it needs."""

    by_exif: ClassVar[bool] = False
    """Whether photographs are turned away whose EXIF does not tell K."""

    batch_size: int
    """Candidates at a time, and what an interruption costs."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Route of the samples, one of ``data.sample.ROUTES``."""

    @property
    def in_process(self) -> bool:
        """Whether it holds a network, which worker processes would each copy."""
        return any(getattr(value, "holds_network", False) for value in self._fields().values())

    def parameters(self) -> dict[str, Any]:
        """Plain JSON data that determines the samples: the fields, objects by their names."""
        return {name: _plain(value) for name, value in self._fields().items()}

    def load(self, candidate: Candidate) -> Any:
        """What is read of a candidate."""
        return candidate

    def estimate(self, candidates: Sequence[Candidate], loaded: Sequence[Any]) -> Sequence[Any]:
        """What estimators add, in order; here nothing."""
        return loaded

    @abstractmethod
    def sample(self, candidate: Candidate, estimated: Any) -> Prepared:
        """The sample of a candidate, from what ``estimate`` returned for it."""

    def make(self, batch: Sequence[Candidate]) -> list[Prepared | Rejected]:
        """A sample, or why there is none, for each candidate, in order."""
        loaded = [_attempt(self.load, one) for one in batch]
        usable = [n for n, one in enumerate(loaded) if not isinstance(one, Rejected)]
        if usable:
            estimated = self.estimate([batch[n] for n in usable], [loaded[n] for n in usable])
            for number, one in zip(usable, estimated, strict=True):
                loaded[number] = _attempt(self.sample, batch[number], one)
        return loaded

    def summary(self, out: Path, advance: Callable[[int, int], None]) -> dict[str, Any]:
        """Plain JSON data about all samples together, for the summary of a preparation.

        Args:
            out: folder of the sets.
            advance: is told what is done and how much there is.
        """
        return {}

    def _fields(self) -> dict[str, Any]:
        own = dataclasses.fields(self)  # type: ignore[arg-type]
        return {one.name: getattr(self, one.name) for one in own}


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Rejected as rejected:
        return rejected


def _plain(value: Any) -> Any:
    if hasattr(value, "name"):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def load_image(candidate: Candidate, role: str, *, long_edge: int, least_edge: int) -> Tensor:
    """An image (3, H, W) in [0, 1], upright, of a working size; see :func:`scaled_down`.

    Raises:
        Rejected: it cannot be decoded, or is too small.
        OSError: it cannot be read.
    """
    image = image_of(candidate.item.images[role].read(), candidate.item.name)
    return scaled_down(image, long_edge, least_edge)


def scaled_down(image: Tensor, long_edge: int, least_edge: int) -> Tensor:
    """An image (3, H, W), at most ``long_edge`` px long.

    Raises:
        Rejected: its short edge is then below ``least_edge`` px, so that no crop would fit in.
    """
    height, width = size_within(image.shape[-2], image.shape[-1], long_edge)
    image = resize(View(image), height, width).image
    if min(height, width) < least_edge:
        raise Rejected(
            Reason.IMAGE_TOO_SMALL,
            min(height, width),
            f"the short edge must have {least_edge} px or more; this is {width}x{height} px (WxH)",
        )
    return image


def load_pair(
    candidate: Candidate, *, long_edge: int, least_edge: int
) -> tuple[Photo, PairMeasures]:
    """A photograph with its sharp counterpart, and how well they belong together.

    Raises:
        Rejected: as :func:`load_image`, or the two cannot be measured.
    """
    edges = {"long_edge": long_edge, "least_edge": least_edge}
    sharp, image = (load_image(candidate, role, **edges) for role in ("sharp", "photo"))
    return Photo(candidate.item.name, image, sharp), measure_pair(sharp, image)


def add_estimates(
    known: Sequence[Any],
    photos: Sequence[Photo],
    depth: DepthEstimator,
    mask: MaskEstimator,
) -> list[tuple[Any, Photo, Tensor, InFocus]]:
    """What is known of each photograph, the photograph, its depth (H, W) in metres, its mask."""
    return list(zip(known, photos, depth.depth(photos), mask.mask(photos), strict=True))


@dataclass(frozen=True)
class EstimatedPhoto:
    """A photograph with its disparity (H, W) in 1/m, focus disparity, and in-focus mask."""

    photo: Photo
    disparity: Tensor
    focus: float
    mask: InFocus

    @classmethod
    def of(cls, photo: Photo, depth: Tensor, mask: InFocus) -> "EstimatedPhoto":
        """From depth in metres; Rejected where depth or mask are of no use."""
        disparity = depth_to_disparity(depth).float()
        return cls(photo, disparity, focus_disparity(disparity, mask.region), mask)

    def sample(
        self,
        route: str,
        candidate: Candidate,
        strength: BlurStrength,
        estimator: MaskEstimator,
        provenance: Mapping[str, Any],
    ) -> tuple[Sample, dict[str, float]]:
        """The sample with a K, and its measures of blur and mask.

        A mask of detail retention has no measure of agreement: it agrees with what it was made
        from.
        """
        agreement = mask_agreement(self.mask.region, self.photo)
        sample = Sample(
            key=candidate.key,
            route=route,
            split=candidate.split,
            aif=to_uint8(self.photo.aif),
            bokeh=to_uint8(self.photo.image),
            disparity=self.disparity,
            strength=strength,
            focus_disparity=self.focus,
            mask=self.mask.region,
            provenance={"mask": self.mask.origin, "mask_agreement": agreement, **provenance},
        )
        measures = blur_measures(self.disparity, self.focus, strength)
        if not isinstance(estimator, DetailRetention):
            measures["mask_agreement"] = agreement
        return sample, measures


def blur_measures(
    disparity: Tensor, focus_disparity: float, strength: BlurStrength
) -> dict[str, float]:
    """K, focus and blur radii in px of a labelled image.

    ``focus_quantile`` is the share of the image that is farther than the plane of focus, which
    carries over to scenes of other depth.
    """
    radius = blur_radius(disparity, focus_disparity, strength)
    farther = (disparity < focus_disparity).float().mean()
    level = (disparity == focus_disparity).float().mean()
    sampled = radius.flatten()[:: max(1, radius.numel() >> 20)]
    return {
        "k": strength.k,
        "focus_disparity": focus_disparity,
        "focus_quantile": float(farther + level / 2),
        "largest_radius": float(radius.max()),
        "p99_radius": float(torch.quantile(sampled, 0.99)),
        "long_edge": float(max(strength.height, strength.width)),
    }
