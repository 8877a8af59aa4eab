"""Routes that render: synthetic pairs, and point lights for the shape of the aperture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from genrefocus.data.sample import Sample
from genrefocus.estimators import DepthEstimator, Photo
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, depth_to_disparity
from genrefocus.preparation.draws import BlurDraw
from genrefocus.preparation.route import (
    Prepared,
    Route,
    blur_measures,
    load_image,
    require_edge,
)
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.subjects import Subject, subject_of_image, subject_of_scene
from genrefocus.render.apertures import PICTURE, Aperture, draw_aperture, picture_shapes
from genrefocus.render.tone import to_bytes
from genrefocus.world.lights import add_lights, darkened, draw_night, sharpened


@dataclass(frozen=True)
class Shapes:
    """A distribution of aperture shapes.

    Attributes:
        weights: kind -> weight, see ``render.apertures.draw_aperture``.
        pictures: folder of pictures of openings, for the kind ``picture``; or None.
    """

    weights: Mapping[str, float]
    pictures: Path | None = None
    _openings: tuple[Aperture, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.pictures is not None:
            object.__setattr__(self, "_openings", picture_shapes(Path(self.pictures)))
        self.draw(np.random.default_rng(0))  # wrong weights are found here

    @property
    def name(self) -> str:
        shapes = ", ".join(f"{kind} {weight:g}" for kind, weight in sorted(self.weights.items()))
        names = ", ".join(one.name for one in self._openings)
        return f"{shapes} ({names})" if PICTURE in self.weights else shapes

    def draw(self, rng: Generator) -> Aperture:
        return draw_aperture(rng, weights=self.weights, pictures=self._openings)


@dataclass(frozen=True)
class Lights:
    """Point lights on real pictures.

    Attributes:
        count: least and greatest number.
        energies: least and greatest energy of a light for a long edge of 64 px; they grow with the
            area of the picture, as the discs do that lights are blurred to.
        night: whether the picture is brought to a night exposure first.
        sharpen: amount of unsharp masking before that; 0 for none.
    """

    count: tuple[int, int]
    energies: tuple[float, float]
    night: bool
    sharpen: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", tuple(self.count))
        object.__setattr__(self, "energies", tuple(self.energies))

    def add(self, subject: Subject, rng: Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """The picture with lights, linear light, and what was added, as plain data."""
        image = subject.image
        if self.sharpen:
            image = sharpened(image, amount=self.sharpen)
        if self.night:
            image = darkened(image, draw_night(rng))
        area = (max(image.shape) / 64) ** 2
        lit, lights = add_lights(
            image,
            subject.disparity,
            rng,
            count=int(rng.integers(self.count[0], self.count[1] + 1)),
            energies=(self.energies[0] * area, self.energies[1] * area),
        )
        return lit, [asdict(light) for light in lights]


@dataclass(frozen=True)
class Synthetic(Route):
    """Synthetic: sharp pictures with rendered depth of field.

    Attributes:
        depth: estimator for pictures; procedural scenes know their depth.
        blur: distribution of focus and K.
        shapes: distribution of aperture shapes.
        long_edge: pictures that are larger are scaled to it, px.
        least_edge: pictures whose short edge is below are turned away, px.
        most_radius: largest blur radius in parts of the long edge; draws beyond it are brought to
            it, which the measure ``limited`` counts.
        blurry: whether samples also hold ``blurry``, the scene photographed with another focus
            and K: what deblurring starts from, and what direct refocusing is trained on.
        sweep: whether samples also hold ``sweep_1``, ``sweep_5`` and ``sweep_10``, the scene at K
            in proportion to its own, which stands for 15: what LVCorr is measured at.
        edge_width: px over which estimators smear depth edges, which rendering makes steps; 0 for
            exact depth. Procedural scenes have exact depth in any case.
        batch_size: pictures at a time, for the estimator.
    """

    depth: DepthEstimator | None
    blur: BlurDraw
    shapes: Shapes
    long_edge: int
    least_edge: int
    most_radius: float
    edge_width: int = 2
    batch_size: int = 4
    blurry: bool = False
    sweep: bool = False

    name = "synthetic"

    def load(self, candidate: Candidate) -> Tensor | None:
        """The sharp image, None for a procedural scene."""
        if "sharp" not in candidate.item.pictures:
            return None
        image = load_image(candidate, "sharp", long_edge=self.long_edge)
        require_edge(image, self.least_edge)
        return image

    def estimate(
        self, candidates: Sequence[Candidate], loaded: Sequence[Tensor | None]
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Image and depth."""
        named = zip(candidates, loaded, strict=True)
        photos = [Photo(one.item.name, x, x) for one, x in named if x is not None]
        if photos and self.depth is None:
            raise ValueError("pictures need an estimator of depth; set depth=...")
        maps = iter(self.depth.depth(photos) if photos and self.depth else ())
        return [None if image is None else (image, next(maps)) for image in loaded]

    def sample(self, candidate: Candidate, estimated: tuple[Tensor, Tensor] | None) -> Prepared:
        if estimated is None:
            subject = subject_of_scene(candidate.item.facts, candidate.seed, self.most_radius)
        else:
            assert self.depth is not None
            image, depth = estimated
            disparity = depth_to_disparity(depth).float()
            subject = subject_of_image(image, disparity, self.depth.name, self.edge_width)
        rng = candidate.generator()
        light, added = self.lit(subject, rng)
        focus, drawn = self.blur.draw(subject.disparity, rng)
        strength = _limited(subject, focus, drawn, self.most_radius)
        aperture = self.shapes.draw(rng)
        rendered, renderer = subject.render(light, focus, strength.require_positive(), aperture)
        extras = self.extras(_Shot(subject, light, aperture, focus, strength), rng)
        sample = Sample(
            key=candidate.key,
            route=self.name,
            split=candidate.split,
            aif=to_bytes(light),
            bokeh=to_bytes(rendered),
            disparity=subject.disparity,
            strength=strength,
            focus_disparity=focus,
            extras=extras,
            provenance={
                **subject.provenance,
                **added,
                "renderer": renderer,
                "aperture": aperture.name,
            },
        )
        measures = blur_measures(subject.disparity, focus, strength)
        return Prepared(sample, {**measures, "limited": float(strength.k < drawn.k)})

    def lit(self, subject: Subject, rng: Generator) -> tuple[Tensor, dict[str, Any]]:
        """The picture that is rendered, and provenance of what was added to it."""
        return subject.image, {}

    def extras(self, shot: "_Shot", rng: Generator) -> dict[str, Tensor]:
        """Further pictures of a sample, uint8."""
        extras = {}
        if self.blurry:
            extras["blurry"] = shot.taken(*self.draw(shot.subject, rng))
        if self.sweep:
            for k in PROTOCOL_K[:-1]:
                weaker = replace(shot.strength, k=shot.strength.k * k / PROTOCOL_K[-1])
                extras[f"sweep_{k:g}"] = shot.taken(shot.focus, weaker)
        return extras

    def draw(self, subject: Subject, rng: Generator) -> tuple[float, BlurStrength]:
        """Focus and K, at most such that the largest radius is within ``most_radius``."""
        focus, drawn = self.blur.draw(subject.disparity, rng)
        return focus, _limited(subject, focus, drawn, self.most_radius)


@dataclass(frozen=True)
class PointLights(Synthetic):
    """Night scenes with point lights, blurred with a shape, which the sample shows as ``shape``.

    Attributes:
        lights: added to pictures; procedural night scenes have their own.
    """

    lights: Lights | None = None

    name = "point_lights"

    def lit(self, subject: Subject, rng: Generator) -> tuple[Tensor, dict[str, Any]]:
        if subject.is_scene:
            return subject.image, {}
        if self.lights is None:
            raise ValueError("point lights on pictures need route.lights")
        image, lights = self.lights.add(subject, rng)
        return image, {"lights": lights}

    def extras(self, shot: "_Shot", rng: Generator) -> dict[str, Tensor]:
        size = shot.strength.height, shot.strength.width
        return {**super().extras(shot, rng), "shape": drawn_shape(shot.aperture, *size)}


def drawn_shape(aperture: Aperture, height: int, width: int) -> Tensor:
    """The opening in white on black, (3, height, width) uint8, as large as fits, centred."""
    radius = min(height, width) / 2 - 1
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width)[None, :] - (width - 1) / 2
    covered = aperture.coverage(x, y, np.array(radius))
    levels = torch.from_numpy(np.rint(covered * 255).astype(np.uint8))
    return levels.expand(3, -1, -1).contiguous()


@dataclass(frozen=True)
class _Shot:
    """A photograph of a subject, as it is lit, by one lens."""

    subject: Subject
    image: Tensor
    aperture: Aperture
    focus: float
    strength: BlurStrength

    def taken(self, focus: float, strength: BlurStrength) -> Tensor:
        """The same with another focus and K, (3, H, W) uint8."""
        return to_bytes(self.subject.render(self.image, focus, strength, self.aperture)[0])


def _limited(
    subject: Subject, focus: float, strength: BlurStrength, most_radius: float
) -> BlurStrength:
    """K, at most such that the largest radius of any surface is within the limit."""
    most = most_radius * max(strength.height, strength.width)
    low, high = subject.range
    greatest = max(abs(low - focus), abs(high - focus))
    if strength.k * greatest <= most or math.isclose(strength.k * greatest, most):
        return strength
    return BlurStrength(most / greatest, strength.height, strength.width)
