"""What a valid pair of image batches is, for every full-reference metric."""

import torch
from torch import Tensor

# Interpolation and 32-bit arithmetic overshoot [0, 1] by far less; a wrong range ([-1, 1] or
# [0, 255]) exceeds it by far more.
RANGE_TOLERANCE = 1e-3


def check_pair(pred: Tensor, target: Tensor, *, min_side: int = 1) -> Tensor:
    """Check two image batches and say which pairs can be measured at all.

    Args:
        pred: (B, 3, H, W) floating point in [0, 1].
        target: as ``pred``; shapes that differ are an error, never a resize.
        min_side: smallest height and width that the metric is defined for, in pixels.

    Returns:
        (B,) bool: True where both images of the pair are finite. The value of any other pair is
        to be reported as NaN, so that it counts as failed.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), an image is smaller than ``min_side``,
            a dtype is not floating point, or a finite value lies outside [0, 1].
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"image shapes differ: {tuple(pred.shape)} and {tuple(target.shape)}; "
            "bring both to one size before measuring"
        )
    if pred.ndim != 4 or pred.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(pred.shape)}")
    if min(pred.shape[-2:]) < min_side:
        raise ValueError(
            f"images of {pred.shape[-2]} x {pred.shape[-1]} px are too small for this metric; "
            f"it needs at least {min_side} px a side"
        )
    for name, images in (("pred", pred), ("target", target)):
        _check_range(name, images)
    return pred.isfinite().all(dim=(1, 2, 3)) & target.isfinite().all(dim=(1, 2, 3))


def nan_where_invalid(values: Tensor, valid: Tensor) -> Tensor:
    """Per-image values (B,), with NaN wherever ``valid`` (B,) is False."""
    return values.masked_fill(~valid, torch.nan)


def _check_range(name: str, images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"{name} must be floating point in [0, 1], not {images.dtype}")
    finite = images.detach().nan_to_num(nan=0.5, posinf=0.5, neginf=0.5)
    if finite.numel() == 0:
        return
    low, high = finite.amin().item(), finite.amax().item()
    if low < -RANGE_TOLERANCE or high > 1.0 + RANGE_TOLERANCE:
        raise ValueError(f"{name} has values in [{low:.4g}, {high:.4g}]; scale it to [0, 1] first")
