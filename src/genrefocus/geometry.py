"""Resize, crop, flip and rounding, applied to image, disparity, mask and K together.

Disparity and mask are resized with nearest neighbour, since an average across an edge is a depth
that no surface has; images with Lanczos, as the released code has it. The released scripts resize
depth bilinearly, one before and one after the inversion to disparity; both are modes by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from genrefocus.optics import BlurStrength

DepthResize = Literal["nearest", "bilinear_before_inversion", "bilinear_after_inversion"]


@dataclass(frozen=True)
class View:
    """One image with its disparity, mask and K, all of one size.

    Attributes:
        image: (3, H, W) floating point in [0, 1]; crops and flips also take uint8.
        disparity: (H, W) in 1/m, or None.
        mask: (H, W) bool, True in focus, or None.
        strength: K stated for H x W, or None.

    Raises:
        ValueError: a field of another size or shape.
    """

    image: Tensor
    disparity: Tensor | None = None
    mask: Tensor | None = None
    strength: BlurStrength | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(f"image must be (3, H, W), got {tuple(self.image.shape)}")
        size = (self.height, self.width)
        for name, field in (("disparity", self.disparity), ("mask", self.mask)):
            if field is not None and tuple(field.shape) != size:
                raise ValueError(f"{name} is {tuple(field.shape)} but the image is {size} (H, W)")
        if self.strength and (self.strength.height, self.strength.width) != size:
            raise ValueError(
                f"K is stated for {(self.strength.height, self.strength.width)} "
                f"but the image is {size} (H, W)"
            )

    @property
    def height(self) -> int:
        return self.image.shape[1]

    @property
    def width(self) -> int:
        return self.image.shape[2]


def size_within(height: int, width: int, long_edge: int) -> tuple[int, int]:
    """Height and width in px, scaled down where the longer edge exceeds ``long_edge``.

    >>> size_within(600, 800, 400), size_within(600, 800, 1000)
    ((300, 400), (600, 800))
    """
    scale = min(1.0, long_edge / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(view: View, height: int, width: int, *, depth: DepthResize = "nearest") -> View:
    """The view scaled to ``height`` x ``width`` px; K follows by the long-edge ratio."""
    _require_size(height, width)
    if (height, width) == (view.height, view.width):
        return view
    return View(
        image=resize_image(view.image, height, width),
        disparity=_if_any(view.disparity, lambda d: resize_disparity(d, height, width, mode=depth)),
        mask=_if_any(view.mask, lambda m: _nearest(m, height, width)),
        strength=view.strength.resized(height, width) if view.strength else None,
    )


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """An image (3, H, W) in [0, 1] at another size, on the CPU: Pillow's Lanczos filter."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS))
        for channel in image.float().cpu().numpy()
    ]
    # The filter overshoots at edges; the image's range does not.
    return torch.from_numpy(np.stack(channels)).clamp(0, 1)


def fitted(
    values: Tensor, height: int, width: int, name: str, *, mode: DepthResize = "nearest"
) -> Tensor:
    """A map (H, W) brought to an image's size: disparity (1/m), or depth or a mask by nearest.

    Raises:
        ValueError: other proportions than the image's; ``name`` is its name in the message.
    """
    require_proportions(values, height, width, name)
    return resize_disparity(values, height, width, mode=mode)


def require_proportions(values: Tensor, height: int, width: int, name: str) -> None:
    """
    Raises:
        ValueError: a map (H, W) has other proportions than an image; ``name`` is the map's.
    """
    rows, columns = values.shape
    # One px of rounding on the shorter edge of either is no change of proportions.
    if abs(rows * width - columns * height) > max(height, width, rows, columns):
        raise ValueError(
            f"{name} is {columns}x{rows} px but the image is {width}x{height} px (WxH), of other "
            "proportions; give one of the whole upright image"
        )


def resize_disparity(
    disparity: Tensor, height: int, width: int, *, mode: DepthResize = "nearest"
) -> Tensor:
    """A disparity map scaled to ``height`` x ``width`` px.

    Args:
        disparity: (H, W), 1/m.
        mode: ``nearest`` takes the pixel under the new pixel's centre. The bilinear modes (pixel
            centres at half, no antialiasing) reproduce the released scripts:
            ``bilinear_before_inversion`` averages depth, where a pixel that is infinitely far
            (disparity 0) weighs in with depth 0, as missing depth does there;
            ``bilinear_after_inversion`` averages disparity.

    Returns:
        (height, width), 1/m.
    """
    _require_size(height, width)
    if mode not in get_args(DepthResize):
        raise ValueError(
            f"depth resize mode {mode!r}; choose from {', '.join(get_args(DepthResize))}"
        )
    if (height, width) == tuple(disparity.shape):
        return disparity
    if mode == "nearest":
        return _nearest(disparity, height, width)
    if mode == "bilinear_after_inversion":
        return _bilinear(disparity, height, width)
    return _invert(_bilinear(_invert(disparity), height, width))


def resize_defocus(defocus: Tensor, height: int, width: int) -> Tensor:
    """A defocus map (H, W) of an image that is scaled: blur radii in px scale with it."""
    scale = max(height, width) / max(defocus.shape)
    return (resize_disparity(defocus, height, width) * scale).clamp(0, 1)


def crop(view: View, top: int, left: int, height: int, width: int) -> View:
    """The window of ``height`` x ``width`` px at (``top``, ``left``); k stays as it is.

    Raises:
        ValueError: the window leaves the image.
    """
    _require_size(height, width)
    bottom, right = top + height, left + width
    if top < 0 or left < 0 or bottom > view.height or right > view.width:
        raise ValueError(
            f"crop rows {top}:{bottom}, columns {left}:{right} leaves the "
            f"{view.width}x{view.height} px image (WxH)"
        )
    return View(
        image=view.image[:, top:bottom, left:right],
        disparity=_if_any(view.disparity, lambda d: d[top:bottom, left:right]),
        mask=_if_any(view.mask, lambda m: m[top:bottom, left:right]),
        strength=view.strength.cropped(height, width) if view.strength else None,
    )


def flip(view: View) -> View:
    """The view mirrored left to right."""
    return replace(
        view,
        image=view.image.flip(-1),
        disparity=_if_any(view.disparity, lambda d: d.flip(-1)),
        mask=_if_any(view.mask, lambda m: m.flip(-1)),
    )


def round_up_to_multiple(view: View, multiple: int, *, depth: DepthResize = "nearest") -> View:
    """The view scaled so that both edges are the next multiple, the released size rule."""
    height = -(-view.height // multiple) * multiple
    width = -(-view.width // multiple) * multiple
    return resize(view, height, width, depth=depth)


def long_edge_sizes(
    size: tuple[int, int], long_edge: int, multiple: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) of an image of ``size`` scaled to a long edge, and what is left when it is cropped.

    The released rule for a fixed long side: the short edge is rounded down to a whole pixel, then
    both edges down to the multiple.

    >>> long_edge_sizes((948, 1422), 256, 16)
    ((170, 256), (160, 256))
    """
    height, width = (edge * long_edge // max(size) for edge in size)
    return (height, width), (height // multiple * multiple, width // multiple * multiple)


def resize_long_edge_and_crop(
    view: View, long_edge: int, multiple: int, *, depth: DepthResize = "nearest"
) -> View:
    """The view scaled to a long edge, then cropped about its centre, see :func:`long_edge_sizes`.

    Raises:
        ValueError: an edge would be shorter than one multiple.
    """
    (height, width), (cropped_height, cropped_width) = long_edge_sizes(
        (view.height, view.width), long_edge, multiple
    )
    if not cropped_height or not cropped_width:
        raise ValueError(
            f"a {view.width}x{view.height} px image (WxH) at long edge {long_edge} px has an edge "
            f"below {multiple} px; choose a larger long edge"
        )
    scaled = resize(view, height, width, depth=depth)
    top, left = (height - cropped_height) // 2, (width - cropped_width) // 2
    return crop(scaled, top, left, cropped_height, cropped_width)


def require_inside(pixel: tuple[int, int], height: int, width: int) -> None:
    """
    Raises:
        ValueError: the pixel (x, y), counted from the top left, lies outside the image.
    """
    x, y = pixel
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"focus {x},{y} lies outside the {width}x{height} px image (WxH)")


def _if_any(field: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if field is None else change(field)


def _nearest(field: Tensor, height: int, width: int) -> Tensor:
    # "nearest" in torch samples the pixel's corner and shifts the map; "nearest-exact" its centre.
    numbers = field.to(torch.uint8) if field.dtype == torch.bool else field
    resized = interpolate(numbers[None, None], (height, width), mode="nearest-exact")[0, 0]
    return resized.to(field.dtype)


def _bilinear(field: Tensor, height: int, width: int) -> Tensor:
    return interpolate(field[None, None], (height, width), mode="bilinear", align_corners=False)[
        0, 0
    ]


def _invert(field: Tensor) -> Tensor:
    return torch.where(field > 0, 1 / field, torch.zeros_like(field))


def _require_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"target size {width}x{height} px (WxH) must be at least 1x1")
