"""Point lights, added in linear light: their colours, where they stand, and night exposures.

A light far above white is what draws the shape of an aperture. `add_lights` puts some on the
surfaces of a sharp image before it is rendered; `darkened` and `sharpened` are the usual steps
before that. `night` builds whole scenes of them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from torch import Tensor

from genrefocus.optics import require_one_size
from genrefocus.rejection import Reason, Rejected

Colour = NDArray[np.float64]

_REACH = 3
"""Half the window in px that a light needs on one surface; all of its light falls within."""
_EDGE = 0.05
"""Spread of disparity in that window, over the spread of the image, that counts as an edge."""
_NEAR_SHARE = 0.05
"""How often lights stand on the nearest surfaces, against 1 for the farthest."""
_GROUP_SPREAD = 0.1
"""Standard deviation of lights about the first of their group, over the image's longer side."""

# Planck's second constant, m K. Analytic fits to the CIE 1931 observer (Wyman, Sloan and Shirley
# 2013): for X, Y, Z lobes of (weight, centre, width below, width above), in nm.
_RADIATION = 1.438776877e-2
_OBSERVER = (
    ((1.056, 599.8, 37.9, 31.0), (0.362, 442.0, 16.0, 26.7), (-0.065, 501.1, 20.4, 26.2)),
    ((0.821, 568.8, 46.9, 40.5), (0.286, 530.9, 16.3, 31.1)),
    ((1.217, 437.0, 11.8, 36.0), (0.681, 459.0, 26.0, 13.8)),
)
_XYZ_TO_SRGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)

# Linear light of emitters with narrow bands: red, amber, green, cyan, blue, violet, magenta.
_NARROW = np.array(
    [
        [1.0, 0.02, 0.02],
        [1.0, 0.35, 0.01],
        [0.04, 1.0, 0.10],
        [0.03, 0.85, 1.0],
        [0.03, 0.10, 1.0],
        [0.40, 0.05, 1.0],
        [1.0, 0.04, 0.45],
    ]
)


@dataclass(frozen=True)
class PointLight:
    """One light that was added to an image.

    Attributes:
        x, y: its centre in px; (0, 0) is the centre of the first pixel.
        disparity: of the surface that it stands on, 1/m.
        energy: the light it adds, summed over pixels and averaged over channels; 1 is a white
            pixel. Blurred to a radius of r px, a disc of it is as bright as white at pi r^2.
        colour: linear RGB with a mean of 1.
        size: standard deviation of its Gaussian footprint in px.
    """

    x: float
    y: float
    disparity: float
    energy: float
    colour: tuple[float, float, float]
    size: float


@dataclass(frozen=True)
class Night:
    """A night exposure: linear light is multiplied by `gain` and, per channel, by `tint`."""

    gain: float
    tint: tuple[float, float, float]


def black_body(temperature: float, white: float = 6500.0) -> Colour:
    """Linear sRGB (3,) with a mean of 1 of a black body, for a camera balanced to another.

    Planck's law seen by the CIE 1931 observer; both temperatures in kelvin. The camera divides
    channels by those of `white`, at which the result is grey. What lies outside sRGB is clipped.
    Raises ValueError below 1000 K.
    """
    if min(temperature, white) < 1000.0:
        raise ValueError(f"colour temperatures are 1000 K or more, got {temperature}, {white}")
    seen, balance = (_XYZ_TO_SRGB @ tristimulus(t) for t in (temperature, white))
    colour = np.clip(seen, 0.0, None) / np.clip(balance, 1e-2 * balance.max(), None)
    return colour / colour.mean()


def tristimulus(temperature: float) -> Colour:
    """CIE 1931 X, Y, Z (3,) of a black body in kelvin, on a scale with Y = 1."""
    wavelength = np.arange(360.0, 831.0, 5.0)
    power = wavelength**-5.0 / np.expm1(_RADIATION / (wavelength * 1e-9 * temperature))
    xyz = np.array([(_response(lobes, wavelength) * power).sum() for lobes in _OBSERVER])
    return xyz / xyz[1]


def _response(lobes: tuple[tuple[float, ...], ...], wavelength: Colour) -> Colour:
    total = np.zeros_like(wavelength)
    for weight, centre, below, above in lobes:
        width = np.where(wavelength < centre, below, above)
        total += weight * np.exp(-0.5 * ((wavelength - centre) / width) ** 2)
    return total


def draw_light_colours(rng: Generator, count: int) -> Colour:
    """Draw colours (count, 3) of lights that belong together, linear RGB with means of 1.

    Half of the draws are lamps: black bodies of 1900 to 7000 K, alike within one draw, seen by a
    camera balanced to 3200 to 6500 K. The others are LEDs or neon: one to four narrow bands,
    somewhat mixed with white.
    """
    if rng.random() < 0.5:
        white, about = rng.uniform(3200.0, 6500.0), math.exp(rng.uniform(*np.log([1900, 7000])))
        kelvin = np.clip(about * np.exp(rng.normal(0.0, 0.08, count)), 1800.0, 9000.0)
        return np.array([black_body(float(t), white) for t in kelvin]).reshape(count, 3)
    bands = rng.choice(len(_NARROW), int(rng.integers(1, 5)), replace=False)
    white_share = rng.beta(1.0, 4.0, (len(bands), 1))
    palette = (1.0 - white_share) * _NARROW[bands] + white_share
    colours = palette[rng.integers(len(bands), size=count)]
    return colours / colours.mean(1, keepdims=True)


def draw_night(rng: Generator, *, mean: tuple[float, float] = (0.004, 0.04)) -> Night:
    """Draw a night exposure for an image whose mean linear light is about 0.2.

    The mean becomes log-uniform in `mean`; the tint is that of moonlight or street light, a black
    body of 2500 to 12000 K for a camera balanced to 4000 to 6500 K.
    """
    low, high = mean
    gain = math.exp(rng.uniform(math.log(low), math.log(high))) / 0.2
    tint = black_body(math.exp(rng.uniform(*np.log([2500, 12000]))), rng.uniform(4000, 6500))
    return Night(gain, (float(tint[0]), float(tint[1]), float(tint[2])))


def darkened(image: Tensor, night: Night) -> Tensor:
    """The image (3, H, W), linear light, under a night exposure."""
    return image * (night.gain * image.new_tensor(night.tint)[:, None, None])


def sharpened(image: Tensor, *, amount: float, radius: float = 1.0) -> Tensor:
    """Unsharp masking of linear light (3, H, W), >= 0: detail within `radius` px, times 1 + amount.

    Sharpen before lights are added: around a light far above white it would draw a dark ring.
    """
    soft = gaussian_filter(image.numpy(), (0.0, radius, radius), mode="nearest")
    return (image + amount * (image - torch.from_numpy(soft))).clamp_min(0.0)


def add_lights(
    image: Tensor,
    disparity: Tensor,
    rng: Generator,
    *,
    count: int,
    energies: tuple[float, float],
    groups: int = 3,
    where: Tensor | None = None,
) -> tuple[Tensor, tuple[PointLight, ...]]:
    """Add point lights to a sharp image.

    Where: pixels count only if the disparity in the 7 x 7 px around them spreads by less than 5 %
    of the spread of the image, so that a light lies on one surface and not over an edge. Of
    these, one at relative disparity q (0 farthest, 1 nearest) is taken in proportion to
    (1 - q)^2 + 0.05: far surfaces carry more lights. Lights come in `groups` that share colours
    (`draw_light_colours`); about half of a group stands near its first light.

    Args:
        image: (3, H, W) linear light, >= 0.
        disparity: (H, W) in 1/m.
        rng: the only source of randomness.
        count: number of lights, >= 1.
        energies: least and greatest energy of a light, see `PointLight`; log-uniform between.
        groups: number of colour groups, >= 1.
        where: (H, W) bool, pixels that lights may stand on; None for all.

    Returns:
        The image with lights, (3, H, W) float32, not clipped, and the lights.

    Raises:
        Rejected: ``no_place_for_lights`` where no pixel lies on one surface, ``non_finite``.
        ValueError: sizes that disagree, or numbers out of range.
    """
    require_one_size(image, disparity)
    low, high = energies
    if count < 1 or groups < 1 or not 0.0 < low <= high:
        raise ValueError(
            f"lights need count and groups >= 1 and 0 < least <= greatest energy, "
            f"got {count}, {groups} and {energies}"
        )
    bad = int((~torch.isfinite(disparity)).sum())
    if bad:
        raise Rejected(
            Reason.NON_FINITE, bad, f"disparity: {bad} of {disparity.numel()} values are not finite"
        )
    depth = disparity.numpy().astype(np.float64)
    weight = _chances(depth, True if where is None else where.numpy())
    added = np.zeros((3, *depth.shape))
    lights = []
    for members in np.array_split(np.arange(count), min(groups, count)):
        colours = draw_light_colours(rng, len(members))
        for (row, column), colour in zip(_places(weight, len(members), rng), colours, strict=True):
            energy = math.exp(rng.uniform(math.log(low), math.log(high)))
            shift, size = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.45, 0.8)
            red, green, blue = (float(c) for c in colour)
            light = PointLight(
                float(column + shift[0]),
                float(row + shift[1]),
                float(depth[row, column]),
                energy,
                (red, green, blue),
                float(size),
            )
            window = _around(row, column)
            added[:, *window] += _footprint(light, row, column)
            lights.append(light)
    return (image.double() + torch.from_numpy(added)).float(), tuple(lights)


def _chances(depth: NDArray[np.float64], where: NDArray[np.bool_] | bool) -> NDArray[np.float64]:
    """How often a light stands at each pixel, (H, W), up to a common factor."""
    side, spread = 2 * _REACH + 1, float(depth.max() - depth.min())
    local = maximum_filter(depth, side) - minimum_filter(depth, side)
    allowed = local <= _EDGE * spread
    border = np.zeros_like(allowed)
    border[_REACH:-_REACH, _REACH:-_REACH] = True
    allowed &= border & where
    if not allowed.any():
        raise Rejected(
            Reason.NO_PLACE_FOR_LIGHTS,
            float(local.min()),
            f"every {side} x {side} px window spreads by more than {_EDGE * spread:.4g} 1/m; "
            "use a larger image or smoother depth",
        )
    nearness = (depth - depth.min()) / max(spread, 1e-12)
    return np.where(allowed, (1.0 - nearness) ** 2 + _NEAR_SHARE, 0.0)


def _places(weight: NDArray[np.float64], count: int, rng: Generator) -> list[tuple[int, int]]:
    """Pixels (row, column) of one group: the first by weight, half of the others near it."""
    everywhere = near = np.cumsum(weight)
    places: list[tuple[int, int]] = []
    for number in range(count):
        total = near if number and rng.random() < 0.5 else everywhere
        index = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        row, column = divmod(index, weight.shape[1])
        places.append((row, column))
        if number == 0:
            y = np.arange(weight.shape[0])[:, None] - row
            x = np.arange(weight.shape[1]) - column
            across = _GROUP_SPREAD * max(weight.shape)
            near = np.cumsum(weight * np.exp(-0.5 * (x**2 + y**2) / across**2))
    return places


def _around(row: int, column: int) -> tuple[slice, slice]:
    return (
        slice(row - _REACH, row + _REACH + 1),
        slice(column - _REACH, column + _REACH + 1),
    )


def _footprint(light: PointLight, row: int, column: int) -> NDArray[np.float64]:
    """What a light adds to the pixels around (row, column), (3, n, n): a sampled Gaussian."""
    axis = np.arange(-_REACH, _REACH + 1)
    x, y = axis + column - light.x, axis[:, None] + row - light.y
    drawn = np.exp(-0.5 * (x**2 + y**2) / light.size**2)
    return light.energy * np.array(light.colour)[:, None, None] * drawn / drawn.sum()
