"""Aperture shapes: disc, blades, ring, star, heart, images; their edge, positions and kernels.

A shape lives in the unit disc: its farthest edge is at distance 1 from its centre of area, so a
point blurred with radius r px draws the shape at r px. Axes are the image's: x right, y down. A
point nearer than the plane of focus draws the shape as it is, a point behind it turned by 180
degrees: a heart with `rotation=math.pi` is upright in the background.
"""

import base64
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, map_coordinates
from torch import Tensor

from genrefocus.photograph.decoding import IMAGE_SUFFIXES, is_image, read_file, read_pixels

Array = NDArray[np.floating]
Distance = Callable[[Array, Array], Array]

_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))
_RASTER_SIZE = 256
_STRAIGHT = 1e-4

IMAGE = "image"
SHAPE_WEIGHTS: Mapping[str, float] = {
    "disk": 2.0,
    "polygon": 3.0,
    "ring": 1.0,
    "heart": 2.0,
    "star": 2.0,
}
"""How often `draw_aperture` takes each kind, up to a common factor."""


@dataclass(frozen=True)
class Aperture:
    """A shape by its signed distance to the edge, `distance(x, y)`, negative inside.

    `facts` are plain JSON data that `described` makes the shape of again; empty for a part of one.
    """

    name: str
    distance: Distance
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def positions(self, count: int) -> Tensor:
        """Well-spread positions (count, 2) float32 on the opening, centred; deterministic.

        Raises ValueError for fewer than one position.
        """
        if count < 1:
            raise ValueError(f"an aperture is sampled at one position or more, got {count}")
        points = self._spread(count)
        # An offset common to all positions would move everything out of focus.
        centred = points - points.mean(0)
        return torch.from_numpy(centred / max(1.0, np.hypot(*centred.T).max())).float()

    def _spread(self, count: int) -> Array:
        # As many seeds of a sunflower on the unit disc as leave so many in the opening.
        seeds = count
        while len(kept := self._inside(_sunflower(seeds))) < count:
            seeds += count - len(kept)
        return kept[:count]

    def _inside(self, points: Array) -> Array:
        return points[self.distance(points[:, 0], points[:, 1]) < 0.0]

    @cached_property
    def second_moment(self) -> float:
        """Second moment per axis of the opening in units of its radius squared: 1/4 for a disc."""
        axis = np.linspace(-1.0, 1.0, 201)
        inside = self.distance(axis[None, :], axis[:, None]) < 0.0
        return float((axis[None, :] ** 2 + axis[:, None] ** 2)[inside].mean() / 2.0)

    def coverage(self, x: Array, y: Array, radius: Array) -> Array:
        """How much of the pixel at (x, y) px from a point its blur of `radius` px covers, 0 to 1.

        The edge is anti-aliased over one pixel. Arguments broadcast; radius > 0.
        """
        return np.clip(0.5 - radius * self.distance(x / radius, y / radius), 0.0, 1.0)

    def image(self, side: int) -> Tensor:
        """(1, side, side) in [0, 1], white where it is open, as large as fits.

        It shows a light behind the plane of focus: what networks are told of the shape.
        """
        axis = (side - 1) / 2 - np.arange(side)
        covered = self.coverage(axis[None, :], axis[:, None], np.array(side / 2 - 1))
        return torch.from_numpy(covered)[None].float()

    def kernel(self, radius: float) -> Array:
        """The blur of a point at a signed radius in px: (2 n + 1, 2 n + 1), float64, sums to 1.

        A negative radius, behind the plane of focus, turns the shape by 180 degrees. Anti-aliasing
        adds the second moment of a pixel, 1/12 per axis; the shape is drawn smaller by as much, so
        that the kernel has the moment of the shape, r^2 / 4 for a disc. Blur too small for that is
        a mixture of the smallest shape and no blur.
        """
        if radius == 0.0:
            return np.ones((1, 1))
        square = radius**2 - 1.0 / (12.0 * self.second_moment)
        drawn = math.sqrt(max(square, 1.0))
        reach = math.ceil(drawn + 0.5)
        axis = np.arange(-reach, reach + 1, dtype=np.float64) * math.copysign(1.0, radius)
        x, y = axis[None, :], axis[:, None]
        weights = self.coverage(x, y, np.array(drawn))
        weights = weights / weights.sum()
        if square >= 1.0:
            return weights
        moment = float((weights * (x**2 + y**2)).sum() / 2.0)
        share = min(1.0, self.second_moment * radius**2 / moment)
        weights = share * weights
        weights[reach, reach] += 1.0 - share
        return weights


def disk() -> Aperture:
    """The full round aperture."""
    return Aperture("disk", _to_circle, {"kind": "disk"})


def polygon(blades: int, rotation: float = 0.0, curvature: float = 0.0) -> Aperture:
    """A regular polygon with its corners on the unit circle, one at angle `rotation` (radians).

    `curvature` is that of the blades' edges, which run from corner to corner: 0 is straight, 1 is
    that of the unit circle, so that the opening is a disc. Raises ValueError for fewer than three
    blades or a curvature outside [0, 1].
    """
    if blades < 3:
        raise ValueError(f"a polygonal aperture needs 3 blades or more, got {blades}")
    if not 0.0 <= curvature <= 1.0:
        raise ValueError(f"the curvature of blades lies in [0, 1], got {curvature}")
    normals = rotation + (np.arange(blades) + 0.5) * 2.0 * math.pi / blades
    apothem, half_side = math.cos(math.pi / blades), math.sin(math.pi / blades)

    distance = functools.partial(
        _to_blades, normals=normals, apothem=apothem, half_side=half_side, curvature=curvature
    )
    facts = {"blades": blades, "rotation": rotation, "curvature": curvature}
    return Aperture(f"polygon{blades}", distance, {"kind": "polygon", **facts})


def ring(inner: float) -> Aperture:
    """A disc with a round obstruction of radius `inner`, as in mirror lenses.

    Raises ValueError unless 0 < inner < 1.
    """
    if not 0.0 < inner < 1.0:
        raise ValueError(f"the inner radius of a ring lies between 0 and 1, got {inner}")
    distance = functools.partial(_to_ring, inner=inner)
    return Aperture("ring", distance, {"kind": "ring", "inner": inner})


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
    facts = {"points": points, "inner": inner, "rotation": rotation}
    return Aperture(f"star{points}", distance, {"kind": "star", **facts})


def heart(rotation: float = 0.0) -> Aperture:
    """A square on its corner with half a disc on both upper sides; its point is below, at +y.

    `rotation` in radians turns it clockwise in the image.
    """
    # With a square of side 2, a half-disc of radius 1 has its centre of area 4 / (3 pi) beyond
    # the side's middle, which lies at (+-s, -s) for s = 1 / sqrt(2).
    s = math.sqrt(0.5)
    area = 4.0 + math.pi
    middle = -math.pi * (s + s * 4.0 / (3.0 * math.pi)) / area
    # The farthest points from there: the tip, or the far side of a lobe.
    reach = max(2.0 * s - middle, math.hypot(s, -s - middle) + 1.0)

    distance = functools.partial(_to_heart, rotation=rotation, middle=middle, reach=reach)
    return Aperture("heart", distance, {"kind": "heart", "rotation": rotation})


def vignetted(aperture: Aperture, x: float, y: float) -> Aperture:
    """The part of a shape within a unit disc about (x, y): what the rim of a lens leaves of it.

    Seen from beside the axis, the round rim is shifted against the aperture (a cat's eye). The
    part stays where it is: its centre is no longer the shape's. Raises ValueError for a shift by
    more than 1, in units of the aperture's radius.
    """
    if math.hypot(x, y) > 1.0 + 1e-9:
        raise ValueError(f"the rim shifts by 1 aperture radius at most, got {math.hypot(x, y):.3f}")
    if x == 0.0 and y == 0.0:
        return aperture
    return Aperture(
        aperture.name,
        functools.partial(_to_both, opening=aperture.distance, x=x, y=y),
    )


def raster(path: Path) -> Aperture:
    """The shape in an image, as lights behind the plane of focus show it.

    It is open where the image is half white or more (and not transparent). Its centre of area
    becomes the centre, its farthest point gets distance 1. Raises ValueError where the image has no
    opening, and :class:`~genrefocus.rejection.Rejected` where it cannot be read, see
    :func:`genrefocus.photograph.decoding.read_pixels`.
    """
    light = Image.fromarray(read_pixels(read_file(path), str(path)).light)
    light.thumbnail((_RASTER_SIZE, _RASTER_SIZE))
    is_open = np.asarray(light) >= 0.5
    if not is_open.any():
        raise ValueError(f"aperture image {path} is nowhere half white; paint the opening white")
    buffer = io.BytesIO()
    Image.fromarray(is_open).save(buffer, "PNG")
    return _drawn_opening(path.stem, base64.b64encode(buffer.getvalue()).decode())


def _drawn_opening(name: str, png: str) -> Aperture:
    """The shape in an image of 1 bit a pixel, in base64; see `raster`."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        is_open = np.pad(np.asarray(image)[::-1, ::-1], 2)
    rows, columns = np.nonzero(is_open)
    row, column = rows.mean(), columns.mean()
    reach = float(np.hypot(rows - row, columns - column).max()) + 0.5
    away = distance_transform_edt(~is_open) - distance_transform_edt(is_open)
    # Pixel centres lie half a pixel beyond the edge on either side.
    away = away - 0.5 * np.sign(away)

    distance = functools.partial(_in_field, field=away, centre=(row, column), reach=reach)
    return Aperture(name, distance, {"kind": IMAGE, "name": name, "png": png})


def described(facts: Mapping[str, Any]) -> Aperture:
    """The shape of `Aperture.facts`, as a sample states it.

    Raises ValueError where they describe none.
    """
    kinds: Mapping[str, Callable[..., Aperture]] = {
        "disk": disk,
        "polygon": polygon,
        "ring": ring,
        "star": star,
        "heart": heart,
        IMAGE: _drawn_opening,
    }
    numbers = dict(facts)
    try:
        return kinds[numbers.pop("kind")](**numbers)
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(f"{dict(facts)} describes no shape of an aperture: {error!r}") from error


def image_shapes(folder: Path) -> tuple[Aperture, ...]:
    """The shapes in the images of a folder, by file name; see `raster`.

    Raises FileNotFoundError where there is no folder or no image in it, and what `raster` does.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of aperture images {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if is_image(path))
    if not paths:
        raise FileNotFoundError(f"no aperture image ({', '.join(IMAGE_SUFFIXES)}) in {folder}")
    return tuple(raster(path) for path in paths)


def draw_aperture(
    rng: Generator,
    *,
    weights: Mapping[str, float] = SHAPE_WEIGHTS,
    images: Sequence[Aperture] = (),
) -> Aperture:
    """Draw a shape, turned at random: its kind by weight, then its parameters.

    `weights` may name disk, polygon (5 to 9 blades), ring, heart and star (4 to 8 points); with
    "image", one of `images` is taken as it is. Raises ValueError for another name, a negative
    weight, weights without a sum, and images without a weight or the other way round.
    """
    unknown = set(weights) - set(SHAPE_WEIGHTS) - {IMAGE}
    if unknown:
        known = ", ".join((*SHAPE_WEIGHTS, IMAGE))
        raise ValueError(f"aperture shapes {sorted(unknown)} are unknown; known: {known}")
    if bool(images) != (weights.get(IMAGE, 0.0) > 0.0):
        raise ValueError(
            f"{len(images)} images and a weight of {weights.get(IMAGE, 0.0)} for "
            f'"{IMAGE}"; give both or neither'
        )
    names, values = list(weights), np.array(list(weights.values()), dtype=np.float64)
    if (values < 0.0).any() or not values.sum() > 0.0:
        raise ValueError(f"weights of aperture shapes must be >= 0 with a sum > 0: {dict(weights)}")
    name = names[int(rng.choice(len(names), p=values / values.sum()))]
    if name == IMAGE:
        return images[int(rng.integers(len(images)))]
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


def _sunflower(count: int) -> Array:
    """Points (count, 2) spread on the unit disc (Vogel 1979); their mean square is exactly 1/2."""
    index = np.arange(count)
    radius, angle = np.sqrt((index + 0.5) / count), index * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


# Distances to the edge are functions of this module, and no closures, so that apertures can be sent
# to other processes.


def _to_circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1.0


def _to_blades(
    x: Array, y: Array, *, normals: Array, apothem: float, half_side: float, curvature: float
) -> Array:
    reach = np.full(np.broadcast(x, y).shape, -np.inf)
    for angle in normals:
        outward = math.cos(angle) * x + math.sin(angle) * y - apothem
        if curvature > _STRAIGHT:
            radius = 1.0 / curvature
            along = math.cos(angle) * y - math.sin(angle) * x
            centre = math.sqrt(radius**2 - half_side**2)
            outward = np.hypot(outward + centre, along) - radius
        reach = np.maximum(reach, outward)
    return reach


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


def _to_both(u: Array, v: Array, *, opening: Distance, x: float, y: float) -> Array:
    """Within an opening and within a unit circle about (x, y)."""
    return np.maximum(opening(u, v), np.hypot(u - x, v - y) - 1.0)


def _in_field(
    x: Array, y: Array, *, field: Array, centre: tuple[float, float], reach: float
) -> Array:
    at = np.stack(np.broadcast_arrays(y * reach + centre[0], x * reach + centre[1]))
    limit = np.array(field.shape).reshape(2, *([1] * (at.ndim - 1))) - 1.0
    held = np.clip(at, 0.0, limit)
    return (map_coordinates(field, held, order=1) + np.hypot(*(at - held))) / reach
