"""Is the output sharpest at the requested distance?

The blur radius of an output is measured patch by patch (:mod:`genrefocus.metrics.blur_radius`).
It is sharpest at the disparity d_f for which radii K * |d - d_f| agree best with the measured ones,
with K free: so a wrong amount of blur does not count as a wrong focus, and the plane is found even
where no textured surface lies in it.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrefocus.metrics.blur_radius import RadiusPatches, measure_radii
from genrefocus.metrics.info import AIF, CONTROL, MetricInfo

MIN_PATCHES = 4
# Candidates reach beyond the scene by this part of its range of disparity.
MARGIN, CANDIDATES = 0.25, 601
# Blur that differs by less than this over the patches has no plane of focus, px.
MIN_RESPONSE = 0.5
# Radii are measured to about this, px: a smaller deviation is no better.
ROUNDING = 0.05
# A plane must leave no more of the blur unexplained than this share, by the median patch.
MAX_DEVIATION = 0.25


class FocusPlane(NamedTuple):
    """Where an output is sharpest, and how its blur grows from there.

    Attributes:
        disparity: of the plane of focus, 1/m; NaN where none is found.
        k: blur radius in px per 1/m; NaN likewise.
    """

    disparity: float
    k: float


def find_focus(patches: RadiusPatches, k: float) -> FocusPlane:
    """The plane of focus that explains the measured radii best, by least absolute deviation.

    Two or three surfaces can be explained by a plane on either side of one of them, with different
    K. So deviation is weighed with how far K lies from the requested one: a K that is off by a
    factor of e must explain the radii in half the deviation.

    Args:
        patches: measured, see :func:`genrefocus.metrics.blur_radius.measure_radii`.
        k: requested, px at 1/m, > 0.

    Returns:
        NaN where the plane cannot be determined: fewer than ``MIN_PATCHES`` count, the radii that
        the plane explains differ by less than half a pixel over the patches (without depth of field
        there is no plane of focus), the smallest of them is more than half of the largest (all
        patches lie far to one side, where another focus and another K look the same), or the best
        plane leaves a quarter of the blur unexplained (by medians).
    """
    nothing = FocusPlane(math.nan, math.nan)
    if len(patches.measured) < MIN_PATCHES:
        return nothing
    low, high = patches.span
    reach = MARGIN * (high - low)
    grid = torch.linspace(max(0.0, low - reach), high + reach, CANDIDATES).to(patches.measured)
    away = (patches.disparity - grid[:, None]).abs()
    found = _weighted_median(patches.measured / away.clamp_min(1e-6), away)
    deviation = (found[:, None] * away - patches.measured).abs().mean(1)
    best = int(((deviation + ROUNDING) * (1.0 + (found / k).log().abs())).argmin())
    explained = found[best] * away[best]
    smallest, largest = (float(end) for end in explained.aminmax())
    if largest - smallest < MIN_RESPONSE or smallest > 0.5 * largest:
        return nothing
    unexplained = float((explained - patches.measured).abs().median())
    if unexplained > MAX_DEVIATION * float(patches.measured.median()) + ROUNDING:
        return nothing
    return FocusPlane(float(grid[best]), float(found[best]))


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Along the last dimension: (G, n), (G, n) to (G,). It minimises sum of w |v - median|."""
    ordered, order = values.sort(dim=-1)
    passed = weights.gather(-1, order).cumsum(-1)
    middle = (passed < 0.5 * passed[..., -1:]).sum(-1, keepdim=True)
    return ordered.gather(-1, middle.clamp_max(values.shape[-1] - 1))[..., 0]


def _error(pred: Tensor, *, in_px: bool, **facts: Any) -> float:
    requested, k = facts["focus_disparity"], facts["strength"].k
    error = abs(find_focus(measure_radii(pred, **facts), k).disparity - requested)
    return error * k if in_px else error


METRICS = tuple(
    MetricInfo(name, functools.partial(_error, in_px=unit == "px"), "lower", CONTROL | AIF, unit)
    for name, unit in (("focus_plane_error", "1/m"), ("focus_plane_error_px", "px"))
)
