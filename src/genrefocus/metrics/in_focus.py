"""Fidelity where the output should be sharp: PSNR, SSIM and LPIPS inside the in-focus region.

In focus is what has an asked blur radius below half a pixel. There the whole difference between a
good and a bad output is detail, which whole-image figures drown in the blurred rest.

Outside the region the output is replaced by the target before anything is measured, so that windows
and receptive fields that reach across its border see no difference there; then the map of the
metric is averaged over the region.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from genrefocus.metrics.lpips import lpips_map, require_trunk
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.psnr import CAP_DB
from genrefocus.metrics.ssim import ssim_map
from genrefocus.metrics.tally import Tally
from genrefocus.optics import BlurStrength, blur_radius

IN_FOCUS_PX = 0.5
"""Blur radius in px below which a pixel is in focus."""

LEAST_PIXELS = 64

Measure = Literal["psnr", "ssim", "lpips"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


def in_focus_region(
    disparity: Tensor, *, focus_disparity: Sequence[float], strength: Sequence[BlurStrength]
) -> Tensor:
    """Pixels (B, H, W) with an asked blur radius below half a pixel.

    Args:
        disparity: (B, H, W), 1/m.
        focus_disparity: B values, 1/m.
        strength: B values of K, stated for H x W.
    """
    radii = [
        blur_radius(one, focus, k)
        for one, focus, k in zip(disparity, focus_disparity, strength, strict=True)
    ]
    return torch.stack(radii) < IN_FOCUS_PX


@in_float32
def in_focus(pred: Tensor, target: Tensor, region: Tensor, *, measure: Measure) -> Tensor:
    """PSNR (dB, capped), SSIM or LPIPS (alex) inside a region.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.
        region: (B, H, W) bool, see :func:`in_focus_region`.
        measure: which.

    Returns:
        (B,) float32; NaN where an image is not finite or its region has fewer than 64 px.

    Raises:
        ValueError: shapes differ, images are too small, values lie outside [0, 1], or an unknown
            measure.
        NotAvailable: LPIPS without its trunk.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; choose one of {', '.join(MEASURES)}")
    if region.shape != pred.shape[:1] + pred.shape[2:]:
        raise ValueError(f"region is {tuple(region.shape)} but images are {tuple(pred.shape)}")
    valid = check_pair(pred, target) & (region.sum((1, 2)) >= LEAST_PIXELS)
    pred, target = (x.nan_to_num(0.0, 0.0, 0.0) for x in (pred, target))
    seen = torch.where(region[:, None], pred, target)
    if measure == "psnr":
        error = _mean((seen - target).square().mean(1), region)
        values = -10.0 * error.clamp_min(10.0 ** (-CAP_DB / 10.0)).log10()
    elif measure == "ssim":
        local, border = ssim_map(seen, target)
        inside = region[:, border:-border, border:-border]
        values = _mean(local, inside)
        valid &= inside.any(2).any(1)
    else:
        values = _mean(lpips_map(seen, target), region)
    return nan_where_invalid(values, valid)


class InFocus(Tally):
    """Mean of :func:`in_focus` over all images seen; see :class:`Summary`.

    Raises:
        NotAvailable: at construction, LPIPS without its trunk.
    """

    def __init__(self, measure: Measure, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if measure == "lpips":
            require_trunk("alex")
        self.measure = measure

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a larger figure is a better one."""
        return self.measure != "lpips"

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, region: Tensor) -> None:
        """Add a batch: (B, 3, H, W), (B, 3, H, W) in [0, 1], (B, H, W) bool."""
        self.record(in_focus(pred, target, region, measure=self.measure))


def _mean(values: Tensor, region: Tensor) -> Tensor:
    return (values * region).sum((1, 2)) / region.sum((1, 2)).clamp_min(1)
