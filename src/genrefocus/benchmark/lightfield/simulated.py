"""Light fields of procedural scenes, whose photographs through a lens are known."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from genrefocus.benchmark.lightfield.field import LightField
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import Aperture
from genrefocus.render.lens import render_lens, render_views, strongest
from genrefocus.render.scene import Scene, scene_disparity
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES

# At 64 px; they scale with the size.
_REACH_PX = 6.0
"""Greatest motion of a visible surface in one unit of position."""
_BORDER_PX = 8
_MARGIN_PX = 18

# Scenes are drawn at twice the size, so that a view between pixels is as sharp as one on them.
_FINE = 2


@dataclass(frozen=True)
class SimulatedLightField:
    """A light field with the scene that it shows.

    Attributes:
        scene: drawn at twice the size of the views.
        field: views with ``border`` px on every side more than the images made of them.
        border: px.
        scale: of lengths, 1 for images of 64 px.
    """

    scene: Scene
    field: LightField
    border: int
    scale: float

    @property
    def reach(self) -> float:
        """Px that no visible surface exceeds in one unit of position."""
        return _REACH_PX * self.scale

    @property
    def disparity(self) -> Tensor:
        """Exact disparity (H, W) of the central view in 1/m: the nearest surface in a pixel."""
        return max_pool2d(scene_disparity(self.scene)[None], _FINE)[0]

    def photograph(self, *, focus: float, radius: float, aperture: Aperture, count: int) -> Tensor:
        """The truth of ``refocus``: (3, H, W) linear light through ``count`` positions."""
        height, width = self.scene.height, self.scene.width
        strength = BlurStrength(radius * self.field.baseline * _FINE, height, width)
        light = render_lens(
            self.scene,
            focus_disparity=focus,
            strength=strength,
            positions=aperture.positions(count),
        )
        return avg_pool2d(light, _FINE)


def simulate(seed: int, *, size: int, grid: int) -> SimulatedLightField:
    """The light field of a procedural scene by day, of texture families held out of training.

    The nearest and the farthest visible surface move by 6 px (at 64 px) per unit of position,
    against each other; by less where hidden parts of the scene would leave what was drawn of it.

    Args:
        seed: of the scene.
        size: edge of the images to be made, px.
        grid: rows and columns of views, odd.
    """
    scale = size / 64
    border = math.ceil(_BORDER_PX * scale)
    edge = _FINE * (size + 2 * border)
    margin = math.ceil(_MARGIN_PX * scale * _FINE)
    scene = procedural_scene(seed, edge, edge, families=HELDOUT_FAMILIES, lights=0.0, margin=margin)
    low, high = (float(x) for x in scene_disparity(scene).aminmax())
    rest = (low + high) / 2
    # The corners of the grid lie sqrt(2) from its middle.
    widest = min(
        strongest(scene, rest).k / math.sqrt(2),
        _FINE * scale * _REACH_PX / (high - rest),
    )
    steps = torch.arange(grid) / (grid // 2) - 1.0
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    views = render_views(
        scene,
        focus_disparity=rest,
        strength=BlurStrength(widest * math.sqrt(2), edge, edge),
        positions=torch.stack([x, y], -1).reshape(-1, 2) / math.sqrt(2),
    )
    views = avg_pool2d(views, _FINE).reshape(grid, grid, 3, edge // _FINE, edge // _FINE)
    return SimulatedLightField(scene, LightField(views, widest / _FINE, rest, "1/m"), border, scale)
