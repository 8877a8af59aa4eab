"""Linear light and sRGB (IEC 61966-2-1 transfer curve)."""

import torch
from torch import Tensor


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Encode linear light, any shape, as sRGB in [0, 1]; values outside [0, 1] are clipped.

    Clipping is what a sensor at its white level does: a light brighter than 1 is saturated.
    """
    clipped = linear.clamp(0.0, 1.0)
    power = 1.055 * clipped.clamp_min(0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(clipped <= 0.0031308, 12.92 * clipped, power)


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """Decode sRGB values in [0, 1], any shape, to linear light in [0, 1].

    >>> srgb_to_linear(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.2140, 1.0000])
    """
    power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, power)


def to_bytes(linear: Tensor) -> Tensor:
    """Linear light to 8-bit sRGB: float (...) of any range to uint8 of the same shape."""
    return (linear_to_srgb(linear) * 255.0).round().to(torch.uint8)
