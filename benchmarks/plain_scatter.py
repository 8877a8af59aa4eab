"""The plain scatter renderer, the yardstick of accuracy and speed: no layers, no order.

Every pixel is spread over its disc, vectorised over the pixels and looped over the offsets; what
arrives is divided by its weight. Cost grows with the square of the greatest blur radius.
"""

import math

import torch
from torch import Tensor

from genrefocus.optics import BlurStrength, blur_radius


def render_plain(
    image: Tensor, disparity: Tensor, *, focus_disparity: float, strength: BlurStrength
) -> Tensor:
    """Spread every pixel of (3, H, W) linear light over a disc of radius K |d - d_f| px.

    Discs are drawn as `Aperture.kernel` draws them, but at the exact radius of each pixel.
    """
    radius = blur_radius(disparity, focus_disparity, strength).to(image.dtype)
    return spread(image, radius, offsets(float(radius.max())))


def offsets(radius: float) -> list[tuple[int, int]]:
    """Offsets (down, along) that discs of up to `radius` px reach, their soft edge included."""
    reach = math.ceil(max(radius, 1.0) + 0.5)
    span = range(-reach, reach + 1)
    return [(y, x) for y in span for x in span if math.hypot(y, x) < max(radius, 1.0) + 0.5]


def spread(image: Tensor, radius: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    """Scatter to the given offsets; (3, H, W)."""
    height, width = radius.shape
    # A disc of drawn radius has second moment drawn^2 / 4 + 1 / 12 on the grid of pixels.
    square = radius.square() - 1.0 / 3.0
    drawn = square.clamp_min(1.0).sqrt()
    share, weight = _share_and_weight(radius, square, drawn)
    reach = max(max(abs(y), abs(x)) for y, x in steps)
    light = torch.cat([image, torch.ones_like(radius)[None]])
    total = light.new_zeros(4, height + 2 * reach, width + 2 * reach)
    for y, x in steps:
        cover = (drawn + (0.5 - math.hypot(y, x))).clamp_(0.0, 1.0).mul_(weight)
        if y == 0 and x == 0:
            cover += 1.0 - share
        rows, columns = slice(reach + y, reach + y + height), slice(reach + x, reach + x + width)
        total[:, rows, columns].addcmul_(light, cover)
    inner = total[:, reach : reach + height, reach : reach + width]
    return inner[:3] / inner[3].clamp_min(1e-6)


def _share_and_weight(radius: Tensor, square: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the smallest disc in blur below it, and the weight of a disc's pixels."""
    # Of the smallest disc, radius 1: coverage 1, four times 1/2, four times 3/2 - sqrt(2).
    corner = 1.5 - math.sqrt(2.0)
    area = 1.0 + 4 * 0.5 + 4 * corner
    moment = (4 * 0.5 * 1.0 + 4 * corner * 2.0) / area / 2.0
    small = square < 1.0
    share = torch.where(small, (0.25 * radius.square() / moment).clamp_max(1.0), 1.0)
    # Larger discs: the sum of their soft coverage is their area within 1 %.
    whole = torch.where(small, area, math.pi * (drawn.square() + 1.0 / 12.0))
    return share, share / whole
