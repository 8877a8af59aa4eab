"""Is every place blurred by as much as was asked?

The blur radius of an output is measured patch by patch: the disc whose blur of the all-in-focus
picture explains the output best, by least squares in linear light. It is held against the radius
K * |d - d_f| that the control map asks for, in bins of the asked radius.

Left out, the same for every method because only the all-in-focus picture and the control map
decide: pixels that a blur across a depth edge reaches (no single disc explains them), patches of
several radii, and patches whose texture is so faint that a wrong radius would not show.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad
from torchmetrics import Metric

from genrefocus.metrics.pairs import check_pair, for_each_valid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Summary, Tally, summarise
from genrefocus.optics import BlurStrength, blur_radius

WINDOW = 16
"""Edge of a patch in px; patches lie half a window apart."""

RADIUS_EDGES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Edges in px between the bins of asked radius; the first bin is what is in focus."""

# A patch counts when a radius wrong by 20 % and half a pixel would change it by this much (rms of
# linear light), and half of its pixels lie clear of depth edges.
LEAST_CHANGE = 0.004
LEAST_CLEAR = 0.5
# Radii of one patch may differ by half a pixel and a fifth.
SPREAD_PX, SPREAD_FRACTION = 0.5, 0.2
# A blur half as large again as asked, and one pixel more, still does not reach a clear pixel.
REACH_FACTOR, REACH_PX = 1.5, 1.0


class RadiusPatches(NamedTuple):
    """What was measured in the patches of one image that count.

    Attributes:
        asked: (n,) float32, mean radius of the control map over the patch, px.
        measured: (n,) float32, radius of the disc that explains the output best, px; at most half
            as much again as the largest radius asked for, and 2 px.
        disparity: (n,) float32, mean over the patch, 1/m.
        span: least and largest disparity of the whole map, 1/m.
        coverage: share of all patches that count, in [0, 1].
    """

    asked: Tensor
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
    """Measure the blur radius of an output by comparison with the all-in-focus picture.

    Args:
        pred: (3, H, W) sRGB in [0, 1], the output.
        aif: same shape and range, all in focus.
        disparity: (H, W), 1/m.
        focus_disparity: asked for, 1/m.
        strength: K asked for, stated for H x W.

    Returns:
        Its patches; none where nothing counts.

    Raises:
        ValueError: shapes differ, an image is smaller than a patch, values lie outside [0, 1] or
            are not finite.
        Rejected: disparity or focus cannot be used; see :func:`genrefocus.optics.blur_radius`.
    """
    if not bool(check_pair(pred[None], aif[None], min_side=WINDOW).all()):
        raise ValueError("an image is not finite")
    asked = blur_radius(disparity, focus_disparity, strength)
    clear = _clear_of_edges(asked).float()[None]
    fit = _Fit(to_linear(pred), clear, asked)
    grid = _radii(float(asked.max()))
    for (low, smaller), (high, larger) in _pairs(to_linear(aif), grid):
        fit.compare(low, smaller, high, larger)
    mean = _patches(asked[None] * clear) / fit.share.clamp_min(1e-6)
    inside = torch.where(clear > 0, asked[None], torch.inf)
    least = -max_pool2d(-inside, WINDOW, WINDOW // 2)
    most = max_pool2d(asked[None] * clear, WINDOW, WINDOW // 2)
    counts = fit.share >= LEAST_CLEAR
    counts &= most - least <= SPREAD_PX + SPREAD_FRACTION * mean
    counts &= fit.change() >= LEAST_CHANGE
    distance = _patches(disparity[None] * clear) / fit.share.clamp_min(1e-6)
    return RadiusPatches(
        asked=mean[counts],
        measured=fit.radius[counts],
        disparity=distance[counts],
        span=(float(disparity.min()), float(disparity.max())),
        coverage=float(counts.float().mean()),
    )


class RadiusErrors(NamedTuple):
    """Errors of one image by bin of asked radius; each (bins,) float32, bins = edges + 1.

    Attributes:
        bias: mean of measured minus asked radius in px, above 0 where too blurred; NaN in a bin
            without patches.
        absolute: mean of its magnitude, px; NaN likewise.
        patches: how many.
    """

    bias: Tensor
    absolute: Tensor
    patches: Tensor


def errors_by_bin(patches: RadiusPatches, edges: Sequence[float] = RADIUS_EDGES) -> RadiusErrors:
    """Errors of the measured radii, by bins of asked radius with the given edges in px."""
    bounds = torch.tensor(tuple(edges), device=patches.asked.device)
    column = torch.bucketize(patches.asked, bounds, right=True)
    error = patches.measured - patches.asked
    empty = torch.zeros(len(bounds) + 1, device=error.device)
    count = empty.index_add(0, column, torch.ones_like(error))
    bias, absolute = (empty.index_add(0, column, x) / count for x in (error, error.abs()))
    return RadiusErrors(bias, absolute, count)


def bin_names(edges: Sequence[float]) -> list[str]:
    """``0_0.5``, ..., ``16_up``: names of the bins between edges in px."""
    names = [f"{edge:g}" for edge in edges]
    return [f"{low}_{high}" for low, high in zip(["0", *names], [*names, "up"], strict=True)]


def blur_radius_error(
    pred: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: Sequence[float],
    strength: Sequence[BlurStrength],
    signed: bool = False,
) -> Tensor:
    """Mean error of the blur radius over the patches of each image, px.

    Args:
        pred: (B, 3, H, W) sRGB in [0, 1], the outputs.
        aif: same shape and range, all in focus.
        disparity: (B, H, W), 1/m.
        focus_disparity: B values asked for, 1/m.
        strength: B values of K asked for, stated for H x W.
        signed: measured minus asked, so that too much blur is positive, instead of the magnitude.

    Returns:
        (B,) float32; NaN where an image is not finite or no patch counts.

    Raises:
        ValueError, Rejected: as for :func:`measure_radii`.
    """

    def measure(i: int) -> float:
        patches = measure_radii(
            pred[i], aif[i], disparity[i], focus_disparity=focus_disparity[i], strength=strength[i]
        )
        error = patches.measured - patches.asked
        return float((error if signed else error.abs()).mean())

    return for_each_valid(measure, check_pair(pred, aif, min_side=WINDOW))


class BlurRadiusError(Tally):
    """Mean of :func:`blur_radius_error` over all images seen; see :class:`Summary`."""

    higher_is_better = False

    def update(
        self,
        pred: Tensor,
        aif: Tensor,
        disparity: Tensor,
        focus_disparity: Sequence[float],
        strength: Sequence[BlurStrength],
    ) -> None:
        """Add a batch; shapes as for :func:`blur_radius_error`."""
        self.record(
            blur_radius_error(
                pred, aif, disparity, focus_disparity=focus_disparity, strength=strength
            )
        )


class BlurRadiusByBin(Metric):
    """Bias and absolute error of the blur radius by bin of asked radius, and the coverage.

    Every image weighs the same within a bin, however many of its patches fall there.

    Args:
        edges: between the bins, px.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, edges: Sequence[float] = RADIUS_EDGES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges = tuple(edges)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self,
        pred: Tensor,
        aif: Tensor,
        disparity: Tensor,
        focus_disparity: Sequence[float],
        strength: Sequence[BlurStrength],
    ) -> None:
        """Add a batch; shapes as for :func:`blur_radius_error`."""
        for i, valid in enumerate(check_pair(pred, aif, min_side=WINDOW).tolist()):
            row = torch.full((2 * len(self.edges) + 3,), torch.nan, device=pred.device)
            if valid:
                patches = measure_radii(
                    pred[i],
                    aif[i],
                    disparity[i],
                    focus_disparity=focus_disparity[i],
                    strength=strength[i],
                )
                errors = errors_by_bin(patches, self.edges)
                coverage = row.new_tensor([patches.coverage])
                row = torch.cat([errors.bias, errors.absolute, coverage])
            self.rows.append(row[None])

    def compute(self) -> dict[str, Summary]:
        """Summaries by name; ``failed`` counts images without a patch in the bin."""
        parts = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        table = torch.cat(parts) if parts else torch.zeros(0, 2 * len(self.edges) + 3)
        names = [f"{what}_{bin}" for what in ("bias", "absolute") for bin in bin_names(self.edges)]
        return {
            name: summarise(column)
            for name, column in zip([*names, "coverage"], table.T, strict=True)
        }


class _Fit:
    """Least squares over radii, pair by pair of neighbouring blurs of the sharp picture."""

    def __init__(self, light: Tensor, clear: Tensor, asked: Tensor) -> None:
        self.light, self.clear = light, clear
        self.share = _patches(clear)
        self.radius = torch.zeros_like(self.share)
        self.error = torch.full_like(self.share, torch.inf)
        # The sharp picture at 20 % and half a pixel less than asked, and at as much more.
        self.ends = (0.8 * asked - 0.5).clamp_min(0.0), 1.2 * asked + 0.5
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
    """Neighbouring radii with the picture blurred by either.

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


def _clear_of_edges(asked: Tensor) -> Tensor:
    """Pixels (H, W) that no blur across a step of the asked radius reaches."""
    around = pad(asked[None], (1,) * 4, mode="replicate")
    most, least = max_pool2d(around, 3, 1)[0], -max_pool2d(-around, 3, 1)[0]
    step = most - least > SPREAD_PX + 0.1 * most
    reach = torch.where(step, REACH_FACTOR * most + REACH_PX, 0.0)
    for _ in range(math.ceil(float(reach.max()))):
        reach = torch.maximum(reach, max_pool2d(reach[None], 3, 1, 1)[0] - 1.0)
    return reach <= 0.0


def _patches(values: Tensor) -> Tensor:
    return avg_pool2d(values, WINDOW, WINDOW // 2)


def to_linear(srgb: Tensor) -> Tensor:
    """Linear light of sRGB values in [0, 1], any shape (IEC 61966-2-1)."""
    power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, power)
