"""Night scenes with point lights, blurred with a shape: what the shape of an aperture shows on.

Rendered, in all splits: sharp scenes with estimated disparity are brought to a night exposure, get
lights far above white, and are blurred by the layered renderer with the drawn shape.
"""

import itertools
from dataclasses import asdict

import numpy as np
import torch
from numpy.random import Generator
from scipy.ndimage import minimum_filter
from torch import Tensor

from genrefocus import __version__
from genrefocus.data.sample import Sample
from genrefocus.embedded.pairs import EDGE_WIDTH_PX, GENERATOR_VERSION, EmbeddedSet
from genrefocus.metrics.aperture_shape import SHAPES
from genrefocus.optics import BlurStrength
from genrefocus.preparation.draws import disparity_at
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import draw_aperture
from genrefocus.render.layered import render_layered
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.estimates import estimate_depth
from genrefocus.world.lights import PointLight, add_lights, darkened, draw_night
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import TRAIN_FAMILIES

# At 64 px; they scale with the size, energies with the area.
_DISC_PX = (6.5, 9.0)
_GREATEST_BLUR_PX = 10.0
_ENERGIES = (15.0, 150.0)

_FOCUS_QUANTILE = 0.98  # next to nothing lies before the plane of focus, where a lens turns shapes
# Of the way from the plane of focus: to the farthest surface, where the first light hangs; and to
# that light, where the nearest surface around it lies.
_FAR, _CLEAR = 0.65, 0.9
_NEXT = 1_000_000  # from the number of a scene without room for the first light to another one's


def make_night(one: EmbeddedSet, number: int) -> Sample:
    """The ``number``-th sample of a set of kind ``point_lights``.

    One light hangs so that its disc lies whole in the frame and touches no other. Shapes are those
    of ``draw_aperture`` in train, and the six of ``metrics.aperture_shape`` in val and test.
    """
    for other in itertools.count(number, _NEXT):
        try:
            return _drawn(one, other, f"lights-{one.split}-{number:06d}")
        except Rejected:
            continue
    raise AssertionError


def _drawn(one: EmbeddedSet, number: int, key: str) -> Sample:
    seed, rng = one.scene_seed(number), one.generator(number)
    scene = procedural_scene(seed, one.size, one.size, families=one.families, lights=0.0, margin=0)
    depth = estimate_depth(scene_disparity(scene).numpy(), rng)
    disparity = 1.0 / torch.from_numpy(depth.astype(np.float32))
    focus = disparity_at(disparity, _FOCUS_QUANTILE)
    light = darkened(scene_aif(scene), draw_night(rng))
    radius = one.px(float(np.exp(rng.uniform(*np.log(_DISC_PX)))))
    light, first = _first_light(one, light, disparity, focus, radius, rng)
    farthest = float((disparity - focus).abs().max())
    k = min(radius / (focus - first.disparity), one.px(_GREATEST_BLUR_PX) / farthest)
    apart = 2.0 * one.px(_GREATEST_BLUR_PX) + 2.0
    light, others = _others(one, light, disparity, _away_from(first, one.size) > apart, rng)
    if one.split == "train":
        aperture = draw_aperture(rng)
    else:
        kind = list(SHAPES)[int(rng.integers(len(SHAPES)))]
        aperture = SHAPES[kind](float(rng.uniform(0.0, 2.0 * np.pi)))
    strength = BlurStrength(k, one.size, one.size)
    rendered = render_layered(
        light,
        disparity,
        focus_disparity=focus,
        strength=strength,
        aperture=aperture,
        edge_width=EDGE_WIDTH_PX,
    )
    return Sample(
        key=key,
        route="point_lights",
        split=one.split,
        aif=to_bytes(light),
        bokeh=to_bytes(rendered),
        disparity=disparity,
        strength=strength,
        focus_disparity=focus,
        aperture=aperture.facts,
        provenance={
            "source": "procedural scene, simulated",
            "scene_seed": seed,
            "textures": "train" if one.families == TRAIN_FAMILIES else "held out",
            "renderer": "layered",
            "lights": [asdict(each) for each in (first, *others)],
            "depth": "simulated estimate",
            "generator_version": GENERATOR_VERSION,
            "code_version": __version__,
        },
    )


def _first_light(
    one: EmbeddedSet,
    image: Tensor,
    disparity: Tensor,
    focus: float,
    radius: float,
    rng: Generator,
) -> tuple[Tensor, PointLight]:
    """One light on a far surface, whose disc lies in the frame with nothing nearer before it.

    Raises:
        Rejected: the scene has no room for it.
    """
    inset, behind = int(radius) + 3, focus - disparity
    where = torch.zeros_like(disparity, dtype=torch.bool)
    where[inset:-inset, inset:-inset] = True
    nearest = torch.from_numpy(minimum_filter(behind.numpy(), 2 * int(radius) + 1))
    where &= (behind > _FAR * behind.max()) & (nearest > _CLEAR * behind)
    lit, (light,) = _add(one, image, disparity, where, rng)
    return lit, light


def _others(
    one: EmbeddedSet, image: Tensor, disparity: Tensor, where: Tensor, rng: Generator
) -> tuple[Tensor, list[PointLight]]:
    """Up to five more lights, as many as have room."""
    lights: list[PointLight] = []
    for _ in range(int(rng.integers(0, 6))):
        try:
            image, found = _add(one, image, disparity, where, rng)
        except Rejected:
            break
        lights += found
    return image, lights


def _add(
    one: EmbeddedSet, image: Tensor, disparity: Tensor, where: Tensor, rng: Generator
) -> tuple[Tensor, tuple[PointLight, ...]]:
    low, high = (energy * one.px(1.0) ** 2 for energy in _ENERGIES)
    return add_lights(image, disparity, rng, count=1, energies=(low, high), groups=1, where=where)


def _away_from(light: PointLight, size: int) -> Tensor:
    """Distance (size, size) of every pixel from a light, px."""
    axis = torch.arange(size)
    return torch.hypot(axis[None, :] - light.x, axis[:, None] - light.y)
