"""Classical methods without learning: baselines of a network, beside the unmodified input.

:func:`classical_bokeh` is that of rendering bokeh and refocusing, :func:`unsharp_mask` with the
settings of :func:`best_unsharp` that of deblurring.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.metrics.psnr import psnr
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import Aperture, disk
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

SIGMAS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
# 0 leaves the input unmodified, so the best of the grid is never below it on the images searched.
AMOUNTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def unsharp_mask(image: Tensor, sigma: float, amount: float) -> Tensor:
    """Classical sharpening of sRGB values: image + amount * (image - Gaussian blur), clipped.

    Args:
        image: (..., 3, H, W) in [0, 1], H and W larger than 4 sigma.
        sigma: standard deviation of the Gaussian in px, cut off at 4 sigma; > 0.
        amount: strength, >= 0; 0 returns the image.

    Returns:
        Same shape, in [0, 1].

    Raises:
        ValueError: sigma or amount out of range, or an image too small for sigma.
    """
    if amount < 0.0:
        raise ValueError(f"amount must be at least 0, not {amount}")
    return _sharpen(image, _blur(image, sigma), amount)


class Unsharp(NamedTuple):
    """Settings found by :func:`best_unsharp`; ``psnr`` is their mean over the images searched."""

    sigma: float
    amount: float
    psnr: float


def best_unsharp(
    blurry: Tensor,
    sharp: Tensor,
    *,
    sigmas: Sequence[float] = SIGMAS,
    amounts: Sequence[float] = AMOUNTS,
) -> Unsharp:
    """The unsharp mask with the highest mean PSNR on the given images, by exhaustive search.

    Give it validation images for a fair baseline: with the test images it has an advantage that no
    network has.

    Args:
        blurry: (N, 3, H, W) in [0, 1], H and W larger than 4 times the largest sigma.
        sharp: the targets, same shape and range.
        sigmas: standard deviations to try, in px.
        amounts: strengths to try.

    Raises:
        ValueError: shapes differ, there is no image, an image is not finite, or the grid is empty
            or out of range.
    """
    if not sigmas or not amounts or min(amounts) < 0.0:
        raise ValueError(f"nothing to search in sigmas {sigmas} and amounts {amounts}")
    candidates = []
    for sigma in sigmas:
        low = _blur(blurry, sigma)
        for amount in amounts:
            mean = psnr(_sharpen(blurry, low, amount), sharp).mean().item()
            candidates.append(Unsharp(float(sigma), float(amount), mean))
    best = max(candidates, key=lambda candidate: candidate.psnr)
    if not math.isfinite(best.psnr):
        raise ValueError(f"the search needs finite images and at least one; got {len(blurry)}")
    return best


def classical_bokeh(
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    aperture: Aperture | None = None,
) -> Tensor:
    """Depth of field by the scatter renderer, in linear light, from and to sRGB.

    Args:
        aif: (3, H, W) sRGB in [0, 1], all in focus.
        disparity: (H, W) in 1/m.
        focus_disparity: disparity in focus, 1/m.
        strength: K, stated for H x W.
        aperture: shape of the aperture; a disk by default.

    Returns:
        (3, H, W) sRGB in [0, 1].

    Raises:
        ValueError: sizes that disagree; see :func:`genrefocus.render.scatter.render_scatter`.
    """
    linear = render_scatter(
        srgb_to_linear(aif),
        disparity,
        focus_disparity=focus_disparity,
        strength=strength,
        aperture=aperture or disk(),
    )
    return linear_to_srgb(linear)


def _blur(image: Tensor, sigma: float) -> Tensor:
    if not sigma > 0.0:
        raise ValueError(f"sigma must be above 0 px, not {sigma}")
    reach = math.ceil(4.0 * sigma)
    if min(image.shape[-2:]) <= reach:
        raise ValueError(
            f"sigma {sigma} px needs an image of more than {reach} px a side, "
            f"not {image.shape[-2]} x {image.shape[-1]}"
        )
    return gaussian_blur(image, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def _sharpen(image: Tensor, low: Tensor, amount: float) -> Tensor:
    return (image + amount * (image - low)).clamp(0.0, 1.0)
