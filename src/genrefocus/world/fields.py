"""Scalar fields that textures are made of: noise with a natural spectrum, turned grids, sizes."""

import numpy as np
import scipy.fft
from numpy.random import Generator

from genrefocus.world.palettes import Array


def spectral_noise(
    rng: Generator, height: int, width: int, slope: float, stretch: float = 1.0
) -> Array:
    """Gaussian noise (h, w), zero mean, unit deviation, amplitude spectrum 1 / f**slope.

    Natural images have slopes near 1. `stretch` > 1 elongates the structure along x.
    """
    white = rng.standard_normal((height, width), dtype=np.float32)
    fy = scipy.fft.fftfreq(height)[:, None].astype(np.float32)
    fx = scipy.fft.rfftfreq(width)[None, :].astype(np.float32) * np.float32(stretch)
    frequency = np.sqrt(fy * fy + fx * fx)
    frequency[0, 0] = 1.0
    spectrum = scipy.fft.rfft2(white) * frequency ** np.float32(-slope)
    spectrum[0, 0] = 0.0
    field = scipy.fft.irfft2(spectrum, s=(height, width))
    return field / (field.std() + 1e-6)


def turned_grid(rng: Generator, height: int, width: int) -> tuple[Array, Array]:
    """Pixel coordinates in a randomly turned and shifted frame; often level or plumb."""
    angle = rng.choice([0.0, np.pi / 2]) if rng.random() < 0.4 else rng.uniform(0, np.pi)
    origin = rng.uniform(0, 100, (2, 1, 1)).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + origin
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def draw_size(rng: Generator, low: float, high: float) -> float:
    """A feature size in px, log-uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def squash(field: Array) -> Array:
    """A field of zero mean and unit deviation brought smoothly into (0, 1)."""
    return 0.5 + 0.5 * np.tanh(0.8 * field)


def grain(rng: Generator, height: int, width: int, amount: float, slope: float = 0.7) -> Array:
    """A factor (h, w) around 1 that roughens a surface; `amount` is its standard deviation."""
    return 1.0 + np.float32(amount) * spectral_noise(rng, height, width, slope)
