"""Photographs of a light field, and the samples of both directions between two of them."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from torch import Tensor

from genrefocus.benchmark.lightfield.depth import estimate_disparity
from genrefocus.benchmark.lightfield.field import LightField
from genrefocus.benchmark.lightfield.refocusing import refocus
from genrefocus.benchmark.lightfield.simulated import SimulatedLightField
from genrefocus.data.sample import Sample
from genrefocus.optics import BlurStrength
from genrefocus.preparation.route import Prepared
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import Aperture
from genrefocus.render.tone import to_bytes

BLUR_PX = (1.2, 6.0)
"""Greatest blur radius in an image of the simulated sets, px at 64 px; the draw is log-uniform."""

_APART = 0.25  # share of the range of disparity between the two planes of focus
_NEIGHBOURS = 2
_SEARCHED_BEYOND = 1.25


@dataclass(frozen=True)
class LightFieldPhotograph:
    """An image (3, H, W) in linear light, its focus and the radius of its aperture."""

    light: Tensor
    focus: float
    radius: float


def draw_photographs(
    field: LightField,
    disparity: Tensor,
    rng: Generator,
    *,
    blur_px: tuple[float, float],
    aperture: Aperture,
) -> tuple[LightFieldPhotograph, LightFieldPhotograph]:
    """Two photographs, each with a surface of its own in focus and its own aperture radius.

    The planes of focus lie at least a quarter of the range of disparity apart. The greatest blur
    radius in an image is log-uniform in ``blur_px``, up to what the aperture of the views allows.

    Raises:
        Rejected: ``gate_largest_radius`` where the views do not allow the least blur radius.
    """
    flat = disparity.flatten()
    low, high = (float(flat.quantile(q)) for q in (0.02, 0.98))
    first = _focus_at(disparity, rng, torch.ones_like(disparity, dtype=torch.bool))
    second = _focus_at(disparity, rng, (disparity - first).abs() >= _APART * (high - low))
    images = []
    for focus in (first, second):
        unit = field.baseline * float((disparity - focus).abs().max())
        if unit < blur_px[0]:
            raise Rejected(
                Reason.GATE_LARGEST_RADIUS,
                round(unit, 2),
                f"the views allow no blur radius of {blur_px[0]} px; use a smaller one",
            )
        ends = np.log([blur_px[0], min(blur_px[1], unit)])
        radius = min(1.0, float(np.exp(rng.uniform(*ends))) / unit)
        light = refocus(field, focus=focus, radius=radius, aperture=aperture, disparity=disparity)
        images.append(LightFieldPhotograph(light, focus, radius))
    return images[0], images[1]


def make_samples(
    name: str,
    field: LightField,
    disparity: Tensor,
    photographs: tuple[LightFieldPhotograph, LightFieldPhotograph],
    *,
    border: int,
    aperture: Aperture,
    provenance: Mapping[str, Any],
    shape: Mapping[str, Any] | None = None,
    sharp: Callable[[Tensor], Tensor] = to_bytes,
    developed: Callable[[Tensor], Tensor] = to_bytes,
) -> Prepared:
    """The pairs of both directions, without ``border`` px all round.

    ``sharp`` and ``developed`` make an 8-bit image of the light of the all-in-focus image and of a
    photograph; ``shape`` is what samples state of the aperture.
    """
    height, width = (edge - 2 * border for edge in field.size)

    def inner(image: Tensor) -> Tensor:
        return image[..., border : border + height, border : border + width].contiguous()

    facts = {
        **provenance,
        "renderer": "views of a light field through a synthetic aperture",
        "aperture": aperture.name,
        "depth": "plane sweep over the views",
        "disparity_unit": "1/m" if field.unit == "1/m" else "px between neighbouring views",
        "views": list(field.views.shape[:2]),
        "baseline": field.baseline,
        "rest_disparity": field.rest_disparity,
    }
    aif, bytes_of = inner(sharp(field.aif)), [inner(developed(x.light)) for x in photographs]
    k = [x.radius * field.baseline for x in photographs]

    def pair(target: int, source: int) -> Sample:
        return Sample(
            key=f"{name}-{target}",
            route="synthetic",
            split="test",
            aif=aif,
            bokeh=bytes_of[target],
            disparity=inner(disparity),
            strength=BlurStrength(k[target], height, width),
            focus_disparity=photographs[target].focus,
            aperture=shape,
            extras={"blurry": bytes_of[source]},
            provenance={
                **facts,
                "source_focus_disparity": photographs[source].focus,
                "source_k": k[source],
            },
        )

    return Prepared(pair(1, 0), {}, more=(pair(0, 1),))


def _focus_at(disparity: Tensor, rng: Generator, allowed: Tensor) -> float:
    """The median disparity about a pixel drawn among those allowed."""
    rows, columns = torch.nonzero(allowed, as_tuple=True)
    chosen = int(rng.integers(len(rows)))
    row, column, n = int(rows[chosen]), int(columns[chosen]), _NEIGHBOURS
    near = (slice(max(row - n, 0), row + n + 1), slice(max(column - n, 0), column + n + 1))
    # Of the same surface only: a median across an edge could lie on neither side of it.
    return float(disparity[near][allowed[near]].median())


def scene_seed(seed: int, number: int) -> int:
    """Of the ``number``-th scene of the simulated sets."""
    state = SeedSequence((seed, zlib.crc32(b"light fields"), number)).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1


def drawn_photographs(
    made: SimulatedLightField, seed: int, number: int, aperture: Aperture
) -> tuple[Tensor, tuple[LightFieldPhotograph, LightFieldPhotograph]]:
    """Disparity, and the two photographs, of the ``number``-th scene of the simulated sets."""
    field = made.field
    reach, rest = _SEARCHED_BEYOND * made.reach / field.baseline, field.rest_disparity
    # Nothing is farther than infinity; the search goes beyond, so as not to end at its bound.
    disparity = estimate_disparity(field, low=rest - reach, high=rest + reach).clamp_min(0.0)
    rng = np.random.default_rng((seed, zlib.crc32(b"light fields"), number, 1))
    blur = (BLUR_PX[0] * made.scale, BLUR_PX[1] * made.scale)
    return disparity, draw_photographs(field, disparity, rng, blur_px=blur, aperture=aperture)
