"""Does every part of the image have the requested blur radius?

The blur radius of an output is measured patch by patch: the disc whose blur of the all-in-focus
image explains the output best, by least squares in linear light. It is compared with the requested
radius, K * |d - d_f| of the control map, in bins of the requested radius.

Some patches and pixels do not count: pixels that a blur across a depth edge reaches (no single disc
explains them), patches of several radii, and patches whose texture is so faint that a wrong radius
would not show. Only the all-in-focus image and the control map decide this, so that it is the same
for every method.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from genrefocus.metrics.info import AIF, CONTROL, Direction, MetricInfo
from genrefocus.metrics.pairs import check_pair
from genrefocus.metrics.precision import in_float32
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.render.tone import srgb_to_linear

WINDOW = 16
"""Edge of a patch in px; patches lie half a window apart."""

RADIUS_EDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Edges in px between the bins of requested radius; the first bin is what is in focus."""

# A patch counts when a radius wrong by 20 % and half a pixel would change it by this much (rms of
# linear light), and half of its pixels lie clear of depth edges.
MIN_CHANGE = 0.004
MIN_CLEAR = 0.5
# Radii of one patch may differ by half a pixel and a fifth.
SPREAD_PX, SPREAD_FRACTION = 0.5, 0.2
# A blur 1.5 times the requested one, and one pixel more, still does not reach a clear pixel.
REACH_FACTOR, REACH_PX = 1.5, 1.0


class RadiusPatches(NamedTuple):
    """What was measured in the patches of one image that count.

    Attributes:
        requested: (n,) float32, mean radius of the control map over the patch, px.
        measured: (n,) float32, radius of the disc that explains the output best, px; at most 1.5
            times the largest requested radius, and 2 px.
        disparity: (n,) float32, mean over the patch, 1/m.
        span: smallest and largest disparity of the whole map, 1/m.
        coverage: share of all patches that count, in [0, 1].
    """

    requested: Tensor
    measured: Tensor
    disparity: Tensor
    span: tuple[float, float]
    coverage: float


@in_float32
def measure_radii(
    pred: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
) -> RadiusPatches:
    """Measure the blur radius of an output by comparison with the all-in-focus image.

    Args:
        pred: (3, H, W) sRGB in [0, 1], the output.
        aif: same shape and range, all in focus.
        disparity: (H, W), 1/m.
        focus_disparity: requested, 1/m.
        strength: requested K, stated for H x W.

    Returns:
        Its patches; none where nothing counts.

    Raises:
        ValueError: shapes differ, an image is smaller than a patch, values lie outside [0, 1] or
            are not finite.
        Rejected: disparity or focus cannot be used; see :func:`genrefocus.optics.blur_radius`.
    """
    if not bool(check_pair(pred[None], aif[None], min_side=WINDOW).all()):
        raise ValueError("an image is not finite")
    requested = blur_radius(disparity, focus_disparity, strength)
    clear = _clear_of_edges(requested).float()[None]
    fit = _Fit(srgb_to_linear(pred), clear, requested)
    grid = _radii(float(requested.max()))
    for (low, smaller), (high, larger) in _pairs(srgb_to_linear(aif), grid):
        fit.compare(low, smaller, high, larger)
    mean = _patches(requested[None] * clear) / fit.share.clamp_min(1e-6)
    inside = torch.where(clear > 0, requested[None], torch.inf)
    smallest = -max_pool2d(-inside, WINDOW, WINDOW // 2)
    largest = max_pool2d(requested[None] * clear, WINDOW, WINDOW // 2)
    counts = fit.share >= MIN_CLEAR
    counts &= largest - smallest <= SPREAD_PX + SPREAD_FRACTION * mean
    counts &= fit.change() >= MIN_CHANGE
    distance = _patches(disparity[None] * clear) / fit.share.clamp_min(1e-6)
    return RadiusPatches(
        requested=mean[counts],
        measured=fit.radius[counts],
        disparity=distance[counts],
        span=(float(disparity.min()), float(disparity.max())),
        coverage=float(counts.float().mean()),
    )


def errors_by_bin(patches: RadiusPatches) -> tuple[Tensor, Tensor]:
    """Errors of the measured radii of one image in the bins between ``RADIUS_EDGES``.

    Returns:
        The mean magnitude of measured minus requested radius, and its mean (above 0 where too
        blurred), each (7,) float32 in px; NaN in a bin without patches.
    """
    bounds = torch.tensor(RADIUS_EDGES, device=patches.requested.device)
    column = torch.bucketize(patches.requested, bounds, right=True)
    error = patches.measured - patches.requested
    empty = torch.zeros(len(bounds) + 1, device=error.device)
    count = empty.index_add(0, column, torch.ones_like(error))
    magnitude, bias = (empty.index_add(0, column, x) / count for x in (error.abs(), error))
    return magnitude, bias


def bin_names(edges: Sequence[float]) -> list[str]:
    """``0_0.5``, ..., ``16_up``: names of the bins between edges in px."""
    names = [f"{edge:g}" for edge in edges]
    return [f"{low}_{high}" for low, high in zip(["0", *names], [*names, "up"], strict=True)]


class _Fit:
    """Least squares over radii, pair by pair of neighbouring blurs of the sharp image."""

    def __init__(self, light: Tensor, clear: Tensor, requested: Tensor) -> None:
        self.light, self.clear = light, clear
        self.share = _patches(clear)
        self.radius = torch.zeros_like(self.share)
        self.error = torch.full_like(self.share, torch.inf)
        # The sharp image at 20 % and half a pixel less than requested, and at as much more.
        self.ends = (0.8 * requested - 0.5).clamp_min(0.0), 1.2 * requested + 0.5
        self.views = [torch.zeros_like(light), torch.zeros_like(light)]

    def compare(self, low: float, smaller: Tensor, high: float, larger: Tensor) -> None:
        """Try radii between `low` and `high` px, where blur is taken to mix the two blurs."""
        step, rest = larger - smaller, self.light - smaller
        total = _patches((rest.square() * self.clear).sum(0, keepdim=True))
        along = _patches((rest * step * self.clear).sum(0, keepdim=True))
        length = _patches((step.square() * self.clear).sum(0, keepdim=True))
        part = (along / length.clamp_min(1e-12)).clamp(0.0, 1.0)
        error = total - 2.0 * part * along + part.square() * length
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.radius = torch.where(better, low + part * (high - low), self.radius)
        for view, end in zip(self.views, self.ends, strict=True):
            inside = (end >= low) & (end < high)
            view += torch.where(inside, smaller + (end - low) / (high - low) * step, 0.0)

    def change(self) -> Tensor:
        """Rms change of each patch between the two ends."""
        squares = (self.views[1] - self.views[0]).square().mean(0, keepdim=True)
        return (_patches(squares * self.clear) / self.share.clamp_min(1e-6)).sqrt()


def _radii(largest: float) -> list[float]:
    radii = [0.0]
    while radii[-1] < 1.5 * largest + 2.0:
        radii.append(radii[-1] + max(0.5, 0.1 * radii[-1]))
    return radii


def _pairs(
    light: Tensor, radii: list[float]
) -> Iterator[tuple[tuple[float, Tensor], tuple[float, Tensor]]]:
    """Neighbouring radii with the image blurred by either.

    The transform of a disc is known, 2 J1(x) / x with x = 2 pi r f, so that any radius is exact.
    """
    reach = math.ceil(radii[-1])
    height, width = light.shape[-2:]
    reach = min(reach, height - 1, width - 1)
    padded = pad(light[None], (reach,) * 4, mode="reflect")[0]
    spectrum = torch.fft.rfft2(padded)
    vertical = torch.fft.fftfreq(padded.shape[-2], device=light.device)[:, None]
    horizontal = torch.fft.rfftfreq(padded.shape[-1], device=light.device)
    frequency = torch.hypot(vertical, horizontal)
    before = 0.0, light
    for radius in radii[1:]:
        phase = (2.0 * math.pi * radius * frequency).clamp_min(1e-4)
        transfer = 2.0 * torch.special.bessel_j1(phase) / phase
        blurred = torch.fft.irfft2(spectrum * transfer, s=padded.shape[-2:])
        after = radius, blurred[:, reach : reach + height, reach : reach + width]
        yield before, after
        before = after


def _clear_of_edges(requested: Tensor) -> Tensor:
    """Pixels (H, W) that no blur across a step of the requested radius reaches."""
    around = pad(requested[None], (1,) * 4, mode="replicate")
    largest, smallest = max_pool2d(around, 3, 1)[0], -max_pool2d(-around, 3, 1)[0]
    step = largest - smallest > SPREAD_PX + 0.1 * largest
    reach = torch.where(step, REACH_FACTOR * largest + REACH_PX, 0.0)
    for _ in range(math.ceil(float(reach.max()))):
        reach = torch.maximum(reach, max_pool2d(reach[None], 3, 1, 1)[0] - 1.0)
    return reach <= 0.0


def _patches(values: Tensor) -> Tensor:
    return avg_pool2d(values, WINDOW, WINDOW // 2)


def _info(
    name: str, unit: str, direction: Direction, value: Callable[[RadiusPatches], Any]
) -> MetricInfo:
    def measure(pred: Tensor, **facts: Any) -> float:
        return float(value(measure_radii(pred, **facts)))

    return MetricInfo(name, measure, direction, CONTROL | AIF, unit)


def _in_bin(patches: RadiusPatches, *, kind: int, number: int) -> Tensor:
    return errors_by_bin(patches)[kind][number]


METRICS = (
    _info("blur_radius_error", "px", "lower", lambda x: (x.measured - x.requested).abs().mean()),
    _info("blur_radius_bias", "px", "zero", lambda x: (x.measured - x.requested).mean()),
    _info("blur_radius_coverage", "", "none", lambda x: x.coverage),
    *(
        _info(
            f"blur_radius_{('error', 'bias')[kind]}_{name}",
            "px",
            ("lower", "zero")[kind],
            functools.partial(_in_bin, kind=kind, number=number),
        )
        for number, name in enumerate(bin_names(RADIUS_EDGES))
        for kind in (0, 1)
    ),
)
