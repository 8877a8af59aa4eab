"""Colours of procedural scenes: palettes around natural hues, and maps from a scalar to colour."""

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from genrefocus.render.tone import srgb_to_linear

Array = NDArray[np.float32]

LINEAR_OF_BYTE: Array = srgb_to_linear(torch.arange(256) / 255.0).numpy()

# (hue, spread of hue, least and greatest saturation, weight): foliage, sky, wood and skin, earth,
# stone, red brick, straw, water, and anything at all (painted things, clothes, flowers).
_HUES = (
    (0.27, 0.05, 0.25, 0.75, 2.0),
    (0.58, 0.03, 0.10, 0.65, 1.5),
    (0.06, 0.03, 0.25, 0.70, 2.0),
    (0.10, 0.03, 0.10, 0.55, 1.5),
    (0.10, 0.30, 0.00, 0.10, 2.0),
    (0.01, 0.02, 0.35, 0.80, 1.0),
    (0.14, 0.02, 0.30, 0.80, 1.0),
    (0.50, 0.05, 0.15, 0.60, 0.7),
    (0.50, 0.50, 0.30, 0.95, 2.3),
)
_WEIGHTS = np.array([entry[4] for entry in _HUES]) / sum(entry[4] for entry in _HUES)


def draw_palette(rng: Generator, count: int) -> Array:
    """Draw `count` sRGB colours, dark to bright, as (count, 3) float32 in [0, 1].

    Colours of one palette share a hue region; brightness varies more than hue, as on a surface.
    """
    hue, hue_spread, low, high, _ = _HUES[int(rng.choice(len(_HUES), p=_WEIGHTS))]
    hues = hue + hue_spread * rng.uniform(-1, 1) + rng.normal(0, 0.025, count)
    saturation = np.clip(rng.uniform(low, high) + rng.normal(0, 0.08, count), 0.0, 1.0)
    centre, contrast = rng.uniform(0.3, 0.75), rng.uniform(0.12, 0.4)
    steps = np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1)
    value = np.clip(centre + contrast * steps + rng.normal(0, 0.04, count), 0.04, 0.98)
    return _hsv_to_rgb(hues, saturation, value)


def draw_two_tone(rng: Generator) -> tuple[Array, Array]:
    """Draw two sRGB colours of different palettes and clearly different brightness, each (3,)."""
    first, second = draw_palette(rng, 3), draw_palette(rng, 3)
    return (first[0], second[2]) if rng.random() < 0.5 else (first[2], second[0])


def colourise(level: Array, palette: Array) -> Array:
    """Map a field (h, w) in [0, 1] through a palette (n, 3) to linear light (3, h, w)."""
    stops = np.linspace(0.0, 1.0, len(palette))
    ramp = np.linspace(0.0, 1.0, 1024)
    table = np.stack([np.interp(ramp, stops, palette[:, c]) for c in range(3)])
    linear = LINEAR_OF_BYTE[np.clip(np.rint(table * 255), 0, 255).astype(np.uint8)]
    return linear[:, np.clip(level * 1023.0, 0, 1023).astype(np.int32)]


def to_linear(srgb: Array) -> Array:
    """An sRGB colour (..., 3) in [0, 1] as linear light, same shape."""
    return LINEAR_OF_BYTE[np.clip(np.rint(srgb * 255), 0, 255).astype(np.uint8)]


def to_inks(srgb: NDArray[np.floating]) -> list[tuple[int, int, int]]:
    """sRGB colours (n, 3) in [0, 1] as the byte triples that drawing functions take."""
    levels = np.rint(np.clip(srgb, 0.0, 1.0) * 255).astype(int).tolist()
    return [(red, green, blue) for red, green, blue in levels]


def to_ink(srgb: Array) -> tuple[int, int, int]:
    """One sRGB colour (3,), see `to_inks`."""
    return to_inks(srgb[None])[0]


def _hsv_to_rgb(hue: NDArray, saturation: NDArray, value: NDArray) -> Array:
    sector = (np.array([5.0, 3.0, 1.0]) + hue[:, None] * 6.0) % 6.0
    ramp = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    return (value[:, None] * (1.0 - saturation[:, None] * ramp)).astype(np.float32)
