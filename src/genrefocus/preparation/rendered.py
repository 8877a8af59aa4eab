"""Routes that render: synthetic pairs, and point lights for the shape of the aperture."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
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
)
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.subjects import Subject, subject_of_image, subject_of_scene
from genrefocus.render.apertures import IMAGE, Aperture, draw_aperture, image_shapes
from genrefocus.render.tone import to_bytes
from genrefocus.world.lights import add_lights, darkened, draw_night, sharpened


@dataclass(frozen=True)
class Shapes:
    """A distribution of aperture shapes.

    Attributes:
        weights: kind -> weight, see ``render.apertures.draw_aperture``.
        images: folder of images of openings, for the kind ``image``; or None.
    """

    weights: Mapping[str, float]
    images: Path | None = None

    def __post_init__(self) -> None:
        self.draw(np.random.default_rng(0))  # wrong weights are found here

    @property
    def name(self) -> str:
        shapes = ", ".join(f"{kind} {weight:g}" for kind, weight in sorted(self.weights.items()))
        names = ", ".join(one.name for one in self._openings)
        return f"{shapes} ({names})" if IMAGE in self.weights else shapes

    @functools.cached_property
    def _openings(self) -> tuple[Aperture, ...]:
        return () if self.images is None else image_shapes(Path(self.images))

    def draw(self, rng: Generator) -> Aperture:
        return draw_aperture(rng, weights=self.weights, images=self._openings)


@dataclass(frozen=True)
class Lights:
    """Point lights on real images.

    Attributes:
        count: least and greatest number.
        energies: least and greatest energy of a light for a long edge of 64 px; they grow with the
            area of the image, as the discs do that lights are blurred to.
        night: whether the image is brought to a night exposure first.
        sharpen: amount of unsharp masking before that; 0 for none.
    """

    count: tuple[int, int]
    energies: tuple[float, float]
    night: bool
    sharpen: float

    def add(self, subject: Subject, rng: Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """The image with lights, linear light, and what was added, as plain data."""
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
    """Synthetic: sharp images with rendered depth of field.

    Attributes:
        depth: estimator for images; procedural scenes know their depth.
        blur: distribution of focus and K.
        shapes: distribution of aperture shapes.
        long_edge: images that are larger are scaled to it, px.
        least_edge: images whose short edge is below are turned away, px.
        most_radius: largest blur radius in parts of the long edge; draws beyond it are brought to
            it, which the measure ``limited`` counts.
        blurry: whether samples also hold ``blurry``, the scene photographed with another focus
            and K: what deblurring starts from, and what direct refocusing is trained on.
        sweep: whether samples also hold ``sweep_1``, ``sweep_5`` and ``sweep_10``, the scene at K
            in proportion to its own, which stands for 15: what LVCorr is measured at.
        edge_width: px over which estimators smear depth edges, which rendering makes steps; 0 for
            exact depth. Procedural scenes have exact depth in any case.
        batch_size: images at a time, for the estimator.
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
        if "sharp" not in candidate.item.images:
            return None
        edges = {"long_edge": self.long_edge, "least_edge": self.least_edge}
        return load_image(candidate, "sharp", **edges)

    def estimate(
        self, candidates: Sequence[Candidate], loaded: Sequence[Tensor | None]
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Image and depth."""
        named = zip(candidates, loaded, strict=True)
        photos = [Photo(one.item.name, x, x) for one, x in named if x is not None]
        if photos and self.depth is None:
            raise ValueError("images need an estimator of depth; set depth=...")
        maps = iter(self.depth.depth(photos) if photos and self.depth else ())
        return [None if image is None else (image, next(maps)) for image in loaded]

    def sample(self, candidate: Candidate, estimated: tuple[Tensor, Tensor] | None) -> Prepared:
        if estimated is None:
            subject = subject_of_scene(candidate, self.most_radius)
        else:
            assert self.depth is not None
            image, depth = estimated
            disparity = depth_to_disparity(depth).float()
            subject = subject_of_image(image, disparity, self.depth.name, self.edge_width)
        rng = candidate.generator()
        light, added = self.lit(subject, rng)
        focus, strength, limited = self.draw(subject, rng)
        aperture = self.shapes.draw(rng)
        rendered, renderer = subject.render(light, focus, strength.require_positive(), aperture)

        def taken(focus: float, strength: BlurStrength) -> Tensor:
            return to_bytes(subject.render(light, focus, strength, aperture)[0])

        extras = {}
        if self.blurry:
            extras["blurry"] = taken(*self.draw(subject, rng)[:2])
        if self.sweep:
            for k in PROTOCOL_K[:-1]:
                weaker = replace(strength, k=strength.k * k / PROTOCOL_K[-1])
                extras[f"sweep_{k:g}"] = taken(focus, weaker)
        sample = Sample(
            key=candidate.key,
            route=self.name,
            split=candidate.split,
            aif=to_bytes(light),
            bokeh=to_bytes(rendered),
            disparity=subject.disparity,
            strength=strength,
            focus_disparity=focus,
            aperture=aperture.facts,
            extras=extras,
            provenance={
                **subject.provenance,
                **added,
                "renderer": renderer,
                "aperture": aperture.name,
            },
        )
        measures = blur_measures(subject.disparity, focus, strength)
        return Prepared(sample, {**measures, "limited": float(limited)})

    def lit(self, subject: Subject, rng: Generator) -> tuple[Tensor, dict[str, Any]]:
        """The image that is rendered, and provenance of what was added to it."""
        return subject.image, {}

    def draw(self, subject: Subject, rng: Generator) -> tuple[float, BlurStrength, bool]:
        """Focus, K, and whether K was brought to ``most_radius`` at the farthest surface."""
        focus, drawn = self.blur.draw(subject.disparity, rng)
        most = self.most_radius * max(drawn.height, drawn.width)
        greatest = max(abs(end - focus) for end in subject.range)
        if drawn.k * greatest <= most or math.isclose(drawn.k * greatest, most):
            return focus, drawn, False
        return focus, replace(drawn, k=most / greatest), True


@dataclass(frozen=True)
class PointLights(Synthetic):
    """Night scenes with point lights, blurred with a shape, which the sample describes.

    Attributes:
        lights: added to images; procedural night scenes have their own.
    """

    lights: Lights | None = None

    name = "point_lights"

    def lit(self, subject: Subject, rng: Generator) -> tuple[Tensor, dict[str, Any]]:
        if subject.scene is not None:
            return subject.image, {}
        if self.lights is None:
            raise ValueError("point lights on images need route.lights")
        image, lights = self.lights.add(subject, rng)
        return image, {"lights": lights}
