"""Disparity of the central view from all views: a plane sweep.

At the right disparity all views agree about a pixel, but for those in which something nearer hides
it; these lie on one side of the aperture, so the half of the aperture that agrees best is asked
(Kang, Szeliski, Chai 2001). Costs are summed over neighbours of like colour (Yoon, Kweon 2006) at
growing distances, so that plain surfaces, whose own costs say nothing, are decided from around.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from genrefocus.benchmark.lightfield.field import LightField
from genrefocus.optics import require_spread
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.tone import linear_to_srgb

_STEP_PX = 0.5  # motion of the outermost views between two candidates
_CUT_OFF = 0.1  # error of a view beyond which it is just wrong
_LIKE_COLOUR = 0.06
_RINGS = (1, 1, 2, 4)
_AT_BOUND = 0.05


def estimate_disparity(field: LightField, *, low: float, high: float) -> Tensor:
    """Disparity (H, W) of the central view, in the light field's unit.

    Args:
        field: the views.
        low, high: range that is searched.

    Raises:
        Rejected: ``disparity_at_bound`` where more than 5 % of the pixels end at one of the bounds;
            ``depth_without_spread``.
        ValueError: a range that is empty.
    """
    if not low < high:
        raise ValueError(f"disparity is searched between {low} and {high}; low must be below high")
    span = float(field.shift(high) - field.shift(low))
    count = max(3, math.ceil(span / _STEP_PX) + 1)
    candidates = torch.linspace(low, high, count)
    colour = linear_to_srgb(field.views)
    costs = torch.stack([_disagreement(field, colour, float(x)) for x in field.shift(candidates)])
    costs = _gathered(costs, colour[field.middle])
    index = _minimum(costs)
    disparity = low + index * (high - low) / (count - 1)
    outside = float(((index < 0.5) | (index > count - 1.5)).float().mean())
    if outside > _AT_BOUND:
        raise Rejected(
            Reason.DISPARITY_AT_BOUND,
            round(outside, 3),
            f"share of pixels at an end of [{low:.3g}, {high:.3g}] {field.unit}; widen the range",
        )
    require_spread(disparity)
    return disparity


def _disagreement(field: LightField, colour: Tensor, shift: float) -> Tensor:
    """Error (H, W) of the best half of the views, moved back by ``shift`` px per unit."""
    places = field.positions.flatten(0, 1)
    height, width = field.size
    edges = (torch.arange(n, device=places.device) for n in (height, width))
    y, x = torch.meshgrid(*edges, indexing="ij")
    at = torch.stack([x, y], -1) + shift * places[:, None, None]
    grid = at * (2.0 / (at.new_tensor([width, height]) - 1.0)) - 1.0
    moved = grid_sample(colour.flatten(0, 1), grid, padding_mode="border", align_corners=True)
    errors = (moved - colour[field.middle]).abs().mean(1).clamp_max(_CUT_OFF)
    halves = [places[:, 0] <= 0, places[:, 0] >= 0, places[:, 1] <= 0, places[:, 1] >= 0]
    return torch.stack([errors[half].mean(0) for half in halves]).amin(0)


def _gathered(costs: Tensor, colour: Tensor) -> Tensor:
    """Costs (N, H, W) as sums over neighbours of like colour."""
    for distance in _RINGS:
        around = [(i * distance, j * distance) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        reach = pad(costs[None], (distance,) * 4, mode="replicate")[0]
        image = pad(colour[None], (distance,) * 4, mode="replicate")[0]
        total, weights = torch.zeros_like(costs), torch.zeros_like(costs[0])
        for down, along in around:
            window = (
                slice(distance + down, distance + down + costs.shape[1]),
                slice(distance + along, distance + along + costs.shape[2]),
            )
            difference = (image[:, *window] - colour).abs().amax(0)
            weight = torch.exp(-((difference / _LIKE_COLOUR) ** 2))
            total += weight * reach[:, *window]
            weights += weight
        costs = total / weights
    return costs


def _minimum(costs: Tensor) -> Tensor:
    """Index (H, W) of the least cost, refined by a parabola through its neighbours."""
    index = costs.argmin(0)
    inner = index.clamp(1, len(costs) - 2)
    before, at, after = (costs.gather(0, (inner + i)[None])[0] for i in (-1, 0, 1))
    bend = before - 2.0 * at + after
    offset = torch.where(bend > 1e-9, 0.5 * (before - after) / bend.clamp_min(1e-9), 0.0)
    return torch.where(index == inner, inner + offset.clamp(-0.5, 0.5), index.float())
