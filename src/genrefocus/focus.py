"""What shall be sharp in a photograph, and what is: planes of focus, and the blur it came with.

A user names the plane of focus. That of the photograph as it was taken, and its K, are given, read
from the exposure, or found beside the image that was deblurred without this knowledge.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from genrefocus.estimators import DetailRetention, Photo
from genrefocus.geometry import View
from genrefocus.k_search import KRange, search_k_of_photograph
from genrefocus.optics import BlurStrength, LensFacts, blur_strength_from_exif, focus_disparity
from genrefocus.render.apertures import disk

Focus = tuple[int, int] | Tensor | float
"""What is sharp: a pixel (x, y), a mask (H, W) that is True there, or a disparity in 1/m."""

SOURCE_K = KRange(min_radius=0.0005, max_radius=0.1, budget=24)
"""Where the photograph's own K is searched for."""

T = TypeVar("T")


@dataclass(frozen=True)
class SourceBlur:
    """The blur of a photograph as it was taken, for a DeblurNet that is told it.

    Attributes:
        k: stated for the photograph; or the facts of its exposure, for Eq. 3; or None: the K at
            which the image that is deblurred blind gives the photograph back when it is rendered.
        focus: what is sharp in the photograph, a pixel or a disparity; None: where it keeps the
            detail of the image that is deblurred blind.
    """

    k: BlurStrength | LensFacts | None
    focus: tuple[int, int] | float | None = None

    def found(
        self,
        image: Tensor,
        aif: Tensor,
        disparity: Tensor,
        *,
        unit: BlurStrength,
        size: tuple[int, int],
    ) -> tuple[BlurStrength, float]:
        """K, stated for the photograph, and focus disparity in 1/m.

        Args:
            image: (3, H, W) in [0, 1], the photograph, scaled and cropped.
            aif: the same, deblurred blind.
            disparity: (H, W), 1/m.
            unit: K of 1 in the photograph, restated for ``image``.
            size: (H, W) of the photograph.

        Raises:
            Rejected: nothing is sharp, Eq. 3 has no answer, or no K gives the photograph back.
        """
        focus: Focus | None = self.focus
        if focus is None:
            (sharp,) = DetailRetention().mask([Photo("photograph", image, aif)])
            focus = sharp.region
        plane = plane_of_focus(disparity, focus)
        if isinstance(self.k, BlurStrength):
            return self.k, plane
        if self.k is not None:
            return blur_strength_from_exif(self.k, plane, *size), plane
        best = search_k_of_photograph(
            *(image, aif, disparity, plane), aperture=disk(), k_range=SOURCE_K, edge_width=2
        )
        return BlurStrength(best.k / unit.k, *size), plane


def plane_of_focus(disparity: Tensor, focus: Focus) -> float:
    """Disparity in 1/m of what is sharp.

    Raises:
        Rejected: see :func:`genrefocus.optics.focus_disparity`.
    """
    if isinstance(focus, Tensor):
        return focus_disparity(disparity, focus)
    if isinstance(focus, tuple):
        x, y = focus
        return float(disparity[y, x])
    return float(focus)


def carried(focus: T, size: tuple[int, int], view: View, long_edge: int) -> T | tuple[int, int]:
    """A pixel of the photograph in the view that is its scaled and cropped centre.

    Anything else stays as it is.

    Args:
        focus: see ``Focus``.
        size: of the photograph, (H, W) in px.
        view: scaled to ``long_edge``, px, and cropped.

    Raises:
        ValueError: it is cropped away.
    """
    if not isinstance(focus, tuple):
        return focus
    scale = long_edge / max(size)
    place = []
    for value, before, after in zip(focus, size[::-1], (view.width, view.height), strict=True):
        moved = math.floor((value + 0.5 - before / 2) * scale + after / 2)
        if not -1 <= moved <= after:  # one px for the rounding of the scaled size
            raise ValueError(
                f"focus {focus[0]},{focus[1]} is cropped away at long edge {long_edge} px; "
                "choose another long edge or keep the photograph's size"
            )
        place.append(min(max(moved, 0), after - 1))
    return place[0], place[1]
