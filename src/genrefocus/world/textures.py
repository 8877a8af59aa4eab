"""Procedural textures in linear light, in families; some families are held out of training.

A texture is a pure function (generator, height, width) -> (3, h, w) float32 linear light in
(0, 1). Families differ in how they are made, so a model that saw `TRAIN_FAMILIES` has never seen
the structures of `HELDOUT_FAMILIES`.
"""

from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.random import Generator
from PIL import Image, ImageDraw

from genrefocus.world.fields import draw_size, grain, spectral_noise, squash, turned_grid
from genrefocus.world.palettes import (
    LINEAR_OF_BYTE,
    Array,
    colourise,
    draw_palette,
    draw_two_tone,
    to_ink,
    to_inks,
    to_linear,
)
from genrefocus.world.shapes import draw_words, leaf_outlines

Texture = Callable[[Generator, int, int], Array]


def draw_texture(family: str, rng: Generator, height: int, width: int) -> Array:
    """Draw one texture of a family: (3, height, width) float32 linear light in (0, 1).

    Raises ValueError for an unknown family.
    """
    if family not in _FAMILIES:
        raise ValueError(f"texture family {family!r} is unknown; known: {', '.join(_FAMILIES)}")
    drawn = _FAMILIES[family](rng, height, width)
    return np.clip(drawn, 0.002, 0.98).astype(np.float32)


def _blend(mask: Array, first: Array, second: Array) -> Array:
    """Mix two linear colours (3,) by a mask (h, w): `first` where the mask is 0."""
    first, second = to_linear(first)[:, None, None], to_linear(second)[:, None, None]
    return first + (second - first) * mask


def _fractal(rng: Generator, height: int, width: int) -> Array:
    level = squash(spectral_noise(rng, height, width, rng.uniform(0.8, 1.5)))
    first = colourise(level, draw_palette(rng, 4))
    if rng.random() < 0.5:
        return first
    region = squash(3.0 * spectral_noise(rng, height, width, rng.uniform(1.3, 1.9)))
    return first + (colourise(level, draw_palette(rng, 4)) - first) * region


def _canvas(
    height: int, width: int, ink: tuple[int, int, int]
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A canvas at twice the size, and its pen; `_developed` brings it back to size."""
    image = Image.new("RGB", (2 * width, 2 * height), ink)
    return image, ImageDraw.Draw(image)


def _developed(image: Image.Image) -> Array:
    return np.ascontiguousarray(LINEAR_OF_BYTE[np.asarray(image.reduce(2))].transpose(2, 0, 1))


def _dead_leaves(rng: Generator, height: int, width: int) -> Array:
    """Occluding shapes with a power law of sizes, r**-3: the statistics of natural images."""
    colours = np.concatenate([draw_palette(rng, 6) for _ in range(3)])
    image, pen = _canvas(height, width, to_ink(colours[0]))
    count = int(min(400, 60 + height * width / 80))
    smallest, largest = 2.0, 0.4 * max(height, width)
    inverse = rng.uniform(largest**-2, smallest**-2, count)
    centres = rng.uniform(0, 1, (count, 2)) * (2 * width, 2 * height)
    aspects, picks = rng.uniform(0.4, 1.0, count), rng.integers(0, len(colours), count)
    square = rng.random() < 0.4
    turns = rng.uniform(0, np.pi, count)
    order = np.argsort(inverse + rng.uniform(0, smallest**-2, count) * rng.uniform(0.0, 0.3))
    radii, inks = 2.0 * inverse**-0.5, to_inks(colours[picks])
    angles = turns[:, None] + np.pi * np.array([0.25, 0.75, 1.25, 1.75])
    across = centres[:, :1] + radii[:, None] * np.cos(angles)
    down = centres[:, 1:] + (aspects * radii)[:, None] * np.sin(angles)
    corners = np.stack([across, down], 2).reshape(count, -1).tolist()
    reach = np.stack([radii, radii * aspects], 1)
    boxes = np.concatenate([centres - reach, centres + reach], 1).tolist()
    for index in order:
        if square:
            pen.polygon(corners[index], fill=inks[index])
        else:
            pen.ellipse(boxes[index], fill=inks[index])
    return _developed(image) * grain(rng, height, width, rng.uniform(0.0, 0.12))


def _foliage(rng: Generator, height: int, width: int) -> Array:
    palette = draw_palette(rng, 6)
    image, pen = _canvas(height, width, to_ink(0.5 * palette[0]))
    size = draw_size(rng, 3.0, 0.13 * max(height, width))
    count = int(np.clip(2.2 * height * width / size**2, 30, 450))
    centres = rng.uniform(-0.05, 1.05, (count, 2)) * (2 * width, 2 * height)
    angles, sizes = rng.uniform(0, 2 * np.pi, count), 2.0 * size * rng.uniform(0.6, 1.5, count)
    tones, slim = rng.normal(0, 0.08, count), rng.uniform(0.2, 0.45)
    order = np.arange(count) / count
    level = np.clip(0.15 + 0.85 * order + tones, 0.0, 1.0) * (len(palette) - 1)
    inks = to_inks(palette[level.astype(int)] * (0.55 + 0.45 * order)[:, None])
    outlines = leaf_outlines(angles, sizes, slim) + centres[:, None]
    for outline, ink in zip(outlines.reshape(count, -1).tolist(), inks, strict=True):
        pen.polygon(outline, fill=ink)
    return _developed(image)


def _print(rng: Generator, height: int, width: int) -> Array:
    paper, ink = draw_two_tone(rng)
    image, pen = _canvas(height, width, to_ink(paper))
    size = 2.0 * draw_size(rng, 6.0, 0.22 * max(height, width) + 4.0)
    draw_words(rng, pen, image.size, size, to_ink(ink))
    return _developed(image) * grain(rng, height, width, rng.uniform(0.0, 0.08))


def _wood(rng: Generator, height: int, width: int) -> Array:
    x, y = turned_grid(rng, height, width)
    period = draw_size(rng, 3.0, 14.0)
    bend = spectral_noise(rng, height, width, 1.8) * rng.uniform(0.5, 3.0)
    curve = rng.uniform(0, 0.004) * (x - x.mean()) ** 2 / period
    ring = (y / period + bend + curve) % 1.0
    level = np.where(ring < 0.85, ring / 0.85, (1.0 - ring) / 0.15)
    fibre = np.float32(0.25) * spectral_noise(rng, height, width, 0.8)
    return colourise(0.75 * level + 0.12 + 0.3 * fibre, draw_palette(rng, 4))


def _brick(rng: Generator, height: int, width: int) -> Array:
    x, y = turned_grid(rng, height, width)
    tall, joint = draw_size(rng, 4.0, 16.0), rng.uniform(0.7, 1.6)
    long = tall * rng.uniform(1.6, 3.2)
    row = np.floor(y / tall)
    shifted = x + 0.5 * long * (row % 2)
    column = np.floor(shifted / long)
    u, v = shifted - column * long, y - row * tall
    inside = np.clip(np.minimum(np.minimum(u, long - u), np.minimum(v, tall - v)) - joint / 2, 0, 1)
    shade = rng.random(4096, dtype=np.float32)[((row * 61 + column * 17) % 4096).astype(np.int32)]
    level = shade + 0.15 * spectral_noise(rng, height, width, 0.6)
    face, mortar = colourise(level, draw_palette(rng, 4)), to_linear(draw_palette(rng, 3)[2])
    return mortar[:, None, None] * (1.0 - inside) + face * inside


def _tiles(rng: Generator, height: int, width: int) -> Array:
    x, y = turned_grid(rng, height, width)
    side, joint = draw_size(rng, 4.0, 20.0), rng.uniform(0.5, 1.2)
    column, row = np.floor(x / side), np.floor(y / side)
    u, v = x - column * side, y - row * side
    inside = np.clip(np.minimum(np.minimum(u, side - u), np.minimum(v, side - v)) - joint / 2, 0, 1)
    colours = np.concatenate([draw_palette(rng, 3), draw_palette(rng, 3)])
    key = ((row * 37 + column * 101) % 1024).astype(np.int32)
    pick = rng.integers(0, rng.integers(2, 7), 1024)[key]
    face = to_linear(colours)[pick].transpose(2, 0, 1)
    gloss = 0.8 + 0.4 * (u * rng.uniform(-1, 1) + v * rng.uniform(-1, 1)) / side
    return face * gloss * inside + to_linear(draw_palette(rng, 3)[1])[:, None, None] * (1 - inside)


def _stripes(rng: Generator, height: int, width: int) -> Array:
    x, y = turned_grid(rng, height, width)
    first, second = draw_two_tone(rng)
    across, along = draw_size(rng, 3.5, 20.0), draw_size(rng, 3.5, 20.0)
    sharp = np.float32(across * 0.5)
    bars = np.clip(0.5 + sharp * np.sin(2 * np.pi * x / across) / np.pi, 0, 1)
    kind = rng.integers(0, 3)
    if kind == 0:
        mask = bars
    else:
        other = np.clip(0.5 + along * 0.5 * np.sin(2 * np.pi * y / along) / np.pi, 0, 1)
        mask = np.abs(bars - other) if kind == 1 else 0.5 * (bars + other)
    return _blend(mask, first, second) * grain(rng, height, width, rng.uniform(0.0, 0.1))


def _cells(rng: Generator, height: int, width: int) -> Array:
    """Voronoi cells of a jittered grid, with cracks where two cells meet."""
    pitch = draw_size(rng, 5.0, 22.0)
    x, y = turned_grid(rng, height, width)
    x, y = x / pitch + 2.0, y / pitch + 300.0
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    jitter = rng.random((2, 4096), dtype=np.float32)
    nearest = np.full((height, width), 9.0, np.float32)
    second, owner = nearest.copy(), np.zeros((height, width), np.int32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            key = ((row + dy) * 67 + (column + dx) * 29) % 4096
            away = np.hypot(column + dx + jitter[0][key] - x, row + dy + jitter[1][key] - y)
            closer = away < nearest
            second = np.where(closer, nearest, np.minimum(second, away))
            owner = np.where(closer, key, owner)
            nearest = np.minimum(nearest, away)
    crack = np.clip((second - nearest) * pitch * rng.uniform(0.4, 1.2), 0, 1)
    shade = rng.random(4096, dtype=np.float32)[owner]
    level = shade + 0.12 * spectral_noise(rng, height, width, 0.8)
    gap = to_linear(draw_palette(rng, 3)[0])[:, None, None]
    return gap + (colourise(level, draw_palette(rng, 4)) - gap) * crack


def _gradient(rng: Generator, height: int, width: int) -> Array:
    _, y = turned_grid(rng, height, width)
    level = (y - y.min()) / np.ptp(y) + np.float32(0.05) * spectral_noise(rng, height, width, 2.0)
    return colourise(level, draw_palette(rng, 3)[:: rng.choice([-1, 1])])


def _relief(rng: Generator, height: int, width: int) -> Array:
    """A rough surface under light from one side: plaster, rock, bark."""
    field = spectral_noise(rng, height, width, rng.uniform(1.3, 2.0), rng.choice([1.0, 1.0, 3.0]))
    gy, gx = np.gradient(field)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.float32(np.cos(angle)) * gx + np.float32(np.sin(angle)) * gy
    light = np.clip(1.0 + rng.uniform(0.2, 0.55) * slope / (slope.std() + 1e-6), 0.08, 2.5)
    return colourise(squash(0.5 * field), draw_palette(rng, 3)) * light


def _brushed(rng: Generator, height: int, width: int) -> Array:
    field = spectral_noise(rng, height, width, rng.uniform(0.5, 1.0), rng.uniform(6, 20))
    level = 0.5 + np.float32(rng.uniform(0.08, 0.25)) * field
    surface = colourise(level, draw_palette(rng, 3))
    return surface if rng.random() < 0.5 else np.ascontiguousarray(surface[:, ::-1])


def _spots(rng: Generator, height: int, width: int) -> Array:
    """Band-pass noise cut at a level: lichen, animal coats, terrazzo."""
    size = draw_size(rng, 4.0, 16.0)
    fy, fx = scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :]
    band = np.exp(-0.5 * ((np.hypot(fy, fx) * size - 1.0) / 0.25) ** 2)
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * band, s=(height, width)).astype(np.float32)
    field /= field.std() + 1e-6
    mask = np.clip(0.5 + (field - rng.uniform(-0.8, 0.8)) * size / 6.0, 0, 1)
    first, second = draw_two_tone(rng)
    return _blend(mask, first, second) * grain(rng, height, width, rng.uniform(0.0, 0.15))


def _marble(rng: Generator, height: int, width: int) -> Array:
    x, _ = turned_grid(rng, height, width)
    fold = spectral_noise(rng, height, width, rng.uniform(1.8, 2.3))
    fine = np.float32(0.15) * spectral_noise(rng, height, width, 1.1)
    phase = x * (np.pi / draw_size(rng, 8.0, 40.0)) + rng.uniform(1.5, 4.0) * fold + fine
    vein = (np.abs(np.sin(phase)) ** rng.uniform(0.25, 0.7)).astype(np.float32)
    return colourise(vein, draw_palette(rng, 4)[:: rng.choice([-1, 1])])


def _weave(rng: Generator, height: int, width: int) -> Array:
    """Twill: each thread passes over two and under two, with a rounded profile."""
    x, y = turned_grid(rng, height, width)
    pitch = draw_size(rng, 2.5, 8.0)
    u, v = x / pitch, y / pitch
    over = (np.floor(u) + np.floor(v)) % 4 < 2
    profile: Array = np.abs(np.sin(np.float32(np.pi) * np.where(over, u, v), dtype=np.float32))
    first, second = draw_two_tone(rng)
    if rng.random() < 0.5:
        second = np.float32(0.75) * first
    threads = np.where(over, to_linear(first)[:, None, None], to_linear(second)[:, None, None])
    return threads * (np.float32(0.2) + np.float32(0.8) * profile) * grain(rng, height, width, 0.08)


def _shingles(rng: Generator, height: int, width: int) -> Array:
    """Overlapping rounded scales: roofs, fish, feathers."""
    x, y = turned_grid(rng, height, width)
    pitch = draw_size(rng, 5.0, 16.0)
    step = pitch * rng.uniform(0.4, 0.7)
    level = np.zeros((height, width), np.float32)
    key = np.zeros((height, width), np.int32)
    base = np.floor(y / step)
    for behind in (0, 1, 2):
        row = base - behind
        shifted = x + 0.5 * pitch * (row % 2)
        column = np.floor(shifted / pitch)
        u = (shifted - (column + 0.5) * pitch) / (0.5 * pitch)
        down = (y - row * step) / step
        reach = 1.0 + np.sqrt(np.clip(1.0 - u * u, 0.0, 1.0))
        covers = down < reach
        tone = np.clip(0.35 + 0.65 * (down / reach), 0, 1)
        level, key = np.where(covers, tone, level), np.where(covers, row * 53 + column * 7, key)
    shade = rng.random(4096, dtype=np.float32)[(key % 4096).astype(np.int32)]
    return colourise(0.15 + 0.7 * shade, draw_palette(rng, 4)) * (0.25 + 0.75 * level)


def _strands(rng: Generator, height: int, width: int) -> Array:
    """Crossing blades: a lawn, straw, fur."""
    palette = draw_palette(rng, 6)
    image, pen = _canvas(height, width, to_ink(0.5 * palette[0]))
    length = 2.0 * draw_size(rng, 8.0, 30.0)
    count = int(np.clip(height * width / 25, 40, 500))
    feet = rng.uniform(-0.05, 1.1, (count, 2)) * (2 * width, 2 * height)
    lean = rng.uniform(-np.pi, 0.0) + rng.normal(0, rng.uniform(0.15, 0.6), count)
    reach = length * rng.uniform(0.5, 1.3, count)
    tips = feet + np.stack([np.cos(lean), np.sin(lean)], 1) * reach[:, None]
    picks, widths = rng.integers(0, 6, count), rng.integers(1, 4, count)
    inks = to_inks(palette[picks] * (0.5 + 0.5 * np.arange(count) / count)[:, None])
    lines = np.concatenate([feet, tips], 1).tolist()
    for line, ink, thick in zip(lines, inks, widths.tolist(), strict=True):
        pen.line(line, fill=ink, width=thick)
    return _developed(image)


_FAMILIES: dict[str, Texture] = {
    "fractal": _fractal,
    "dead_leaves": _dead_leaves,
    "foliage": _foliage,
    "print": _print,
    "wood": _wood,
    "brick": _brick,
    "tiles": _tiles,
    "stripes": _stripes,
    "cells": _cells,
    "gradient": _gradient,
    "relief": _relief,
    "brushed": _brushed,
    "spots": _spots,
    "marble": _marble,
    "weave": _weave,
    "shingles": _shingles,
    "strands": _strands,
}
HELDOUT_FAMILIES: tuple[str, ...] = ("marble", "weave", "shingles", "strands")
TRAIN_FAMILIES: tuple[str, ...] = tuple(n for n in _FAMILIES if n not in HELDOUT_FAMILIES)
