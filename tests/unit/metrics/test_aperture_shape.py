"""The shape score on discs that scipy draws, and on lights that must not count."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import shift

from genrefocus.metrics.aperture_shape import SHAPES, Light, shape_scores
from genrefocus.metrics.registry import METRICS
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import Aperture
from genrefocus.render.tone import linear_to_srgb

SIDE, FOCUS, FAR = 48, 2.0, 0.5
K = BlurStrength(5.0, SIDE, SIDE)  # 7.5 px at FAR
MIDDLE = Light(23.3, 22.8, FAR)
NAMES = list(SHAPES)


def blurred(aperture: Aperture, light: Light = MIDDLE, radius: float = -7.5) -> torch.Tensor:
    """A light on a dim plane: the renderer's kernel, moved by scipy's spline."""
    image = np.zeros((SIDE, SIDE))
    kernel = aperture.kernel(radius)
    half, middle = len(kernel) // 2, SIDE // 2
    image[middle - half : middle + half + 1, middle - half : middle + half + 1] = 60.0 * kernel
    moved = shift(image, (light.y - middle, light.x - middle), order=1)
    return linear_to_srgb(torch.from_numpy(0.02 + moved).float().expand(3, -1, -1)).clamp(0, 1)


def facts(aperture: Aperture, *lights: Light, near: tuple[slice, slice] | None = None) -> dict:
    disparity = torch.full((SIDE, SIDE), FAR)
    if near is not None:
        disparity[near] = FOCUS
    given = {"focus_disparity": FOCUS, "strength": K}
    return {"disparity": disparity, "aperture": aperture, "lights": lights or [MIDDLE], **given}


@pytest.mark.parametrize("drawn", NAMES)
def test_each_of_six_shapes_is_taken_for_itself_alone(drawn: str) -> None:
    image = blurred(SHAPES[drawn](0.7))
    for asked in NAMES:
        ((score, told),) = shape_scores(image, **facts(SHAPES[asked](0.7)))
        assert told == (asked == drawn)
        assert score > 0.95 if asked == drawn else score < 0.95


def test_the_side_of_the_plane_of_focus_turns_a_shape() -> None:
    heart = SHAPES["heart"](0.2)
    behind = facts(heart)
    before = {**behind, "focus_disparity": 0.5, "lights": [Light(23.3, 22.8, 2.0)]}
    for image, right, wrong in (
        (blurred(heart), behind, before),
        (blurred(heart, radius=7.5), before, behind),
    ):
        score = METRICS["shape_correlation"](image, **right)
        assert score > 0.95 > 0.9 > METRICS["shape_correlation"](image, **wrong)


def test_an_even_image_shows_no_shape() -> None:
    grey = torch.full((3, SIDE, SIDE), 0.5)
    assert shape_scores(grey, **facts(SHAPES["star"](0.0))) == [(0.0, False)]


@pytest.mark.parametrize(
    "given",
    [
        {"lights": [Light(7.9, 23.0, FAR)]},  # its disc leaves the frame
        {"lights": [MIDDLE, Light(38.0, 23.0, FAR)]},  # touches another
        {"lights": [Light(23.0, 23.0, 0.9)]},  # 5.5 px
        {"near": (slice(0, 48), slice(28, 48))},  # an object before it
    ],
    ids=["border", "touching", "small", "hidden"],
)
def test_lights_that_cannot_tell_do_not_count(given: dict) -> None:
    heart = SHAPES["heart"](0.0)
    found = facts(heart, *given.get("lights", []), near=given.get("near"))
    assert shape_scores(blurred(heart), **found) == []
    assert math.isnan(METRICS["shape_recognised"](blurred(heart), **found))
