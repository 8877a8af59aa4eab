"""Is the output sharpest at the distance that was asked for?

The blur radius of an output is measured patch by patch (:mod:`genrefocus.metrics.blur_radius`).
Where it is sharpest is the disparity d_f for which radii K * |d - d_f| agree best with what was
measured, with K free: so a wrong amount of blur does not count as a wrong focus, and the plane is
found even where no textured surface lies in it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genrefocus.metrics.blur_radius import WINDOW, RadiusPatches, measure_radii
from genrefocus.metrics.pairs import check_pair, for_each_valid
from genrefocus.metrics.tally import Tally
from genrefocus.optics import BlurStrength

LEAST_PATCHES = 4
# Candidates reach beyond the scene by this part of its range of disparity.
MARGIN, CANDIDATES = 0.25, 601
# Blur that differs by less than this over the patches has no plane of focus, px.
LEAST_RESPONSE = 0.5
# Radii are measured to about this, px: a smaller deviation is no better.
ROUNDING = 0.05
# A plane that leaves more of the blur unexplained than this, by the median patch, is none.
MOST_DEVIATION = 0.25


class FocusPlane(NamedTuple):
    """Where an output is sharpest, and how its blur grows from there.

    Attributes:
        disparity: of the plane of focus, 1/m; NaN where there is none to be found.
        k: blur radius in px per 1/m; NaN likewise.
    """

    disparity: float
    k: float


def find_focus(patches: RadiusPatches, k: float) -> FocusPlane:
    """The plane of focus that explains the measured radii best, by least absolute deviation.

    Two or three surfaces can be explained by a plane on either side of one of them, with different
    K. So deviation is weighed with how far K lies from what was asked: a K that is off by a factor
    of e must explain the radii in half the deviation.

    Args:
        patches: measured, see :func:`genrefocus.metrics.blur_radius.measure_radii`.
        k: asked for, px at 1/m, > 0.

    Returns:
        NaN where there is no telling: fewer than ``LEAST_PATCHES`` count, the radii that the plane
        explains differ by less than half a pixel over the patches (without depth of field there is
        no plane of focus), the smallest of them is more than half of the largest (all patches lie
        far to one side, where another focus and another K look the same), or the best plane leaves
        a quarter of the blur unexplained (by medians).
    """
    nothing = FocusPlane(math.nan, math.nan)
    if len(patches.measured) < LEAST_PATCHES:
        return nothing
    low, high = patches.span
    reach = MARGIN * (high - low)
    grid = torch.linspace(max(0.0, low - reach), high + reach, CANDIDATES).to(patches.measured)
    away = (patches.disparity - grid[:, None]).abs()
    found = _weighted_median(patches.measured / away.clamp_min(1e-6), away)
    deviation = (found[:, None] * away - patches.measured).abs().mean(1)
    best = int(((deviation + ROUNDING) * (1.0 + (found / k).log().abs())).argmin())
    explained = found[best] * away[best]
    least, most = (float(end) for end in explained.aminmax())
    if most - least < LEAST_RESPONSE or least > 0.5 * most:
        return nothing
    unexplained = float((explained - patches.measured).abs().median())
    if unexplained > MOST_DEVIATION * float(patches.measured.median()) + ROUNDING:
        return nothing
    return FocusPlane(float(grid[best]), float(found[best]))


def focus_plane_error(
    pred: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: Sequence[float],
    strength: Sequence[BlurStrength],
    in_px: bool = False,
) -> Tensor:
    """Distance of the plane of focus from the one asked for, |d_f found - d_f asked|.

    Args:
        pred: (B, 3, H, W) sRGB in [0, 1], the outputs.
        aif: same shape and range, all in focus.
        disparity: (B, H, W), 1/m.
        focus_disparity: B values asked for, 1/m.
        strength: B values of K asked for, stated for H x W.
        in_px: times K asked for: the blur radius in px at the place that should be sharp.

    Returns:
        (B,) float32 in 1/m or px; NaN where an image is not finite or there is no plane of focus,
        as for an output that is sharp all over.

    Raises:
        ValueError, Rejected: as for :func:`genrefocus.metrics.blur_radius.measure_radii`.
    """

    def measure(i: int) -> float:
        patches = measure_radii(
            pred[i], aif[i], disparity[i], focus_disparity=focus_disparity[i], strength=strength[i]
        )
        error = abs(find_focus(patches, strength[i].k).disparity - focus_disparity[i])
        return error * strength[i].k if in_px else error

    return for_each_valid(measure, check_pair(pred, aif, min_side=WINDOW))


class FocusPlaneError(Tally):
    """Mean of :func:`focus_plane_error` in 1/m over all images seen; see :class:`Summary`."""

    higher_is_better = False

    def update(
        self,
        pred: Tensor,
        aif: Tensor,
        disparity: Tensor,
        focus_disparity: Sequence[float],
        strength: Sequence[BlurStrength],
    ) -> None:
        """Add a batch; shapes as for :func:`focus_plane_error`."""
        self.record(
            focus_plane_error(
                pred, aif, disparity, focus_disparity=focus_disparity, strength=strength
            )
        )


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Along the last dimension: (G, n), (G, n) to (G,). It minimises sum of w |v - median|."""
    ordered, order = values.sort(dim=-1)
    passed = weights.gather(-1, order).cumsum(-1)
    middle = (passed < 0.5 * passed[..., -1:]).sum(-1, keepdim=True)
    return ordered.gather(-1, middle.clamp_max(values.shape[-1] - 1))[..., 0]
