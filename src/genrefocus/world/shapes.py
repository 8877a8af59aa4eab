"""Outlines of procedural objects, as anti-aliased alpha mattes."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pen = ImageDraw.ImageDraw
Shape = Callable[[Generator, Pen, float, float, float, float], None]

_SUPERSAMPLING = 4
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&?!%"


def draw_matte(
    rng: Generator, height: int, width: int, centre: tuple[float, float], size: float
) -> NDArray[np.float32]:
    """Draw the alpha matte (height, width) in [0, 1] of a random object.

    `centre` (x, y) and `size` (its larger extent) are in px; structures such as fences, wires and
    grass reach across the whole canvas. Edges are anti-aliased over one pixel.
    """
    scale = _SUPERSAMPLING
    image = Image.new("L", (scale * width, scale * height), 0)
    name = _NAMES[int(rng.choice(len(_NAMES), p=_WEIGHTS))]
    shape = _SHAPES[name][0]
    shape(rng, ImageDraw.Draw(image), scale * centre[0], scale * centre[1], scale * size, scale)
    return np.asarray(image.reduce(scale), dtype=np.float32) / np.float32(255.0)


def leaf_outlines(
    angles: NDArray[np.float64], lengths: NDArray[np.float64], slim: float
) -> NDArray[np.float64]:
    """Corners (n, 8, 2) of leaves about the origin; `slim` is their width over their length."""
    along = np.array([-0.5, -0.3, 0.0, 0.3, 0.5, 0.3, 0.0, -0.3])
    across = slim * np.array([0.0, 0.4, 0.5, 0.3, 0.0, -0.3, -0.5, -0.4])
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    corners = np.stack([cos * along - sin * across, sin * along + cos * across], axis=2)
    return lengths[:, None, None] * corners


def draw_words(
    rng: Generator, pen: Pen, extent: tuple[int, int], size: float, ink: tuple[int, int, int]
) -> None:
    """Fill a canvas of `extent` (width, height) px with lines of random words."""
    font, y = _font(size), -rng.uniform(0, size)
    while y < extent[1]:
        line = " ".join(_word(rng, int(rng.integers(2, 9))) for _ in range(6))
        pen.text((-rng.uniform(0, 2 * size), y), line, font=font, fill=ink)
        y += size * 1.25


def _word(rng: Generator, length: int) -> str:
    return "".join(_LETTERS[i] for i in rng.integers(0, len(_LETTERS), length))


@lru_cache(maxsize=64)
def _font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return _font_of(max(6, round(size)))


def _around(
    x: float, y: float, radii: NDArray, angles: NDArray, squeeze: float = 1.0, turn: float = 0.0
) -> list[float]:
    u, v = radii * np.cos(angles), squeeze * radii * np.sin(angles)
    cos, sin = math.cos(turn), math.sin(turn)
    return np.stack([x + cos * u - sin * v, y + sin * u + cos * v], 1).ravel().tolist()


def _blob(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radii = np.ones(72)
    for order in range(2, 7):
        amplitude = rng.uniform(0, 0.35) / order
        radii += amplitude * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    pen.polygon(_around(x, y, 0.45 * size * radii, angles, rng.uniform(0.6, 1.0)), fill=255)


def _ellipse(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radii = np.full(72, 0.5 * size)
    squeeze, turn = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    pen.polygon(_around(x, y, radii, angles, squeeze, turn), fill=255)
    if rng.random() < 0.25:
        hole = radii * rng.uniform(0.4, 0.8)
        pen.polygon(_around(x, y, hole, angles, squeeze, turn), fill=0)


def _polygon(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    count = int(rng.integers(3, 9))
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    angles += rng.uniform(0, 2 * np.pi)
    radii = 0.5 * size * rng.uniform(0.7, 1.0, count)
    pen.polygon(_around(x, y, radii, angles, rng.uniform(0.6, 1.0)), fill=255)


def _star(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    count = int(rng.integers(5, 13))
    angles = np.arange(2 * count) * np.pi / count + rng.uniform(0, np.pi)
    radii = 0.5 * size * np.where(np.arange(2 * count) % 2, rng.uniform(0.35, 0.75), 1.0)
    pen.polygon(_around(x, y, radii, angles), fill=255)


def _box(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    aspect = math.exp(rng.uniform(-0.9, 0.9))
    half = 0.5 * size * np.array([min(1.0, aspect), min(1.0, 1.0 / aspect)])
    turn = 0.0 if rng.random() < 0.5 else rng.uniform(-0.5, 0.5)
    angles = np.arctan2(half[1] * np.array([1, 1, -1, -1]), half[0] * np.array([1, -1, -1, 1]))
    radii = np.full(4, float(np.hypot(half[0], half[1])))
    pen.polygon(_around(x, y, radii, angles, 1.0, turn), fill=255)


def _vessel(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    """A turned profile, symmetric about its axis: bottles, vases, figures on a board."""
    knots = int(rng.integers(4, 7))
    profile = np.interp(
        np.linspace(0, 1, 40), np.linspace(0, 1, knots), rng.uniform(0.12, 0.42, knots)
    )
    profile = np.convolve(np.pad(profile, 3, mode="edge"), np.ones(7) / 7, mode="valid")
    rise = np.linspace(-0.5, 0.5, 40) * size
    right = np.stack([x + profile * size, y + rise], 1)
    left = np.stack([x - profile * size, y + rise], 1)[::-1]
    pen.polygon(np.concatenate([right, left]).ravel().tolist(), fill=255)


def _letters(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    count = int(rng.integers(1, 6))
    font = _font(size * min(1.0, 1.6 / count))
    pen.text(
        (x, y),
        _word(rng, count),
        font=font,
        fill=255,
        anchor="mm",
        stroke_width=int(rng.integers(0, 3) * px / 2),
    )


def _grass(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    extent = pen.im.size
    count = int(rng.integers(8, 40))
    wind = rng.normal(0, 0.3)
    for _ in range(count):
        foot, tall = rng.uniform(-0.1, 1.1) * extent[0], size * rng.uniform(0.4, 1.1)
        bend, thick = tall * (wind + rng.normal(0, 0.25)), px * rng.uniform(0.5, 1.6)
        t = np.linspace(0, 1, 8)
        spine = np.stack([foot + bend * t * t, y + 0.5 * size - tall * t], 1)
        wide = np.stack([thick * (1.05 - t), np.zeros(8)], 1)
        pen.polygon(np.concatenate([spine + wide, (spine - wide)[::-1]]).ravel().tolist(), fill=255)


def _wires(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    extent = pen.im.size
    t = np.linspace(-0.1, 1.1, 24)
    slope, sag = rng.normal(0, 0.35), rng.normal(0, 0.3)
    for _ in range(int(rng.integers(1, 5))):
        level = y + rng.uniform(-0.5, 0.5) * size
        rise = slope * (t - 0.5) + sag * (t - 0.5) ** 2
        line = np.stack([t * extent[0], level + rise * extent[0]], 1)
        pen.line(line.ravel().tolist(), fill=255, width=max(1, round(px * rng.uniform(0.7, 2.5))))


def _fence(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    extent = pen.im.size
    pitch, bar = size * rng.uniform(0.12, 0.4), px * rng.uniform(0.8, 3.0)
    crossed, lean = rng.random() < 0.5, rng.choice([0.0, 0.0, 1.0]) * rng.uniform(0.3, 1.0)
    reach = extent[0] + extent[1]
    for offset in np.arange(-reach, 2 * reach, max(pitch, 5 * px)):
        width = max(1, round(bar))
        pen.line((offset, 0, offset + lean * extent[1], extent[1]), fill=255, width=width)
        if crossed and lean:
            pen.line((offset, 0, offset - lean * extent[1], extent[1]), fill=255, width=width)
        elif crossed:
            pen.line((0, offset, extent[0], offset), fill=255, width=width)


def _tree(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    leaves = rng.random() < 0.5
    tips = [(x, y + 0.5 * size, -0.5 * np.pi + rng.normal(0, 0.15), 0.33 * size, px * 2.5)]
    for _ in range(5):
        grown = []
        for bx, by, heading, length, thick in tips:
            ex, ey = bx + length * math.cos(heading), by + length * math.sin(heading)
            pen.line((bx, by, ex, ey), fill=255, width=max(1, round(thick)))
            for turn in rng.normal([-0.5, 0.5], 0.25):
                grown.append((ex, ey, heading + turn, length * rng.uniform(0.6, 0.85), thick * 0.7))
        tips = grown
    if leaves:
        roots = np.array([tip[:2] for tip in tips])
        sizes = px * np.array([rng.uniform(3, 8) for _ in tips])
        outlines = leaf_outlines(np.array([tip[2] for tip in tips]), sizes, 0.5) + roots[:, None]
        for outline in outlines.reshape(len(tips), -1).tolist():
            pen.polygon(outline, fill=255)


def _plant(rng: Generator, pen: Pen, x: float, y: float, size: float, px: float) -> None:
    count, slim = int(rng.integers(5, 16)), rng.uniform(0.12, 0.4)
    angles = rng.uniform(0, 2 * np.pi, count)
    lengths = size * rng.uniform(0.35, 0.6, count)
    leaves = leaf_outlines(angles, lengths, slim)
    outlines = leaves + np.array([x, y]) + leaves[:, 4:5]  # from the root outwards
    for outline in outlines.reshape(count, -1).tolist():
        pen.polygon(outline, fill=255)


_SHAPES: dict[str, tuple[Shape, float]] = {
    "blob": (_blob, 2.0),
    "ellipse": (_ellipse, 1.5),
    "polygon": (_polygon, 1.5),
    "star": (_star, 0.6),
    "box": (_box, 1.5),
    "vessel": (_vessel, 1.5),
    "letters": (_letters, 1.2),
    "grass": (_grass, 1.0),
    "wires": (_wires, 0.6),
    "fence": (_fence, 0.4),
    "tree": (_tree, 0.9),
    "plant": (_plant, 1.2),
}
_NAMES = tuple(_SHAPES)
_WEIGHTS = np.array([_SHAPES[name][1] for name in _NAMES]) / sum(w for _, w in _SHAPES.values())
