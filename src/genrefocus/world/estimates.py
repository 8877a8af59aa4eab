"""What estimators of depth and focus would say about a simulated photograph, errors included.

The errors are those that such models are known for: metric scale off by some percent, slow
distortion over the frame, edges that are soft and beside the true ones, half precision; and
in-focus masks with ragged borders or, at times, on another object than the one in focus.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from genrefocus.optics import blur_radius
from genrefocus.render.scene import scene_disparity
from genrefocus.world.camera import Shot
from genrefocus.world.fields import spectral_noise

SCALE_DEVIATION = 0.05
"""Standard deviation of the logarithm of the error in metric scale, one draw per photograph."""

DISTORTION = 0.02
"""Standard deviation of the logarithm of the slow error within a photograph."""

WRONG_OBJECT = 0.1
"""Probability that the mask marks another surface than the one in focus."""


@dataclass(frozen=True)
class Estimates:
    """Estimates for one upright photograph.

    Attributes:
        depth: (H, W) float16, metres, > 0.
        mask: (H, W) bool, True where the photograph is said to be in focus; may be empty.
        on_focus: whether the mask is about the surface in focus (for tests and cards only).
    """

    depth: NDArray[np.float16]
    mask: NDArray[np.bool_]
    on_focus: bool


def estimate(shot: Shot, rng: Generator) -> Estimates:
    """Draw the estimates for a photograph; a pure function of the shot and the generator state."""
    disparity = scene_disparity(shot.scene)
    mask, on_focus = _focus_mask(shot, disparity, rng)
    return Estimates(estimate_depth(disparity.numpy(), rng), mask, on_focus)


def estimate_depth(disparity: NDArray[np.float32], rng: Generator) -> NDArray[np.float16]:
    """Depth (H, W) in metres, > 0, as an estimator would give it for true disparity in 1/m."""
    height, width = disparity.shape
    drift = [0.5 * spectral_noise(rng, height, width, 1.5) for _ in range(2)]
    y, x = np.mgrid[0:height, 0:width]
    beside = map_coordinates(disparity, [y + drift[0], x + drift[1]], order=1, mode="nearest")
    soft = gaussian_filter(beside, rng.uniform(0.4, 0.9), mode="nearest")
    scale = rng.normal(0.0, SCALE_DEVIATION)
    slow = DISTORTION * spectral_noise(rng, height, width, 2.5)
    return (np.exp(scale + slow) / soft).astype(np.float16)


def _focus_mask(shot: Shot, disparity: Tensor, rng: Generator) -> tuple[NDArray[np.bool_], bool]:
    """The region that looks sharp: blur below 1 px, and well below what is blurred most."""
    radius = blur_radius(disparity, shot.exposure.focus_disparity, shot.strength)
    region = radius <= min(1.0, 0.25 * float(radius.max()))
    index = shot.scene.visible
    others = [
        number
        for number, area in enumerate(torch.bincount(index.flatten()).tolist())
        if area >= 0.02 * index.numel() and not bool(region[index == number].any())
    ]
    wrong = bool(others) and rng.random() < WRONG_OBJECT
    if wrong:
        region = index == others[int(rng.integers(len(others)))]
    height, width = index.shape
    border = gaussian_filter(region.numpy().astype(np.float32), 1.0, mode="nearest")
    ragged = 0.25 * spectral_noise(rng, height, width, 1.0) * 4.0 * border * (1.0 - border)
    return border + ragged > 0.5, not wrong
