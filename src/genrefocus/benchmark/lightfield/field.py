"""Grids of views through one lens, and the units that tie them to K."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Unit = Literal["1/m", "px"]


@dataclass(frozen=True)
class LightField:
    """Pinhole views from a regular grid of positions on an aperture.

    Positions are in units of the grid's radius: the view in the middle lies at (0, 0), the nearest
    of the outer rows and columns at 1 from it, so that the unit disc is the largest round aperture
    that the views fill. A point at disparity d that the central view shows at x is at
    x + ``baseline`` * (d - ``rest_disparity``) * p in the view at position p, both in px, x to the
    right and y down: views are ordered as positions in ``render.apertures`` are.

    Hence a synthetic aperture of radius r blurs a point by r * ``baseline`` * |d - d_f| px: its K
    is r * ``baseline`` by construction.

    Attributes:
        views: (V, U, 3, H, W) float32 linear light; V and U odd, at least 3.
        baseline: px per unit of disparity and unit of position, > 0.
        rest_disparity: disparity of what does not move between views, in ``unit``.
        unit: of disparity. ``1/m``, or ``px``: px between neighbouring views, counted from an
            arbitrary zero, where the true scale is not known. K is px per that unit.

    Raises:
        ValueError: views of another form, or a baseline that is not positive.
    """

    views: Tensor
    baseline: float
    rest_disparity: float
    unit: Unit

    def __post_init__(self) -> None:
        shape = tuple(self.views.shape)
        if len(shape) != 5 or shape[2] != 3 or not self.views.is_floating_point():
            raise ValueError(f"views must be floating point (V, U, 3, H, W), got {shape}")
        if min(shape[:2]) < 3 or shape[0] % 2 == 0 or shape[1] % 2 == 0:
            raise ValueError(
                f"a grid of {shape[0]} x {shape[1]} views has no central one with neighbours; "
                "take an odd number of rows and columns, 3 or more"
            )
        if not self.baseline > 0:
            raise ValueError(f"the baseline is {self.baseline}; it must be above 0")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a view in px."""
        return self.views.shape[-2], self.views.shape[-1]

    @property
    def middle(self) -> tuple[int, int]:
        """Row and column of the central view."""
        return self.views.shape[0] // 2, self.views.shape[1] // 2

    @property
    def radius_steps(self) -> int:
        """Steps between views in one unit of position."""
        return min(self.middle)

    @property
    def aif(self) -> Tensor:
        """The all-in-focus image, (3, H, W) linear light: the central view.

        A mean of all views moved onto it would have less noise, but errors of disparity blur it.
        """
        return self.views[self.middle]

    @property
    def positions(self) -> Tensor:
        """(V, U, 2) positions (x, y) of the views."""
        (row, column), (rows, columns) = self.middle, self.views.shape[:2]
        y, x = (torch.arange(n, device=self.views.device) for n in (rows, columns))
        y = ((y - row) / self.radius_steps)[:, None].expand(rows, columns)
        x = ((x - column) / self.radius_steps)[None].expand(rows, columns)
        return torch.stack([x, y], -1)

    def shift(self, disparity: Tensor | float) -> Tensor:
        """Motion in px per unit of position of points at a disparity."""
        return self.baseline * (torch.as_tensor(disparity) - self.rest_disparity)


def relative_field(views: Tensor) -> LightField:
    """Views of unknown metric scale: disparity in px between neighbours, 0 does not move."""
    return LightField(
        views, baseline=float(min(views.shape[:2]) // 2), rest_disparity=0.0, unit="px"
    )
