"""A layered scene: flat, alpha-matted surfaces at exact disparities, and its views in focus.

The layers reach beyond the frame by a margin, so that a view from the edge of the aperture sees
what lies there instead of an invented border. `lens` photographs a scene.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Scene:
    """Layers from back to front over an opaque first one; `margin` px are drawn on every side."""

    layers: tuple[Layer, ...]
    height: int
    width: int
    margin: int


def scene_aif(scene: Scene) -> Tensor:
    """The all-in-focus pinhole image, (3, H, W) linear light, >= 0, not clipped at 1."""
    image = scene.layers[0].rgba.new_zeros(3, scene.height, scene.width)
    for layer in scene.layers:
        rgba = _frame(layer.rgba, scene)
        image = image + (rgba[:3] - image) * rgba[3]
    return image


def visible_layer(scene: Scene) -> Tensor:
    """Index (H, W) int64 of the front-most layer that covers at least half of each pixel."""
    size, device = (scene.height, scene.width), scene.layers[0].rgba.device
    index = torch.zeros(size, dtype=torch.int64, device=device)
    for number, layer in enumerate(scene.layers):
        index[_frame(layer.rgba, scene)[3] >= 0.5] = number
    return index


def scene_disparity(scene: Scene) -> Tensor:
    """Exact disparity (H, W) in 1/m of the front-most visible surface, never an average of two."""
    planes = torch.stack([x.plane.over(scene.height, scene.width) for x in scene.layers])
    visible = visible_layer(scene)[None]
    return planes.to(visible.device).gather(0, visible)[0]


def _frame(canvas: Tensor, scene: Scene) -> Tensor:
    """The part of a canvas (..., H + 2 margin, W + 2 margin) inside the frame."""
    m = scene.margin
    return canvas[..., m : m + scene.height, m : m + scene.width]
