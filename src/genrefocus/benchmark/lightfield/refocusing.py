"""Photographs through a synthetic aperture: the views between the sampled ones, and their mean.

A sum of the sampled views alone shows every blurred point once per view: discs fall apart into
dots where neighbouring views lie more than a pixel apart. Here the aperture is sampled as finely as
its blur needs, and every position gets a view of its own, made of the four views around it.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from genrefocus.benchmark.lightfield.field import LightField
from genrefocus.render.apertures import Aperture

Between = Literal["warped", "linear", "nearest"]
BETWEEN: tuple[Between, ...] = get_args(Between)

_POSITIONS_PER_2_PX = 32
_SAME_SURFACE = 0.5  # px per unit of position
_LEAST_SHARE = 1e-4


def refocus(
    field: LightField,
    *,
    focus: float,
    radius: float,
    aperture: Aperture,
    disparity: Tensor,
    centre: tuple[float, float] = (0.0, 0.0),
    between: Between = "warped",
    count: int | None = None,
) -> Tensor:
    """The photograph through a synthetic aperture, K = ``radius`` * ``field.baseline``.

    Args:
        field: the views.
        focus: disparity of the plane of focus, in the light field's unit.
        radius: of the aperture, in units of the grid's radius, >= 0.
        aperture: shape.
        disparity: (H, W) of the central view, in the light field's unit.
        centre: (x, y) of the aperture; away from (0, 0), points out of focus move by
            ``baseline`` * (d - focus) * centre px.
        between: what is seen between the views. ``warped``: the four views around, each moved by
            the disparity at that place and left out where it shows another surface. ``linear``:
            their mean by distance, each moved by the disparity in focus. ``nearest``: the nearest
            view, moved so.
        count: positions on the aperture; None for as many as the greatest blur needs.

    Returns:
        (3, H, W) linear light, >= 0. Near the frame's edge, within the greatest motion between
        views, it continues what the views show there.

    Raises:
        ValueError: the aperture reaches beyond the views, disparity of another size, or one that is
            not finite or moves everything out of the frame.
    """
    if tuple(disparity.shape) != field.size:
        raise ValueError(f"disparity is {tuple(disparity.shape)}, views {field.size} (H, W)")
    if not bool(torch.isfinite(disparity).all()) or not radius >= 0:
        raise ValueError(f"disparity must be finite and the radius, {radius}, not negative")
    in_focus, surface = field.shift(focus), field.shift(disparity).float()
    if count is None:
        greatest = radius * float((surface - in_focus).abs().max())
        count = _POSITIONS_PER_2_PX * max(1, math.ceil(greatest / 2)) if greatest > 0 else 1
    positions = torch.tensor(centre) + radius * aperture.positions(count)
    limit = torch.tensor(field.middle[::-1]) / field.radius_steps
    if not bool((positions.abs() <= limit + 1e-5).all()):
        raise ValueError(
            f"an aperture of radius {radius:.3f} about {centre} reaches beyond the views, which "
            f"end at {tuple(limit.tolist())}; take a smaller one"
        )
    total = torch.zeros_like(field.aif)
    seen = _SynthesisedViews(field, surface)
    for x, y in positions.tolist():
        total += seen.at(x, y, float(in_focus), between)
    return (total / len(positions)).clamp_min(0.0)


class _SynthesisedViews:
    """Views from any position; those of the grid's surfaces are kept once computed."""

    def __init__(self, field: LightField, surface: Tensor) -> None:
        self.field = field
        self.surface = surface
        self.pixels = _pixels(*field.size).to(surface.device)
        self.kept: dict[tuple[int, int], Tensor] = {}

    def at(self, x: float, y: float, in_focus: float, between: Between) -> Tensor:
        """The view (3, H, W) from (x, y), moved so that what is in focus stays in its place."""
        corners = self._around(x, y)
        if between == "nearest":
            _, v, u = max(corners)
            corners = [(1.0, v, u)]
        if between != "warped":
            return torch.stack(
                [weight * self._moved(v, u, in_focus) for weight, v, u in corners]
            ).sum(0)
        place = self.surface.new_tensor([x, y])
        seen = self.pixels + in_focus * place
        surface = _nearest(project(self.surface, x, y), seen)
        colour, total = torch.zeros_like(self.field.aif), torch.zeros_like(self.surface)
        for weight, v, u in corners:
            there = seen + surface[..., None] * (self._place(v, u) - place)
            other = _nearest(self._surface(v, u), there) - surface
            share = weight * (torch.exp(-((other / _SAME_SURFACE) ** 2)) + _LEAST_SHARE)
            colour += share * _sample(self.field.views[v, u], there)
            total += share
        return colour / total

    def _moved(self, v: int, u: int, in_focus: float) -> Tensor:
        return _sample(self.field.views[v, u], self.pixels + in_focus * self._place(v, u))

    def _around(self, x: float, y: float) -> list[tuple[float, int, int]]:
        """Weight, row and column of the views around a position, weights above 0 that sum to 1."""
        (row, column), (rows, columns) = self.field.middle, self.field.views.shape[:2]
        v, u = y * self.field.radius_steps + row, x * self.field.radius_steps + column
        v, u = min(max(v, 0.0), rows - 1.0), min(max(u, 0.0), columns - 1.0)
        top, left = min(int(v), rows - 2), min(int(u), columns - 2)
        return [
            (across * down, top + i, left + j)
            for i, down in enumerate((1.0 - (v - top), v - top))
            for j, across in enumerate((1.0 - (u - left), u - left))
            if across * down > 0.0
        ]

    def _place(self, v: int, u: int) -> Tensor:
        row, column = self.field.middle
        return self.surface.new_tensor([u - column, v - row]) / self.field.radius_steps

    def _surface(self, v: int, u: int) -> Tensor:
        if (v, u) not in self.kept:
            self.kept[v, u] = project(self.surface, *self._place(v, u).tolist())
        return self.kept[v, u]


def project(surface: Tensor, x: float, y: float) -> Tensor:
    """The motion map (H, W), px per unit of position, as it is seen from (x, y).

    The nearer surface hides the farther one. What the central view does not show is taken for the
    farthest of the surfaces around it.
    """
    height, width = surface.shape
    # Every pixel as 2 x 2 parts, so that a surface that is stretched stays closed; and nearer ones
    # reach half a pixel farther, since the rim of an object, a mixture, moves with the object.
    fine = surface.repeat_interleave(2, 0).repeat_interleave(2, 1)
    fine = max_pool2d(fine[None, None], 3, stride=1, padding=1)[0, 0]
    down, along = (torch.arange(2 * n, device=fine.device) for n in (height, width))
    rows = (down[:, None] - 0.5) / 2.0 + fine * y
    columns = (along[None] - 0.5) / 2.0 + fine * x
    row, column = rows.round().long(), columns.round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    empty = -torch.inf
    flat = surface.new_full((height * width,), empty)
    if not bool(inside.any()):
        raise ValueError("the disparity moves all of the central view out of the frame")
    index = (row * width + column)[inside]
    seen = flat.scatter_reduce(0, index, fine[inside], "amax").reshape(height, width)
    while bool((holes := seen == empty).any()):
        known = torch.where(holes, empty, -seen)
        around = -max_pool2d(known[None, None], 3, stride=1, padding=1)[0, 0]
        seen = torch.where(holes & (around != -empty), around, seen)
    return seen


def _pixels(height: int, width: int) -> Tensor:
    """(H, W, 2): x and y of every pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).float()


def _normalised(at: Tensor, height: int, width: int) -> Tensor:
    return at * (2.0 / (at.new_tensor([width, height]) - 1.0)) - 1.0


def _sample(image: Tensor, at: Tensor) -> Tensor:
    """(C, H, W) at (h, w, 2) px: (C, h, w), cubic; beyond the frame its edge goes on."""
    grid = _normalised(at, *image.shape[-2:])[None]
    return grid_sample(
        image[None], grid, mode="bicubic", padding_mode="border", align_corners=True
    )[0]


def _nearest(values: Tensor, at: Tensor) -> Tensor:
    height, width = values.shape
    column = at[..., 0].round().long().clamp(0, width - 1)
    row = at[..., 1].round().long().clamp(0, height - 1)
    return values[row, column]
