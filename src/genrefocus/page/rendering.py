"""What the renderer makes of a view for the page, and images as the browser takes them."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from genrefocus.data.sample import to_uint8
from genrefocus.geometry import View
from genrefocus.render.apertures import Aperture
from genrefocus.render.layered import render_layered
from genrefocus.render.scatter import defocus_level, defocus_of_level
from genrefocus.render.tone import in_linear_light

_COARSE = (0.5, 3.0)  # px of radius: least step of previews, and from where it grows
_SMEARED = 2  # px over which estimators smear depth at edges

Pixels = NDArray[np.uint8]
"""An image (H, W, 3) for the browser."""


@dataclass(frozen=True)
class Wish:
    """The depth of field that is asked for.

    Attributes:
        plane: disparity of what is sharp, 1/m.
        k: blur in px at 1/m, stated for the photograph's own size.
        aperture: shape of the opening.
    """

    plane: float
    k: float
    aperture: Aperture


def pixels(image: Tensor) -> Pixels:
    """An image (3, H, W) in [0, 1] for the browser."""
    shown: Pixels = to_uint8(image).permute(1, 2, 0).numpy()
    return shown


def render_view(view: View, wish: Wish) -> Tensor:
    """A view with its disparity and K of 1, as the layered renderer blurs it; (3, H, W)."""
    assert view.disparity is not None and view.strength is not None
    render = partial(
        render_layered,
        disparity=view.disparity,
        focus_disparity=wish.plane,
        strength=replace(view.strength, k=wish.k * view.strength.k),
        aperture=wish.aperture,
        edge_width=_SMEARED,
    )
    return in_linear_light(render, view.image).clamp(0, 1)


def in_coarse_slices(view: View, wish: Wish) -> View:
    """A view whose blur comes in steps 2.5 times as wide as the renderer's, which then is faster.

    Steps of 3 it would take for depth edges.
    """
    assert view.disparity is not None and view.strength is not None
    k = wish.k * view.strength.k
    if k == 0:
        return view
    level = defocus_level(k * (view.disparity - wish.plane), *_COARSE).round()
    disparity = wish.plane + defocus_of_level(level, *_COARSE) / k
    return replace(view, disparity=disparity.clamp_min(0))


def outline(mask: Tensor) -> NDArray[np.bool_]:
    """The pixels around the region of a mask (H, W) of 0 and 1."""
    grown = max_pool2d(mask[None], 3, stride=1, padding=1)[0]
    return np.asarray(grown > mask)
