"""Structural similarity."""

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from genrefocus.metrics.info import TARGET, MetricInfo, of_batches, version_of
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32

SIGMA = 1.5
WINDOW = 11


@in_float32
def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of each image pair, per channel and averaged.

    Gaussian window of 11 x 11 px with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1 (Wang et al.
    2004). Only windows that lie wholly inside the image count: 54 x 54 of them in a 64 px image.

    Args:
        pred: (B, 3, H, W) in [0, 1], at least 11 px a side.
        target: same shape and range.

    Returns:
        (B,) float32 in [-1, 1]; NaN where an image of the pair is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), an image is smaller than the window, or
            values lie outside [0, 1].
    """
    valid = check_pair(pred, target, min_side=WINDOW)
    local, _ = ssim_map(pred, target)
    return nan_where_invalid(local.mean(dim=(1, 2)), valid)


@in_float32
def ssim_map(pred: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """SSIM of every window that lies wholly inside the image, averaged over channels.

    Args:
        pred: (B, 3, H, W) in [0, 1], at least 11 px a side.
        target: same shape and range.

    Returns:
        Map (B, H - 2 b, W - 2 b), at the windows' centres, and the width b of the border left out.
    """
    check_pair(pred, target, min_side=WINDOW)
    _, local = structural_similarity_index_measure(
        pred,
        target,
        gaussian_kernel=True,
        sigma=SIGMA,
        reduction="none",
        data_range=1.0,
        return_full_image=True,
    )
    # Releases of torchmetrics differ on whether windows over mirrored borders enter the mean.
    border = WINDOW // 2
    return local[..., border:-border, border:-border].mean(1), border


METRICS = (
    MetricInfo(
        "ssim",
        of_batches(ssim),
        "higher",
        TARGET,
        implementation=f"{version_of('torchmetrics')}, 11 px Gaussian",
    ),
)
