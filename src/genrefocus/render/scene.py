"""A layered scene: flat, alpha-matted surfaces at exact disparities, and its views in focus.

The layers reach beyond the frame by a margin, so that a view from the edge of the aperture sees
what lies there instead of an invented border. `lens` photographs a scene.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

FINENESS = 4
"""Samples of `Layer.fine` for each px, along an axis."""


@dataclass(frozen=True)
class Plane:
    """Disparity of a flat surface, 1/m: slope_x * x + slope_y * y + offset.

    x, y are pixel indices of the frame, (0, 0) the centre of its first pixel. A plane in space is
    affine in disparity over the image of a pinhole camera.
    """

    slope_x: float
    slope_y: float
    offset: float

    def over(self, height: int, width: int) -> Tensor:
        """Disparity (height, width) at the frame's pixels."""
        y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
        return (self.slope_x * x + self.slope_y * y + self.offset).to(torch.float32)


@dataclass(frozen=True)
class Layer:
    """One flat surface: `rgba` (4, H + 2 margin, W + 2 margin) float32, straight alpha.

    Colour is linear light, >= 0; above 1 it is a light source. Alpha is coverage in [0, 1].
    """

    rgba: Tensor
    plane: Plane

    @functools.cached_property
    def light(self) -> Tensor:
        """The same with premultiplied colour."""
        return torch.cat([self.rgba[:3] * self.rgba[3], self.rgba[3:]])

    @functools.cached_property
    def extent(self) -> tuple[slice, slice]:
        """Rows and columns that hold all of it, with what interpolation needs around it."""
        slices = []
        for dim in (1, 0):
            covered = torch.nonzero(self.rgba[3].amax(dim) > 0.0).flatten().tolist() or [0]
            most = self.rgba.shape[2 - dim]
            slices.append(slice(max(covered[0] - 3, 0), min(covered[-1] + 4, most)))
        return slices[0], slices[1]

    @functools.cached_property
    def fine(self) -> Tensor:
        """`light` in its extent, (4, 4 rows, 4 columns); every fourth sample is one of `light`."""
        light = self.light[:, *self.extent]
        # Around sources far above white, the negative lobes of a cubic are rings of darkness.
        cubic = float(light.max()) <= 1.0
        down, along = (_taps(size, cubic).to(light) for size in light.shape[1:])
        return down @ light @ along.T


@dataclass(frozen=True)
class Scene:
    """Layers from back to front over an opaque first one; `margin` px are drawn on every side."""

    layers: tuple[Layer, ...]
    height: int
    width: int
    margin: int

    @functools.cached_property
    def planes(self) -> Tensor:
        """Disparity (layers, H, W) in 1/m of every layer, seen or not."""
        planes = [layer.plane.over(self.height, self.width) for layer in self.layers]
        return torch.stack(planes).to(self.layers[0].rgba.device)

    @functools.cached_property
    def visible(self) -> Tensor:
        """Index (H, W) int64 of the front-most layer that covers at least half of each pixel."""
        size, device = (self.height, self.width), self.layers[0].rgba.device
        index = torch.zeros(size, dtype=torch.int64, device=device)
        for number, layer in enumerate(self.layers):
            index[_frame(layer.rgba[3], self) >= 0.5] = number
        return index


def scene_aif(scene: Scene) -> Tensor:
    """The all-in-focus pinhole image, (3, H, W) linear light, >= 0, not clipped at 1."""
    image = scene.layers[0].rgba.new_zeros(3, scene.height, scene.width)
    for layer in scene.layers:
        rgba = _frame(layer.rgba, scene)
        image = image + (rgba[:3] - image) * rgba[3]
    return image


def scene_disparity(scene: Scene) -> Tensor:
    """Exact disparity (H, W) in 1/m of the front-most visible surface, never an average of two."""
    return scene.planes.gather(0, scene.visible[None])[0]


def _frame(canvas: Tensor, scene: Scene) -> Tensor:
    """The part of a canvas (..., H + 2 margin, W + 2 margin) inside the frame."""
    m = scene.margin
    return canvas[..., m : m + scene.height, m : m + scene.width]


@functools.lru_cache(maxsize=128)
def _taps(size: int, cubic: bool) -> Tensor:
    """Weights (4 size, size) of interpolation along an axis; its ends go on beyond it.

    Cubic convolution (Keys 1981, a = -1/2) leaves second moments alone, so that it adds no blur of
    its own to a radius that is to be exact.
    """
    t = torch.arange(FINENESS) / FINENESS
    taps = [0.0 * t, 1.0 - t, t, 0.0 * t]
    if cubic:
        taps = [
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1.0,
            -1.5 * t**3 + 2.0 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        ]
    weights = torch.zeros(size, FINENESS, size)
    places = torch.arange(size)
    for number, tap in enumerate(taps):
        near = (places + number - 1).clamp(0, size - 1)
        weights[places, :, near] += tap
    return weights.reshape(-1, size)
