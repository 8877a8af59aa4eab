"""Fidelity where the output should be sharp: PSNR, SSIM and LPIPS inside the in-focus region.

A pixel is in focus if its requested blur radius is below half a pixel. There the whole difference
between a good and a bad output is detail, which whole-image figures drown in the blurred rest.

Outside the region the output is replaced by the target before anything is measured, so that windows
and receptive fields that reach across its border see no difference there; then the map of the
metric is averaged over the region.
"""

import functools
from typing import Literal, get_args

import torch
from torch import Tensor

from genrefocus.metrics.info import CONTROL, OWN, TARGET, MetricInfo, version_of
from genrefocus.metrics.lpips import lpips_map
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.psnr import CAP_DB
from genrefocus.metrics.ssim import ssim_map
from genrefocus.metrics.trunks import require_trunk, trunk_hash
from genrefocus.optics import BlurStrength, blur_radius

IN_FOCUS_PX = 0.5
"""Blur radius in px below which a pixel is in focus."""

MIN_PIXELS = 64

Measure = Literal["psnr", "ssim", "lpips"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@in_float32
def in_focus(pred: Tensor, target: Tensor, region: Tensor, *, measure: Measure) -> Tensor:
    """PSNR (dB, capped), SSIM or LPIPS (alex) inside a region.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.
        region: (B, H, W) bool, where it is in focus.
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
    valid = check_pair(pred, target) & (region.sum((1, 2)) >= MIN_PIXELS)
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


def _mean(values: Tensor, region: Tensor) -> Tensor:
    return (values * region).sum((1, 2)) / region.sum((1, 2)).clamp_min(1)


def _info(measure: Measure) -> MetricInfo:
    def value(
        pred: Tensor,
        target: Tensor,
        disparity: Tensor,
        focus_disparity: float,
        strength: BlurStrength,
    ) -> float:
        region = blur_radius(disparity, focus_disparity, strength) < IN_FOCUS_PX
        with torch.no_grad():
            return float(in_focus(pred[None], target[None], region[None], measure=measure))

    needs = CONTROL | TARGET
    if measure != "lpips":
        unit = "dB" if measure == "psnr" else ""
        return MetricInfo(f"in_focus_{measure}", value, "higher", needs, unit)
    return MetricInfo(
        "in_focus_lpips",
        value,
        "lower",
        needs,
        implementation=f"{OWN}, {version_of('lpips')}, v0.1, alex",
        require=functools.partial(require_trunk, "alex"),
        hash_weights=functools.partial(trunk_hash, "alex"),
    )


METRICS = tuple(_info(measure) for measure in MEASURES)
