"""Aperture shapes for shape control, and their draw: disc, blades, ring, heart, star, pictures.

The conventions are those of `apertures`: in the unit disc, about the centre of area, y down. A
heart that is upright at `rotation` 0 is upright in front of the plane of focus and upside down
behind it, as through a real cut-out before the lens; `rotation=math.pi` is the other way round.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from genrefocus.decoding import PICTURE_SUFFIXES, is_picture
from genrefocus.render.apertures import Aperture, Array, disk, polygon, raster

PICTURE = "picture"
SHAPE_WEIGHTS: Mapping[str, float] = {
    "disk": 2.0,
    "polygon": 3.0,
    "ring": 1.0,
    "heart": 2.0,
    "star": 2.0,
}
"""How often `draw_aperture` takes each kind, up to a common factor."""


def ring(inner: float) -> Aperture:
    """A disc with a round obstruction of radius `inner`, as in mirror lenses.

    Raises ValueError unless 0 < inner < 1.
    """
    if not 0.0 < inner < 1.0:
        raise ValueError(f"the inner radius of a ring lies between 0 and 1, got {inner}")
    return Aperture("ring", functools.partial(_to_ring, inner=inner))


def star(points: int, inner: float, rotation: float = 0.0) -> Aperture:
    """A star: `points` tips on the unit circle, one at angle `rotation`, notches at `inner`.

    Raises ValueError for fewer than three points, or unless 0 < inner < cos(pi / points), where
    the notches would lie on the edges of a polygon.
    """
    if points < 3:
        raise ValueError(f"a star has 3 points or more, got {points}")
    half = math.pi / points
    if not 0.0 < inner < math.cos(half):
        raise ValueError(
            f"the notches of a {points}-pointed star lie between 0 and {math.cos(half):.3f}, "
            f"got {inner}"
        )
    edge = np.array([inner * math.cos(half) - 1.0, inner * math.sin(half)])
    distance = functools.partial(_to_star, half=half, rotation=rotation, edge=edge)
    return Aperture(f"star{points}", distance)


def heart(rotation: float = 0.0) -> Aperture:
    """A square on its corner with half a disc on both upper sides; its point is below, at +y.

    `rotation` in radians turns it clockwise in the picture.
    """
    # With a square of side 2, a half-disc of radius 1 has its centre of area 4 / (3 pi) beyond
    # the side's middle, which lies at (+-s, -s) for s = 1 / sqrt(2).
    s = math.sqrt(0.5)
    area = 4.0 + math.pi
    middle = -math.pi * (s + s * 4.0 / (3.0 * math.pi)) / area
    # The farthest points from there: the tip, or the far side of a lobe.
    reach = max(2.0 * s - middle, math.hypot(s, -s - middle) + 1.0)

    distance = functools.partial(_to_heart, rotation=rotation, middle=middle, reach=reach)
    return Aperture("heart", distance)


def _to_ring(x: Array, y: Array, *, inner: float) -> Array:
    radius = np.hypot(x, y)
    return np.maximum(radius - 1.0, inner - radius)


def _to_star(x: Array, y: Array, *, half: float, rotation: float, edge: Array) -> Array:
    # Mirrors bring every point to the half of a tip that has one straight edge.
    radius, angle = np.hypot(x, y), np.arctan2(y, x) - rotation
    angle = np.abs((angle + half) % (2.0 * half) - half)
    u, v = radius * np.cos(angle) - 1.0, radius * np.sin(angle)
    length = float(np.hypot(*edge))
    along = np.clip((u * edge[0] + v * edge[1]) / length**2, 0.0, 1.0)
    away = np.hypot(u - along * edge[0], v - along * edge[1])
    return np.copysign(away, edge[1] * u - edge[0] * v)


def _to_heart(x: Array, y: Array, *, rotation: float, middle: float, reach: float) -> Array:
    cos, sin, s = math.cos(rotation), math.sin(rotation), math.sqrt(0.5)
    across = np.abs(cos * x + sin * y) * reach
    down = (cos * y - sin * x) * reach + middle
    square = s * (across + np.abs(down)) - 1.0
    lobe = np.hypot(across - s, down + s) - 1.0
    return np.minimum(square, lobe) / reach


def picture_shapes(folder: Path) -> tuple[Aperture, ...]:
    """The shapes in the pictures of a folder, by file name; see `apertures.raster`.

    Raises FileNotFoundError where there is no folder or no picture in it, and what `raster` does.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of aperture pictures {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if is_picture(path))
    if not paths:
        raise FileNotFoundError(f"no aperture picture ({', '.join(PICTURE_SUFFIXES)}) in {folder}")
    return tuple(raster(path) for path in paths)


def draw_aperture(
    rng: Generator,
    *,
    weights: Mapping[str, float] = SHAPE_WEIGHTS,
    pictures: Sequence[Aperture] = (),
) -> Aperture:
    """Draw a shape, turned at random: its kind by weight, then its parameters.

    `weights` may name disk, polygon (5 to 9 blades), ring, heart and star (4 to 8 points); with
    "picture", one of `pictures` is taken as it is. Raises ValueError for another name, a negative
    weight, weights without a sum, and pictures without a weight or the other way round.
    """
    unknown = set(weights) - set(SHAPE_WEIGHTS) - {PICTURE}
    if unknown:
        known = ", ".join((*SHAPE_WEIGHTS, PICTURE))
        raise ValueError(f"aperture shapes {sorted(unknown)} are unknown; known: {known}")
    if bool(pictures) != (weights.get(PICTURE, 0.0) > 0.0):
        raise ValueError(
            f"{len(pictures)} pictures and a weight of {weights.get(PICTURE, 0.0)} for "
            f'"{PICTURE}"; give both or neither'
        )
    names, values = list(weights), np.array(list(weights.values()), dtype=np.float64)
    if (values < 0.0).any() or not values.sum() > 0.0:
        raise ValueError(f"weights of aperture shapes must be >= 0 with a sum > 0: {dict(weights)}")
    name = names[int(rng.choice(len(names), p=values / values.sum()))]
    if name == PICTURE:
        return pictures[int(rng.integers(len(pictures)))]
    return _drawn(name, rng)


def _drawn(name: str, rng: Generator) -> Aperture:
    turn = rng.uniform(0.0, 2.0 * math.pi)
    if name == "polygon":
        return polygon(int(rng.integers(5, 10)), turn)
    if name == "ring":
        return ring(rng.uniform(0.3, 0.6))
    if name == "heart":
        return heart(turn)
    if name == "star":
        points = int(rng.integers(4, 9))
        return star(points, rng.uniform(0.35, 0.65), turn)
    return disk()
