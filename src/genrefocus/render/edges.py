"""One image with depth taken apart at its depth edges: seen, hidden, and what pixels mix.

An edge pixel of a photograph is a mixture of two surfaces, and behind the nearer one the farther
one goes on. Both matter as soon as one of the two is out of focus: a layered depth image (Shade
et al. 1998) with one invented layer behind edges is what a renderer needs to lay one surface over
the other. Coverage is estimated per pixel, as in matting, and held constant when a gradient is
taken: gradients flow through colours.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_RIDGE = 1e-3
"""Squared difference of colour at which the estimate of a mixture counts half."""
_MIN_SHARE = 0.02
_RETRIES = 1
_RAMP_FOOT = 0.2
_RAMP_SHARE = 0.75


class Layers(NamedTuple):
    """Three lists per pixel: the visible surface, the hidden one, and light from the one in front.

    Attributes:
        rgba: (3, 4, H, W), premultiplied by coverage.
        level: (3, H, W) levels of defocus, NaN where a list is empty.
    """

    rgba: Tensor
    level: Tensor


class _Cuts(NamedTuple):
    """Pairs of neighbours across an edge, flat indices (n,), and the next pixel on either side.

    Next pixels are less likely mixtures; where they are on other surfaces, the pair itself.
    `stride` leads from near to far.
    """

    near: Tensor
    far: Tensor
    inner: Tensor
    outer: Tensor
    stride: Tensor


class _Mixture(NamedTuple):
    """For pixels (n,) at edges: share (n, 1) and mean colour (n, 3) of the surface across."""

    pixels: Tensor
    share: Tensor
    across: Tensor


def separate(image: Tensor, level: Tensor, reach: Tensor, edge: float) -> Layers:
    """Separate surfaces at depth edges.

    Args:
        image: (3, H, W) linear light, >= 0.
        level: (H, W) defocus in levels, larger is nearer; neighbours that differ by more than
            ``edge`` lie on different surfaces.
        reach: (H, W) blur radius in px: how far behind an edge a surface can be seen is the sum
            of those on both sides.
        edge: least step of level at an edge.

    Returns:
        Layers whose mixture is the image: without blur, each list over the next gives it back
        within the error of the estimated mixtures.
    """
    rgba = image.new_zeros(3, 4, *level.shape)
    rgba[0, 3] = 1.0
    levels = torch.stack([level, *[torch.full_like(level, math.nan)] * 2])
    masks = _edges(level, edge)
    cuts = _cuts(level, masks, edge)
    colour = image.flatten(1).T
    if len(cuts.near):
        flat = rgba.flatten(2), levels.flatten(1)
        colour = _take_out_front(colour, cuts, *flat)
        _take_out_back(colour, cuts, *flat)
        _fill_hidden(colour, reach.flatten(), masks, cuts, edge, *flat)
    else:
        rgba[0, :3] = image
    return Layers(rgba, levels)


def snap_ramps(level: Tensor, width: int, edge: float) -> Tensor:
    """Make depth edges that an estimator drew as ramps of up to `width` px to each side steps.

    Args:
        level: (H, W) defocus in levels, larger is nearer.
        width: px on either side in which the ends of a ramp are looked for, 0 or more.
        edge: ramps are where levels differ by more than this within `width`, and not much more
            within twice as far: a slope, which goes on, is none.

    Returns:
        (H, W): on ramps the level of the nearer end, save the last fifth, which is given the
        farther one; else the level as it is.
    """
    nearest, farthest = _range(level, width)
    height = nearest - farthest
    widest, least = _range(level, 2 * width)
    ramp = (height > edge) & (height > _RAMP_SHARE * (widest - least))
    ends = torch.where(level - farthest > _RAMP_FOOT * height, nearest, farthest)
    return torch.where(ramp, ends, level)


def _range(level: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Largest and least level (H, W) within `width` px, by rows and columns."""
    around = pad(level[None], (width,) * 4, mode="replicate")[0]
    size = 2 * width + 1
    return _extreme(around, size, torch.maximum), _extreme(around, size, torch.minimum)


def _extreme(level: Tensor, size: int, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of each square of `size` px; ten times as fast as torch's pooling on a CPU."""
    for dim in (0, 1):
        length = level.shape[dim] - size + 1
        level = reduce(choose, (level.narrow(dim, i, length) for i in range(size)))
    return level


def _edges(level: Tensor, edge: float) -> list[tuple[Tensor, int]]:
    """Per direction: pixels (H, W) whose neighbour there is farther, and its stride."""
    found = []
    for dim, stride in ((1, 1), (0, level.shape[1])):
        step = level.diff(dim=dim)
        ahead, behind = step < -edge, step > edge
        none = torch.zeros_like(level.narrow(dim, 0, 1), dtype=torch.bool)
        found += [
            (torch.cat([ahead, none], dim), stride),
            (torch.cat([none, behind], dim), -stride),
        ]
    return found


def _cuts(level: Tensor, masks: list[tuple[Tensor, int]], edge: float) -> _Cuts:
    parts = []
    width, level = level.shape[1], level.flatten()
    for mask, stride in masks:
        near = torch.nonzero(mask.flatten()).flatten()
        far = near + stride
        inner = _next(level, width, near, -stride, edge)
        outer = _next(level, width, far, stride, edge)
        parts.append((near, far, inner, outer, torch.full_like(near, stride)))
    return _Cuts(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _next(level: Tensor, width: int, pixels: Tensor, stride: int | Tensor, edge: float) -> Tensor:
    """The next pixel in a direction where it is on the same surface, else the pixel itself.

    Level and pixels are flat, of an image `width` px wide.
    """
    ahead = pixels + stride
    row = ahead.div(width, rounding_mode="floor") == pixels.div(width, rounding_mode="floor")
    column = ahead.remainder(width) == pixels.remainder(width)
    inside = (row | column) & (ahead >= 0) & (ahead < len(level))
    ahead = torch.where(inside, ahead, pixels)
    return torch.where((level[ahead] - level[pixels]).abs() <= edge, ahead, pixels)


def _mixture(colour: Tensor, mixed: Tensor, own: Tensor, across: Tensor) -> _Mixture:
    """Least squares of colour = (1 - s) own + s across over all edges that a pixel lies at."""
    pixels, inverse, count = torch.unique(mixed, return_inverse=True, return_counts=True)
    theirs = colour[across]
    with torch.no_grad():
        difference = theirs - colour[own]
        part = ((colour[mixed] - colour[own]) * difference).sum(1)
        none = colour.new_zeros(len(pixels))
        whole = none.index_add(0, inverse, difference.square().sum(1)) + _RIDGE * count
        # A pixel is on the surface that covers most of it.
        share = (none.index_add(0, inverse, part) / whole).clamp(0.0, 0.5)[:, None]
    mean = colour.new_zeros(len(pixels), 3).index_add(0, inverse, theirs) / count[:, None]
    return _Mixture(pixels, share, mean)


def _take_out_front(colour: Tensor, cuts: _Cuts, rgba: Tensor, level: Tensor) -> Tensor:
    """Move what nearer surfaces add to pixels of farther ones to the third list; the rest."""
    pixels, share, front = _mixture(colour, cuts.far, cuts.outer, cuts.inner)
    rest = colour.index_copy(
        0, pixels, ((colour[pixels] - share * front) / (1.0 - share)).clamp_min(0.0)
    )
    nearest = torch.full_like(level[0], -math.inf)
    nearest = nearest.scatter_reduce(0, cuts.far, level[0][cuts.near], "amax")
    mixed = share[:, 0] > _MIN_SHARE
    rgba[2][:, pixels[mixed]] = torch.cat([share * front, share], 1)[mixed].T
    level[2][pixels[mixed]] = nearest[pixels[mixed]]
    return rest


def _take_out_back(colour: Tensor, cuts: _Cuts, rgba: Tensor, level: Tensor) -> None:
    """Write the visible surface, less the light of farther surfaces in pixels of nearer ones."""
    pixels, share, back = _mixture(colour, cuts.near, cuts.inner, cuts.outer)
    rgba[0][:3] = colour.index_copy(0, pixels, (colour[pixels] - share * back).clamp_min(0.0)).T
    rgba[0][3, pixels] = 1.0 - share[:, 0]


def _fill_hidden(
    colour: Tensor,
    reach: Tensor,
    masks: list[tuple[Tensor, int]],
    cuts: _Cuts,
    edge: float,
    rgba: Tensor,
    level: Tensor,
) -> None:
    """Continue the far side of edges behind the near side, as far as it can be seen.

    Along each of four directions the nearest edge whose far side is farther than the pixel is a
    candidate; the nearest of them decides the level, and those of like level share the colour by
    inverse squared distance. A candidate's colour is the mean of two pixels beyond its edge.
    """
    found = [
        _candidates(level[0], reach, mask, stride, float(reach[cuts.far].max()), edge)
        for mask, stride in masks
    ]
    near, away, far, stride = (torch.cat(x) for x in zip(*found, strict=True))
    pixels, inverse = torch.unique(near, return_inverse=True)
    # Distance first, then order: one number whose minimum names the candidate.
    order = away * len(near) + torch.arange(len(near), device=near.device)
    least = torch.full_like(pixels, torch.iinfo(torch.int64).max)
    chosen = far[least.scatter_reduce(0, inverse, order, "amin") % max(len(near), 1)]
    alike = (level[0][far] - level[0][chosen][inverse]).abs() <= edge
    away, far, stride, inverse = (x[alike] for x in (away, far, stride, inverse))
    weight = (away + 1.0).to(colour.dtype).pow(-2)
    width = masks[0][0].shape[1]
    first = _next(level[0], width, far, stride, edge)
    second = _next(level[0], width, first, stride, edge)
    beyond = 0.5 * (colour[first] + colour[second])
    total = colour.new_zeros(len(pixels)).index_add(0, inverse, weight)
    sums = colour.new_zeros(len(pixels), 3).index_add(0, inverse, beyond * weight[:, None])
    rgba[1][:3, pixels] = (sums / total[:, None]).T
    rgba[1][3, pixels] = 1.0
    level[1][pixels] = level[0][chosen]


def _candidates(
    level: Tensor, reach: Tensor, mask: Tensor, stride: int, farthest: float, edge: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels, their distance to an edge in one direction, its far side, and the stride."""
    size = mask.shape[1] if abs(stride) == 1 else mask.shape[0]
    steps = _steps_to(mask, stride)
    near = torch.nonzero((steps <= reach + (farthest + 2.0)) & (steps < size)).flatten()
    away, found = steps[near].long(), []
    for _ in range(1 + _RETRIES):
        far = near + (away + 1) * stride
        fit = level[near] - level[far] > edge
        fit &= away <= reach[near] + reach[far] + 2.0
        found.append((near[fit], away[fit], far[fit]))
        # The next edge beyond this one.
        more = steps[far].long()
        away = away + 1 + more
        again = ~fit & (more < size) & (away <= reach[near] + farthest + 2.0)
        near, away = near[again], away[again]
    near, away, far = (torch.cat(x) for x in zip(*found, strict=True))
    return near, away, far, torch.full_like(near, stride)


def _steps_to(mask: Tensor, stride: int) -> Tensor:
    """Steps (H * W,) int32 in the direction of `stride` to the first True, size or more if none."""
    dim = 1 if abs(stride) == 1 else 0
    size = mask.shape[dim]
    if stride > 0:
        mask = mask.flip(dim)
    position = torch.arange(size, device=mask.device, dtype=torch.int32)
    position = position[None, :] if dim == 1 else position[:, None]
    steps = position - torch.where(mask, position, -size).cummax(dim).values
    return (steps.flip(dim) if stride > 0 else steps).flatten()
