"""Night scenes: a dark procedural scene with strings, rows, windows and scatters of point lights.

The lights hang at exact disparities among the surfaces of `scenes.procedural_scene`, in layers of
their own, so that surfaces in front hide them and surfaces behind show between them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from genrefocus.render.scene import Layer, Plane, Scene, scene_aif
from genrefocus.world.fields import spectral_noise
from genrefocus.world.lights import Colour, black_body, draw_light_colours
from genrefocus.world.scenes import NEAREST_DISPARITY, procedural_scene
from genrefocus.world.textures import TRAIN_FAMILIES

_STREAM = 0x11947
"""Keeps the draws of the night apart from those of the scene of the same seed."""
_CLEARANCE = 0.005
"""Lights hang at least this far before the surface behind them, 1/m; windows just so far."""
_GLOW = 6.0
"""Where the glow of a light ends, in radii of its core."""
_MOFFAT = (2.0 * (1.0 - 1.0 / _GLOW**2)) ** (1.0 / 3.0) - 1.0
_SEEN_AT_LEAST = 10
_GROUPS_AT_MOST = 40


@dataclass(frozen=True)
class _Group:
    """n lights: `planes`, `at` (n, 2) px in the frame, `colour` (n, 3), `energy`, `radius` (n)."""

    planes: tuple[Plane, ...]
    at: NDArray[np.float64]
    colour: Colour
    energy: NDArray[np.float64]
    radius: NDArray[np.float64]


def night_scene(
    seed: int,
    height: int,
    width: int,
    *,
    families: Sequence[str] = TRAIN_FAMILIES,
    margin: int | None = None,
) -> Scene:
    """Draw a scene by night with point lights at several depths.

    A pure function of its arguments. The surfaces are those of ``procedural_scene`` with this
    seed, at a linear mean of 0.003 to 0.05, unevenly lit. Lights come in 2 to 5 groups, each a
    string of bulbs, a row of lamps that recedes, windows before the background, or a scatter; up to
    40 groups where fewer than 10 lights are in sight. Energies (see ``lights.PointLight``) are
    log-uniform, about 1.5 to 200 for a frame of 64 px, and grow with the area of the frame, as the
    discs do that they are blurred to. Raises what ``procedural_scene`` does.
    """
    stage = procedural_scene(seed, height, width, families=families, lights=0.0, margin=margin)
    rng = np.random.default_rng([_STREAM, seed])
    scene = _by_night(stage, rng)
    planes = [layer.plane for layer in scene.layers]
    slots: list[list[Layer]] = [[] for _ in range(len(planes) + 1)]
    wanted, seen = int(rng.integers(2, 6)), 0
    for number in range(_GROUPS_AT_MOST):
        if number >= wanted and seen >= _SEEN_AT_LEAST:
            break
        arrange = _ARRANGEMENTS[int(rng.choice(len(_ARRANGEMENTS), p=_CHANCES))]
        group = arrange(scene, rng)
        members: dict[tuple[int, Plane], list[int]] = {}
        for index, plane in enumerate(group.planes):
            x, y = (float(v) for v in group.at[index])
            slot = _slot(planes, plane, x, y, float(group.radius[index]))
            if slot:
                members.setdefault((slot, plane), []).append(index)
                seen += _is_seen(scene.layers[slot:], scene, x, y)
        for (slot, plane), chosen in members.items():
            slots[slot].append(_lit(scene, group, chosen, plane))
    layers: list[Layer] = []
    for behind, layer in zip(slots, (*scene.layers, None), strict=True):
        layers += sorted(behind, key=_order)
        layers += [layer] if layer else []
    return replace(scene, layers=tuple(layers))


def _by_night(scene: Scene, rng: Generator) -> Scene:
    """The scene in the dark: every surface under its own uneven light of a common tint."""
    mean = math.exp(rng.uniform(math.log(0.003), math.log(0.05)))
    gain = mean / (scene_aif(scene).mean().item() + 1e-4)
    kelvin, uneven = math.exp(rng.uniform(*np.log([2200, 12000]))), rng.uniform(0.2, 0.9)
    tint = black_body(kelvin, rng.uniform(4000.0, 6500.0))
    layers = []
    for layer in scene.layers:
        glow = np.exp(uneven * spectral_noise(rng, layer.rgba.shape[1], layer.rgba.shape[2], 2.0))
        own = gain * math.exp(rng.normal(0.0, 0.3)) * tint
        factor = np.concatenate([own[:, None, None] * glow, np.ones_like(glow)[None]])
        dark = layer.rgba * torch.from_numpy(factor.astype(np.float32))
        layers.append(replace(layer, rgba=dark.clamp_max(1.0)))
    return replace(scene, layers=tuple(layers))


def _order(lights: Layer) -> tuple[bool, float]:
    """Far to near; only windows slant, with the wall, and touch it."""
    plane = lights.plane
    return plane.slope_x == plane.slope_y == 0.0, plane.offset


def _slot(planes: Sequence[Plane], plane: Plane, x: float, y: float, radius: float) -> int:
    """How many of the layers lie behind a light at (x, y); 0 where it is behind or below them all.

    Every layer counts as if it went on for ever: all over its spot, a light is nearer than every
    surface that it is laid over, and farther than those that are laid over it.
    """
    nearer, farther = [], []
    for other in planes:
        lead = _at(plane, x, y) - _at(other, x, y)
        turn = abs(plane.slope_x - other.slope_x) + abs(plane.slope_y - other.slope_y)
        nearer.append(lead - turn * (radius + 1.0) > _CLEARANCE)
        farther.append(lead + turn * (radius + 1.0) < 0.0)
    for number in range(1, len(planes) + 1):
        if all(nearer[:number]) and all(farther[number:]):
            return number
    return 0


def _is_seen(front: Sequence[Layer], scene: Scene, x: float, y: float) -> bool:
    """Whether a light at (x, y) is in the frame, and no layer in front covers half of its pixel."""
    column, row = round(x), round(y)
    if not (0 <= column < scene.width and 0 <= row < scene.height):
        return False
    m = scene.margin
    return all(float(layer.rgba[3, row + m, column + m]) < 0.5 for layer in front)


def _at(plane: Plane, x: float, y: float) -> float:
    return plane.slope_x * x + plane.slope_y * y + plane.offset


def _lit(scene: Scene, group: _Group, chosen: Sequence[int], plane: Plane) -> Layer:
    """A layer of chosen lights of a group; colour times coverage sums to their energies."""
    shape = scene.height + 2 * scene.margin, scene.width + 2 * scene.margin
    rgba = np.zeros((4, *shape))
    for index in chosen:
        x, y = group.at[index] + scene.margin
        radius = float(group.radius[index])
        reach = math.ceil(_GLOW * radius)
        rows = slice(max(0, round(y) - reach), min(shape[0], round(y) + reach + 1))
        columns = slice(max(0, round(x) - reach), min(shape[1], round(x) + reach + 1))
        away = np.hypot(
            np.arange(columns.start, columns.stop) - x,
            np.arange(rows.start, rows.stop)[:, None] - y,
        )
        spot = _spot(away / radius)
        if spot.any():
            spot /= spot.max()
            light = group.colour[index] * group.energy[index] / spot.sum()
            rgba[:3, rows, columns] += light[:, None, None] * spot
            rgba[3, rows, columns] = np.maximum(rgba[3, rows, columns], spot)
    # Straight alpha: the colour of two lights that overlap is their sum.
    rgba[:3] /= np.maximum(rgba[3], 1e-6)
    return Layer(torch.from_numpy(rgba.astype(np.float32)), plane)


def _spot(away: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coverage at a distance in radii: 1/2 at 1, then a glow as of a real lens (Moffat 1969)."""
    return np.clip(1.0 - (away / _GLOW) ** 2, 0.0, 1.0) / (1.0 + _MOFFAT * away**2) ** 3


def _group(
    scene: Scene,
    rng: Generator,
    planes: Plane | Sequence[Plane],
    at: NDArray[np.float64],
    *,
    alike: bool,
) -> _Group:
    """Lights at given places; `alike` in energy within a group, or each with its own."""
    planes = (planes,) * len(at) if isinstance(planes, Plane) else tuple(planes)
    count, scale = len(at), max(scene.height, scene.width) / 64.0
    low, high = math.log(1.5), math.log(200.0)
    common = rng.uniform(low, high)
    own = common + rng.normal(0.0, 0.25, count) if alike else rng.uniform(low, high, count)
    radius = rng.uniform(0.35, 0.7, count) * max(1.0, scale / 4.0)
    return _Group(planes, at, draw_light_colours(rng, count), np.exp(own) * scale**2, radius)


def _depth(scene: Scene, rng: Generator) -> float:
    """A disparity between background and nearest surface; far ones more often."""
    far = _farthest(scene)
    nearest = max(_at(x.plane, 0.5 * scene.width, 0.5 * scene.height) for x in scene.layers)
    nearest = min(max(nearest, far + 0.2) + 0.1, NEAREST_DISPARITY)
    return far + (nearest - far) * float(rng.beta(0.8, 1.6))


def _farthest(scene: Scene) -> float:
    return float(scene.layers[0].plane.over(scene.height, scene.width).min())


def _anywhere(scene: Scene, rng: Generator, count: int) -> NDArray[np.float64]:
    return rng.uniform(-0.1, 1.1, (count, 2)) * (scene.width, scene.height)


def _string(scene: Scene, rng: Generator) -> _Group:
    """Bulbs at equal steps on a line that sags, at one depth."""
    count = int(rng.integers(6, 28))
    along = np.linspace(0.0, 1.0, count)
    first, last = _anywhere(scene, rng, 2)
    if rng.random() < 0.6:  # from side to side
        first[0], last[0] = -0.1 * scene.width, 1.1 * scene.width
    line = first + along[:, None] * (last - first)
    sag = rng.uniform(0.0, 0.5) * float(np.hypot(*(last - first)))
    line[:, 1] += sag * 4.0 * along * (1.0 - along)
    line += rng.normal(0.0, 0.004 * scene.width, line.shape)
    return _group(scene, rng, Plane(0.0, 0.0, _depth(scene, rng)), line, alike=True)


def _row(scene: Scene, rng: Generator) -> _Group:
    """Lamps at equal steps on straight lines into the distance, on one or both sides of a way.

    The image of such a line keeps a distance to its vanishing point in proportion to disparity.
    """
    count = int(rng.integers(4, 10))
    vanishing = rng.uniform([0.1, 0.25], [0.9, 0.65]) * (scene.width, scene.height)
    angle = rng.choice([0.0, math.pi]) + rng.uniform(-0.7, 0.7)
    directions = np.array([[math.cos(angle), math.sin(angle)], [-math.cos(angle), math.sin(angle)]])
    far, nearest = _farthest(scene), rng.uniform(0.5, NEAREST_DISPARITY)
    disparities = 1.0 / np.linspace(1.0 / nearest, 1.0 / (far + 0.02), count)
    away = rng.uniform(0.5, 1.1) * max(scene.height, scene.width) * disparities / nearest
    sides = directions[: int(rng.integers(1, 3))]
    at = vanishing + (away[:, None, None] * sides).reshape(-1, 2)
    planes = [Plane(0.0, 0.0, float(d)) for d in np.repeat(disparities, len(sides))]
    return _group(scene, rng, planes, at, alike=True)


def _windows(scene: Scene, rng: Generator) -> _Group:
    """Some of the windows of a front just before the background: a grid, perhaps in blocks."""
    wall = scene.layers[0].plane
    front = replace(wall, offset=wall.offset + 1.01 * _CLEARANCE)
    pitch = rng.uniform(0.03, 0.09, 2) * max(scene.height, scene.width)
    origin, extent = _anywhere(scene, rng, 1)[0], rng.uniform(0.2, 0.9, 2)
    count = np.maximum(2, (extent * (scene.width, scene.height) / pitch).astype(int))
    grid = np.stack(np.meshgrid(np.arange(count[0]), np.arange(count[1])), -1).reshape(-1, 2)
    lit = rng.random(len(grid)) < rng.uniform(0.15, 0.6)
    lit[int(rng.integers(len(grid)))] = True
    at = origin + (grid[lit][:80] - 0.5 * count) * pitch
    return _group(scene, rng, front, at, alike=True)


def _scatter(scene: Scene, rng: Generator) -> _Group:
    """Lights anywhere at one depth, at times crowded about one place."""
    count = int(rng.integers(8, 60))
    at = _anywhere(scene, rng, count)
    if rng.random() < 0.5:
        spread = rng.uniform(0.05, 0.3, 2) * (scene.width, scene.height)
        at = _anywhere(scene, rng, 1) + rng.normal(0.0, 1.0, (count, 2)) * spread
    return _group(scene, rng, Plane(0.0, 0.0, _depth(scene, rng)), at, alike=False)


_ARRANGEMENTS: tuple[Callable[[Scene, Generator], _Group], ...] = (
    _string,
    _row,
    _windows,
    _scatter,
)
_CHANCES = np.array([0.3, 0.2, 0.2, 0.3])
