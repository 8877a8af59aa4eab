"""LVCorr: does blur grow with K?

One all-in-focus image is rendered at a fixed focus plane for K in {1, 5, 10, 15}. The more blur,
the smaller the variance of the Laplacian, so an obedient model has a *negative* Pearson
correlation between K and that variance. The published figures (such as +0.9368) are its negation,
and so is what this module reports: 1 is best, 0 is no relation, negative is the wrong direction.

A high LVCorr is no sign of the right *amount* of blur: an output next to the input can score above
the ground truth. Read it beside PSNR, SSIM and LPIPS, and beside the ground truth's own LVCorr.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genrefocus.metrics.precision import in_float32

PROTOCOL_K = (1.0, 5.0, 10.0, 15.0)

# A series that moves by less than this fraction of its largest value is rounding, not a response.
CONSTANT_FRACTION = 1e-6

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@in_float32
def laplacian_variance(images: Tensor) -> Tensor:
    """Variance of the Laplacian of each image: the customary measure of sharpness.

    Grey by BT.601 luma of the values as stored (sRGB), the 4-neighbour kernel
    [[0, 1, 0], [1, -4, 1], [0, 1, 0]], borders mirrored without repeating the edge pixel, and the
    population variance over all pixels.

    Args:
        images: (..., 3, H, W) in [0, 1], at least 2 px a side.

    Returns:
        (...) float32; NaN or infinite where an image is not finite.

    Raises:
        ValueError: not (..., 3, H, W).
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"images must have shape (..., 3, H, W), not {tuple(images.shape)}")
    flat = images.reshape(-1, *images.shape[-3:])
    luma = torch.tensor(_LUMA, device=flat.device).view(1, 3, 1, 1)
    grey = (flat * luma).sum(dim=1, keepdim=True)
    kernel = torch.tensor(_LAPLACIAN, device=flat.device).view(1, 1, 3, 3)
    response = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), kernel)
    return response.var(dim=(1, 2, 3), correction=0).reshape(images.shape[:-3])


@in_float32
def lvcorr(variances: Tensor, k: Sequence[float] | Tensor) -> Tensor:
    """Negated Pearson correlation of K with the Laplacian variance, per scene.

    Args:
        variances: (B, n) Laplacian variances of one scene rendered at each K, n >= 2.
        k: the n values of K, in the same order, not all equal.

    Returns:
        (B,) float32 in [-1, 1], 1 best. NaN where the series is not finite or is constant, which
        means that the output does not respond to K at all: to be counted as failed.

    Raises:
        ValueError: shapes do not fit, or K is constant.

    >>> lvcorr(torch.tensor([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), [1, 2, 3, 4])
    tensor([1., nan])
    """
    strengths = torch.as_tensor(k, dtype=torch.float32, device=variances.device)
    if variances.ndim != 2 or strengths.shape != variances.shape[1:]:
        raise ValueError(
            f"variances must have shape (B, n) for n values of K, not {tuple(variances.shape)} "
            f"for {strengths.numel()}"
        )
    if strengths.numel() < 2 or bool((strengths == strengths[0]).all()):
        raise ValueError(f"K must take at least two values, not {strengths.tolist()}")
    largest = variances.abs().amax(dim=1, keepdim=True)
    # Scaled first, so that the squares of tiny variances do not underflow.
    scaled = variances / torch.where(largest > 0, largest, 1.0)
    responds = scaled.amax(dim=1) - scaled.amin(dim=1) > CONSTANT_FRACTION
    x = strengths - strengths.mean()
    y = scaled - scaled.mean(dim=1, keepdim=True)
    pearson = (y * x).sum(dim=1) / (y.norm(dim=1) * x.norm())
    valid = responds & variances.isfinite().all(dim=1)
    return (-pearson).clamp(-1.0, 1.0).masked_fill(~valid, torch.nan)


def lvcorr_of_images(images: Tensor, k: Sequence[float] = PROTOCOL_K) -> Tensor:
    """LVCorr of scenes (B, n, 3, H, W) in [0, 1], rendered at each of the n values of K.

    Returns and errors as for :func:`lvcorr`.
    """
    return lvcorr(laplacian_variance(images), k)
