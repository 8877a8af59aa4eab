"""Procedural layered scenes: textured, alpha-matted surfaces at exact metric disparities.

A scene is a pure function of its seed. Layers are drawn beyond the frame by a margin, so that a
view from the edge of the aperture sees what lies there instead of an invented border.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from genrefocus.optics import BlurStrength, visible_blur
from genrefocus.render.lens import strongest
from genrefocus.render.scene import Layer, Plane, Scene, scene_aif, scene_disparity
from genrefocus.world.palettes import Array
from genrefocus.world.shapes import draw_matte
from genrefocus.world.textures import TRAIN_FAMILIES, draw_texture

NEAREST_DISPARITY = 2.5
_FARTHEST_DISPARITY = 0.05


def scene_margin(height: int, width: int) -> int:
    """Pixels that procedural scenes of this size are drawn beyond the frame, on every side."""
    return max(8, -(-max(height, width) // 8))


def draw_surface(scene: Scene, rng: Generator) -> Tensor:
    """Draw a visible layer by its area: (H, W) bool, True where it is seen.

    Layers under 2 % of the frame are not chosen; small areas are favoured over their share, as
    photographers focus on objects more often than on backgrounds.
    """
    index = scene.visible
    areas = torch.bincount(index.flatten(), minlength=len(scene.layers)).numpy() / index.numel()
    weights = np.where(areas >= 0.02, np.sqrt(areas), 0.0)
    return index == int(rng.choice(len(areas), p=weights / weights.sum()))


def draw_focus(scene: Scene, rng: Generator) -> float:
    """Draw a focus disparity in 1/m: the median over a surface, see `draw_surface`."""
    return float(scene_disparity(scene)[draw_surface(scene, rng)].median())


def draw_strength(
    scene: Scene,
    focus_disparity: float,
    rng: Generator,
    *,
    low: float,
    high: float,
    most: float | None = None,
) -> BlurStrength:
    """Draw K so that the visible blur, see `optics.visible_blur`, is low to high px.

    The radius is log-uniform. K is at most `most`, or else what the margin of the scene holds, see
    `render.lens.strongest`.
    """
    unit = BlurStrength(1.0, scene.height, scene.width)
    visible = visible_blur(scene_disparity(scene), focus_disparity, unit)
    radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if most is None:
        most = strongest(scene, focus_disparity).k
    return replace(unit, k=min(radius / max(visible, 1e-9), most))


def procedural_scene(
    seed: int,
    height: int,
    width: int,
    *,
    families: Sequence[str] = TRAIN_FAMILIES,
    lights: float = 0.2,
    margin: int | None = None,
) -> Scene:
    """Draw a scene: a background and 2 to 6 objects at distinct disparities, back to front.

    A pure function of its arguments: equal arguments give equal bytes on one machine. Textures
    come from `families` (see `textures`); `lights` in [0, 1] is the probability of point lights.
    `margin` px are drawn beyond the frame, by default `scene_margin`: larger blur needs more.
    Raises ValueError for frames under 16 px, no families, or an unknown one.
    """
    if min(height, width) < 16:
        raise ValueError(f"a scene needs at least 16 x 16 px, got {height} x {width}")
    if not families:
        raise ValueError("a scene needs at least one texture family, got none")
    margin = scene_margin(height, width) if margin is None else margin
    painter = _Painter(np.random.default_rng(seed), height, width, margin, tuple(families))
    layers = painter.background()
    disparities = painter.object_disparities()
    gaps = np.diff(disparities, prepend=painter.far, append=disparities[-1] + 0.5)
    for number, disparity in enumerate(disparities):
        room = 0.35 * min(gaps[number], gaps[number + 1])
        layers.append(painter.object(float(disparity), float(room)))
    lit = painter.rng.random() < lights
    scene = Scene(tuple(layers), height, width, painter.margin)
    scene = _exposed(
        scene, painter.rng.uniform(0.02, 0.2) if lit else painter.rng.uniform(0.09, 0.36)
    )
    if not lit:
        return scene
    behind = int(painter.rng.integers(0, len(disparities) + 1))
    at = len(layers) - len(disparities) + behind
    disparity = (painter.far if behind == 0 else disparities[behind - 1]) + 0.5 * gaps[behind]
    strung = painter.point_lights(float(disparity))
    return replace(scene, layers=(*scene.layers[:at], strung, *scene.layers[at:]))


class _Painter:
    """Draws the layers of one scene; all randomness comes from `rng`, in a fixed order."""

    def __init__(
        self, rng: Generator, height: int, width: int, margin: int, families: tuple[str, ...]
    ) -> None:
        self.rng, self.families = rng, families
        self.height, self.width, self.margin = height, width, margin
        self.canvas = height + 2 * margin, width + 2 * margin
        self.size = max(height, width)
        self.far = float(np.exp(rng.uniform(np.log(2 * _FARTHEST_DISPARITY), np.log(0.4))))
        self.floor: Plane | None = None
        self.light = rng.uniform(0, 2 * np.pi)

    def background(self) -> list[Layer]:
        """A wall, perhaps slanted, or a level floor that meets an upright wall."""
        if self.rng.random() < 0.35:
            return self._wall_and_floor()
        slant = 0.0 if self.rng.random() < 0.4 else self.rng.uniform(0.1, 1 / 3)
        middle = self.far / (1.0 + slant)
        plane = self._plane(middle, slant * middle)
        return [self._layer(self._surface(self.canvas), np.ones(self.canvas, np.float32), plane)]

    def _wall_and_floor(self) -> list[Layer]:
        wall, opaque = Plane(0.0, 0.0, self.far), np.ones(self.canvas, np.float32)
        meeting = self.rng.uniform(0.3, 0.75) * self.height
        nearest = self.rng.uniform(self.far + 0.3, 2.2)
        slope = (nearest - self.far) / (self.height - 1 - meeting)
        self.floor = Plane(0.0, slope, self.far - slope * meeting)
        rows = np.arange(self.canvas[0], dtype=np.float32)[:, None] - self.margin
        below = np.clip(rows - meeting + 0.5, 0.0, 1.0) * opaque
        back = self._layer(self._surface(self.canvas), opaque, wall)
        return [back, self._layer(self._surface(self.canvas), below, self.floor)]

    def object_disparities(self) -> NDArray[np.float64]:
        """Distinct disparities in 1/m, ascending, all nearer than the wall."""
        shares = np.cumsum(self.rng.uniform(0.4, 1.6, int(self.rng.integers(2, 7))))
        nearest = self.rng.uniform(self.far + 0.4, NEAREST_DISPARITY)
        return self.far + (nearest - self.far) * (shares / shares[-1]) ** self.rng.uniform(0.8, 1.6)

    def object(self, disparity: float, room: float) -> Layer:
        """One object; its disparity stays within `room` of `disparity` all over the canvas."""
        rng = self.rng
        size = rng.uniform(0.25, 0.75) * min(self.height, self.width) + 4.0
        x = self.margin + rng.uniform(-0.05, 1.05) * self.width
        y = self.margin + rng.uniform(0.0, 1.0) * self.height
        plane = Plane(0.0, 0.0, disparity)
        foot = float(self.canvas[0])
        if self.floor is not None:
            foot = self.margin + (disparity - self.floor.offset) / self.floor.slope_y
            y = min(y, foot - rng.uniform(0.3, 0.5) * size)
        elif rng.random() < 0.3:
            plane = self._plane(disparity, room)
        matte = draw_matte(rng, *self.canvas, (x, y), size)
        rows = np.arange(self.canvas[0], dtype=np.float32)[:, None]
        matte = matte * np.clip(foot - rows + 0.5, 0.0, 1.0, dtype=np.float32)
        return self._layer(self._shaded(matte), matte, plane)

    def point_lights(self, disparity: float) -> Layer:
        """Small lights, 3 to 60 times white, on one plane; with a floor, only above it."""
        rng = self.rng
        bottom = (
            self.height
            if self.floor is None
            else (self.far - self.floor.offset) / self.floor.slope_y
        )
        rgba = np.zeros((4, *self.canvas), np.float32)
        colours = np.clip(rng.normal([1.0, 0.75, 0.5], [0.1, 0.25, 0.4], (3, 3)), 0.05, 1.0)
        y, x = np.mgrid[0 : self.canvas[0], 0 : self.canvas[1]].astype(np.float32)
        for _ in range(int(rng.integers(3, 16))):
            column = self.margin + rng.uniform(-0.1, 1.1) * self.width
            row = self.margin + rng.uniform(-0.1, 1.0) * bottom
            away = np.hypot(x - column, y - row)
            spot = np.clip(rng.uniform(1.0, 1.8) - away, 0.0, 1.0)
            colour = colours[int(rng.integers(0, 3))] * np.exp(rng.uniform(np.log(3), np.log(60)))
            rgba[:3] = np.where(spot > rgba[3], colour[:, None, None], rgba[:3])
            rgba[3] = np.maximum(rgba[3], spot)
        return Layer(torch.from_numpy(rgba), Plane(0.0, 0.0, disparity))

    def _plane(self, disparity: float, reach: float) -> Plane:
        """A slanted plane, `disparity` in mid-frame and within `reach` of it on the canvas."""
        angle = self.rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle), np.sin(angle)])
        half = 0.5 * np.array([self.canvas[1], self.canvas[0]])
        slope = reach / float(np.abs(direction) @ half) * direction
        centre = slope @ (0.5 * np.array([self.width - 1, self.height - 1]))
        return Plane(float(slope[0]), float(slope[1]), disparity - float(centre))

    def _surface(self, shape: tuple[int, int]) -> Array:
        """A texture of varied contrast, at times almost plain, under a gentle gradient of light."""
        family = self.families[int(self.rng.integers(0, len(self.families)))]
        colour = draw_texture(family, self.rng, *shape)
        plain = self.rng.random() < 0.25
        contrast = self.rng.uniform(0.05, 0.25) if plain else self.rng.uniform(0.35, 1.0)
        mean = colour.mean((1, 2), keepdims=True)
        colour = mean + (colour - mean) * np.float32(contrast)
        fall, level = self.rng.normal(0, 0.25, 2), self.rng.uniform(0.6, 1.2)
        down = fall[0] * np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
        along = fall[1] * np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
        return colour * np.float32(level) * np.exp(down + along)

    def _shaded(self, matte: Array) -> Array:
        """A texture over the extent of a matte, often shaded as if the object were rounded."""
        colour = np.zeros((3, *self.canvas), np.float32)
        rows, columns = np.flatnonzero(matte.any(1)), np.flatnonzero(matte.any(0))
        if not len(rows):
            return colour
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        tall, wide = int(rows[-1] + 1 - rows[0]), int(columns[-1] + 1 - columns[0])
        part = self._surface((max(32, tall), max(32, wide)))[:, :tall, :wide]
        if self.rng.random() < 0.6 and min(tall, wide) > 1:  # a line has no slope
            depth = self.rng.uniform(1.5, 0.08 * self.size + 1.5)
            down, along = np.gradient(
                gaussian_filter(matte[box], depth, mode="constant", truncate=2.5)
            )
            toward = np.cos(self.light) * along + np.sin(self.light) * down
            part = part * np.exp(np.clip(1.6 * depth * toward, -1.2, 0.8))
        colour[:, box[0], box[1]] = part
        return colour

    @staticmethod
    def _layer(colour: Array, matte: Array, plane: Plane) -> Layer:
        rgba = np.concatenate([colour, matte[None]]).astype(np.float32)
        return Layer(torch.from_numpy(rgba), plane)


def _exposed(scene: Scene, mean: float) -> Scene:
    """The scene under light that makes its linear mean about `mean`; no surface passes white."""
    gain = float(np.clip(mean / (scene_aif(scene).mean().item() + 1e-4), 0.15, 3.0))
    factor = torch.tensor([gain, gain, gain, 1.0])[:, None, None]
    layers = (replace(x, rgba=(x.rgba * factor).clamp_max(1.0)) for x in scene.layers)
    return replace(scene, layers=tuple(layers))
