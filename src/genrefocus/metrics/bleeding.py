"""Does colour bleed across depth edges?

A renderer without occlusion spills the blurred background over a sharp foreground, or smears the
sharp foreground into the blurred background. Both are measured beside edges where something in
focus stands before something out of focus, as the excess share of the other side's colour over the
target.

At such an edge the right image does not depend on K on the near side, and hardly on the far one,
so that a wrong amount of blur alone is not bleeding.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from genrefocus.metrics.info import AIF, CONTROL, TARGET, MetricInfo
from genrefocus.metrics.pairs import check_pair
from genrefocus.metrics.precision import in_float32
from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.tone import srgb_to_linear

SHARP_PX = 1.0
"""The near side of an edge has a blur radius below this."""

BLURRED_PX = 2.0
"""The far side has a blur radius of at least this."""

BAND_PX = 6
"""Width of the bands beside edges."""

# The pixel at the edge itself mixes both colours in any image.
EDGE_PX = 1
MIN_PIXELS = 50
# Sides whose colours differ by less (rms of linear light) cannot show a mixture.
MIN_CONTRAST = 0.05


class Bleeding(NamedTuple):
    """Excess share of the other side's colour; 0 is right, NaN where no such edge can show it.

    Attributes:
        near: blurred background in the sharp foreground. Below 0, the foreground has less of it
            than the target has.
        far: sharp foreground in the blurred background, likewise.
    """

    near: float
    far: float


@in_float32
def measure_bleeding(
    pred: Tensor,
    target: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
) -> Bleeding:
    """Bleeding beside the depth edges of one image.

    In a band of ``BAND_PX`` px on either side, without the outermost ``EDGE_PX``, each pixel of the
    sharp image has a colour of its own, F, and a mean colour of the other side nearby, B, both
    in linear light. The share is the least-squares a in pred - target = a (B - F).

    Args:
        pred: (3, H, W) sRGB in [0, 1], the output.
        target: same shape and range.
        aif: same shape and range, all in focus.
        disparity: (H, W), 1/m.
        focus_disparity: of the target, 1/m.
        strength: K of the target, stated for H x W.

    Raises:
        ValueError: shapes differ or values lie outside [0, 1].
        Rejected: disparity or focus cannot be used.
    """
    check_pair(pred[None], target[None])
    check_pair(aif[None], target[None])
    defocus = signed_defocus(disparity, focus_disparity, strength)[None]
    sharp = defocus.abs() < SHARP_PX
    behind = defocus <= -BLURRED_PX
    difference = srgb_to_linear(pred) - srgb_to_linear(target)
    colours = srgb_to_linear(aif)
    return Bleeding(
        _share(difference, colours, own=sharp, other=behind),
        _share(difference, colours, own=behind, other=sharp),
    )


def _share(difference: Tensor, colours: Tensor, *, own: Tensor, other: Tensor) -> float:
    """Least-squares share of the other side's colour in the band on the own side."""
    band = own & _within(other, BAND_PX + EDGE_PX) & ~_within(~own, EDGE_PX)
    weight = _mean_around(other.float())
    away = _mean_around(colours * other) / weight.clamp_min(1e-6) - colours
    band &= away.square().mean(0, keepdim=True).sqrt() >= MIN_CONTRAST
    if int(band.sum()) < MIN_PIXELS:
        return float("nan")
    return float((difference * away * band).sum() / (away.square() * band).sum())


def _within(mask: Tensor, px: int) -> Tensor:
    """Pixels (1, H, W) that have one of `mask` at most `px` away, in rows and columns."""
    return max_pool2d(mask.float(), 2 * px + 1, 1, px) > 0


def _mean_around(values: Tensor) -> Tensor:
    reach = 2 * BAND_PX
    rows = avg_pool2d(values, (2 * reach + 1, 1), 1, (reach, 0))
    return avg_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))


def _share_of(side: str, pred: Tensor, **facts: Any) -> float:
    return float(getattr(measure_bleeding(pred, **facts), side))


def _mean_share(pred: Tensor, **facts: Any) -> float:
    """Mean magnitude over the sides that have a value."""
    return float(torch.tensor(measure_bleeding(pred, **facts)).abs().nanmean())


_NEEDS = CONTROL | AIF | TARGET

METRICS = (
    *(
        MetricInfo(f"bleeding_{side}", functools.partial(_share_of, side), "zero", _NEEDS)
        for side in Bleeding._fields
    ),
    MetricInfo("bleeding", _mean_share, "lower", _NEEDS),
)
