"""Peak signal-to-noise ratio."""

import torch
from torch import Tensor

from genrefocus.metrics.info import TARGET, MetricInfo, of_batches
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32

# Equal images have an infinite PSNR, and one of those would swallow every mean. The cap lies just
# above the 58.9 dB of rounding to 8 bits, so no difference that a stored image can show is lost.
CAP_DB = 60.0


@in_float32
def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """PSNR of each image pair in dB, over all pixels and channels, peak 1, at most ``CAP_DB``.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.

    Returns:
        (B,) float32; NaN where an image of the pair is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), or values lie outside [0, 1].

    >>> psnr(torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.6))
    tensor([20.0000])
    """
    valid = check_pair(pred, target)
    mse = (pred - target).square().mean(dim=(1, 2, 3))
    least = 10.0 ** (-CAP_DB / 10.0)
    return nan_where_invalid(-10.0 * torch.log10(mse.clamp_min(least)), valid)


METRICS = (MetricInfo("psnr", of_batches(psnr), "higher", TARGET, unit="dB"),)
