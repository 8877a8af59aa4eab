"""Draws of focus and blur strength for rendered routes."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.preparation.ledger import find_sets

_BINS = 32


class BlurDraw(Protocol):
    """A distribution of focus and K."""

    @property
    def name(self) -> str:
        """For provenance."""

    def draw(self, disparity: Tensor, rng: Generator) -> tuple[float, BlurStrength]:
        """Focus disparity in 1/m and K for a map (H, W) of disparity in 1/m."""


@dataclass(frozen=True)
class LogUniformRadius:
    """The largest blur radius is log-uniform, in parts of the long edge.

    A surface is in focus: one of 32 equal intervals of disparity is drawn in proportion to the
    square root of its area, as photographers focus on objects more often than their area says, and
    its median is the plane of focus.

    Attributes:
        low, high: range of the largest radius over the long edge; 0 < low <= high.
        least_px, most_px: in px, below which the ends of the range do not fall in small images,
            where the same share of the edge is no visible blur; 0 < least_px <= most_px.
        focus_quantile: of disparity, which is in focus in place of a surface that is drawn: with
            one near 1 next to nothing lies before the plane of focus.
    """

    low: float
    high: float
    least_px: float
    most_px: float
    focus_quantile: float | None = None

    def __post_init__(self) -> None:
        for low, high in ((self.low, self.high), (self.least_px, self.most_px)):
            if not 0 < low <= high:
                raise ValueError(f"blur radius from {low} to {high}; give 0 < low <= high")

    @property
    def name(self) -> str:
        quantile = self.focus_quantile
        focus = "" if quantile is None else f", focus at quantile {quantile} of disparity"
        return (
            f"largest radius log-uniform, {self.low} to {self.high} of the long edge, "
            f"at least {self.least_px} to {self.most_px} px{focus}"
        )

    def draw(self, disparity: Tensor, rng: Generator) -> tuple[float, BlurStrength]:
        quantile = self.focus_quantile
        focus = _surface(disparity, rng) if quantile is None else disparity_at(disparity, quantile)
        edge = max(disparity.shape)
        low, high = max(self.low * edge, self.least_px), max(self.high * edge, self.most_px)
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        return focus, with_largest_radius(disparity, focus, radius)


@dataclass(frozen=True)
class LikePhotographs:
    """K and focus as in a prepared set of real photographs.

    K is taken in proportion to the long edge, and the plane of focus at the same share of the scene
    behind it, together from one photograph.

    Attributes:
        folder: of a set of shards, or of several below it.
    """

    folder: Path

    def __post_init__(self) -> None:
        assert self._values  # a folder without labels is found here

    @property
    def name(self) -> str:
        return f"as {len(self._values)} photographs in {Path(self.folder).name}"

    @functools.cached_property
    def _values(self) -> tuple[tuple[float, float], ...]:
        return tuple(_labels(Path(self.folder)))

    def draw(self, disparity: Tensor, rng: Generator) -> tuple[float, BlurStrength]:
        relative, quantile = self._values[int(rng.integers(len(self._values)))]
        focus = disparity_at(disparity, quantile)
        height, width = disparity.shape
        return focus, BlurStrength(relative * max(height, width), height, width)


def disparity_at(disparity: Tensor, quantile: float) -> float:
    """The disparity that this part of a map (H, W) lies below, 0 to 1."""
    values = disparity.flatten().sort().values
    return float(values[min(int(quantile * len(values)), len(values) - 1)])


def with_largest_radius(disparity: Tensor, focus: float, radius: float) -> BlurStrength:
    """K that makes the largest blur radius of a map (H, W) so many px."""
    unit = BlurStrength(1.0, *disparity.shape)
    return BlurStrength(radius / float(blur_radius(disparity, focus, unit).max()), *disparity.shape)


def _surface(disparity: Tensor, rng: Generator) -> float:
    low, high = (float(x) for x in disparity.aminmax())
    index = ((disparity - low) / (high - low) * _BINS).long().clamp_max(_BINS - 1)
    areas = torch.bincount(index.flatten(), minlength=_BINS).numpy() / index.numel()
    weights = np.sqrt(areas)
    chosen = int(rng.choice(_BINS, p=weights / weights.sum()))
    return float(disparity[index == chosen].median())


def _labels(folder: Path) -> Iterator[tuple[float, float]]:
    """K over the long edge and focus quantile of every labelled sample below a folder."""
    found = 0
    for dataset in find_sets(folder).values():
        for number in range(len(dataset)):
            meta = dataset.metadata(number)
            quantile = meta["provenance"].get("measures", {}).get("focus_quantile")
            if meta["k"] is not None and quantile is not None:
                found += 1
                yield meta["k"] / max(meta["height"], meta["width"]), quantile
    if not found:
        raise ValueError(
            f"no sample in {folder} has K and focus_quantile; name a set that "
            "`genrefocus prepare` made of photographs"
        )
