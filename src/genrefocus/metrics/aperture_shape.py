"""Do point lights show the shape of the aperture?

A light far above white that is out of focus draws the aperture. Where one lies alone, the output
around it is compared with the kernel at its blur radius: by correlation, and by asking which of six
shapes is nearest.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genrefocus.metrics.info import CONTROL, MetricInfo, Need
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import Aperture, disk, heart, polygon, ring, star
from genrefocus.render.tone import srgb_to_linear

LEAST_RADIUS = 6.0
"""Blur radius in px from which on a shape can be told."""

SHAPES: Mapping[str, Callable[[float], Aperture]] = {
    "disk": lambda rotation: disk(),
    "ring": lambda rotation: ring(0.5),
    "triangle": lambda rotation: polygon(3, rotation),
    "hexagon": lambda rotation: polygon(6, rotation),
    "star": lambda rotation: star(5, 0.45, rotation),
    "heart": heart,
}
"""The six shapes by a rotation in radians. A guess finds one of six."""

_BESIDE = 1.5  # px around a disc that belong to the comparison
_HIDDEN, _NEARER = 0.1, 0.1  # share of a disc; share of the way to the plane of focus


class Light(NamedTuple):
    """A point light of a scene: place in px, (0, 0) is the centre of the first pixel, and 1/m."""

    x: float
    y: float
    disparity: float


def shape_scores(
    pred: Tensor,
    disparity: Tensor,
    focus_disparity: float,
    strength: BlurStrength,
    aperture: Aperture,
    lights: Sequence[Light],
) -> list[tuple[float, bool]]:
    """For every light that lies alone: correlation with the shape, and whether it is recognised.

    A light counts whose disc has ``LEAST_RADIUS`` or more, lies whole in the frame, touches no
    other, and is hidden to less than a tenth. The correlation is Pearson's, of the mean linear
    light with the anti-aliased shape, in the square around the disc. It is recognised where the
    shape itself has a higher correlation than the five of ``SHAPES`` that are less like it.

    Args:
        pred: (3, H, W) sRGB in [0, 1], the output.
        disparity: (H, W) in 1/m.
        focus_disparity, strength: as requested; K is stated for H x W.
        aperture: that was asked for.
        lights: of the scene.

    Raises:
        ValueError: K is stated for another size.
    """
    if tuple(disparity.shape) != (strength.height, strength.width):
        raise ValueError(f"K is stated for {strength}, disparity is {tuple(disparity.shape)}")
    radii = [strength.k * (one.disparity - focus_disparity) for one in lights]
    light = srgb_to_linear(pred.float().cpu()).mean(0).double().numpy()
    found = []
    for number in _alone(lights, radii, disparity.float().cpu().numpy(), focus_disparity):
        x, y = _around(lights[number], abs(radii[number]))
        seen = light[y[0, 0] : y[-1, 0] + 1, x[0, 0] : x[0, -1] + 1]
        offset = x - lights[number].x, y - lights[number].y
        own, *others = (_drawn(one, *offset, radii[number]) for one in _six(aperture))
        score = _correlation(seen, own)
        found.append((score, all(score > _correlation(seen, one) for one in others)))
    return found


def _six(aperture: Aperture) -> list[Aperture]:
    """A shape, and the five of ``SHAPES``, turned alike, that are less like it."""
    turned = [make(float(aperture.facts.get("rotation", 0.0))) for make in SHAPES.values()]
    axis = np.arange(-10.0, 11.0)
    own, *drawn = (_drawn(one, axis, axis[:, None], 8.0) for one in (aperture, *turned))
    order = sorted(range(len(turned)), key=lambda n: _correlation(own, drawn[n]))
    return [aperture, *(turned[n] for n in order[:-1])]


def _alone(
    lights: Sequence[Light], radii: Sequence[float], disparity: NDArray, focus: float
) -> Iterator[int]:
    height, width = disparity.shape
    for number, (one, radius) in enumerate(zip(lights, radii, strict=True)):
        reach = abs(radius) + 1.0
        inside = reach <= one.x <= width - 1 - reach and reach <= one.y <= height - 1 - reach
        touched = any(
            math.hypot(one.x - other.x, one.y - other.y) < reach + abs(own)
            for n, (other, own) in enumerate(zip(lights, radii, strict=True))
            if n != number
        )
        if abs(radius) < LEAST_RADIUS or not inside or touched:
            continue
        x, y = _around(one, abs(radius))
        covered = np.hypot(x - one.x, y - one.y) <= abs(radius)
        nearer = disparity[y, x] - one.disparity > _NEARER * abs(focus - one.disparity)
        if nearer[covered].mean() <= _HIDDEN:
            yield number


def _around(one: Light, radius: float) -> tuple[NDArray, NDArray]:
    """Columns (1, n) and rows (n, 1) in px of the square around a disc that lies in the frame."""
    x, y = (
        np.arange(math.ceil(c - radius - _BESIDE), math.floor(c + radius + _BESIDE) + 1)
        for c in (one.x, one.y)
    )
    return x[None, :], y[:, None]


def _drawn(aperture: Aperture, x: NDArray, y: NDArray, radius: float) -> NDArray:
    """Behind the plane of focus, at a radius below 0, the shape is turned."""
    side = math.copysign(1.0, radius)
    return aperture.coverage(side * x, side * y, np.array(abs(radius)))


def _correlation(one: NDArray, other: NDArray) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-9 else 0.0


def _mean_correlation(pred: Tensor, **facts: Any) -> float:
    return _mean([score for score, _ in shape_scores(pred, **facts)])


def _share_recognised(pred: Tensor, **facts: Any) -> float:
    return _mean([float(told) for _, told in shape_scores(pred, **facts)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


_NEEDS: frozenset[Need] = CONTROL | {"aperture", "lights"}
METRICS = (
    MetricInfo("shape_correlation", _mean_correlation, "higher", _NEEDS),
    MetricInfo("shape_recognised", _share_recognised, "higher", _NEEDS),
)
