"""What several commands read alike: image, depth, in-focus mask, point in focus, aperture."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from genrefocus.decoding import opened, read_file
from genrefocus.geometry import DepthResize, resize_disparity
from genrefocus.optics import depth_to_disparity, focus_disparity
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import Aperture, disk, polygon, raster


def open_upright(path: Path, name: str) -> Image.Image:
    """A decoded image file, turned by its EXIF orientation.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, a damaged one, or one too large to decode.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name} file {path} does not exist")
    try:
        with opened(read_file(path), str(path)) as file:
            return ImageOps.exif_transpose(file)
    except Rejected as rejected:
        if rejected.reason is Reason.NOT_AN_IMAGE:
            raise ValueError(f"{name} {path} is not an image file; give a PNG or JPEG") from None
        raise ValueError(f"{name} {rejected.detail} ({rejected.reason})") from None


def load_disparity(
    path: Path, height: int, width: int, resize_depth: DepthResize | None = None
) -> Tensor:
    """Disparity (height, width) in 1/m from a .npy file of metric depth.

    Raises:
        FileNotFoundError, ValueError: no such file, not a 2-D array of floating point metres, or
            another size than the image while ``resize_depth`` is None.
        Rejected: the depth is degenerate, see ``optics.depth_to_disparity``.
    """
    try:
        disparity = depth_to_disparity(torch.from_numpy(load_map(path, "depth")))
    except Rejected as error:
        raise Rejected(error.reason, error.value, f"{path}: {error.detail}") from None
    size = f"{disparity.shape[0]}x{disparity.shape[1]}"
    if tuple(disparity.shape) == (height, width):
        return disparity
    if resize_depth is None:
        raise ValueError(
            f"{path} is {size} px but the image is {height}x{width} px (HxW); "
            "give depth of the upright image's size or add --resize-depth nearest"
        )
    return resize_disparity(disparity, height, width, mode=resize_depth)


def load_map(path: Path, name: str) -> np.ndarray:
    """A 2-D float32 array from a .npy file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a .npy file of one 2-D floating point array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name} file {path} does not exist")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy array; write it with numpy.save") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "an archive"
        raise ValueError(f"{path} holds {found}; {name} must be a 2-D floating point array")
    return values.astype(np.float32)


def load_mask(path: Path, height: int, width: int) -> Tensor:
    """In-focus mask (height, width) bool from an image file: True where it is not black.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or another size than the image.
        Rejected: ``empty_mask``.
    """
    mask = torch.from_numpy(np.array(open_upright(path, "mask").convert("L"))) > 0
    if tuple(mask.shape) != (height, width):
        raise ValueError(
            f"mask {path} is {mask.shape[0]}x{mask.shape[1]} px but the image is "
            f"{height}x{width} px (HxW); give a mask of the image's size"
        )
    if not mask.any():
        raise Rejected(Reason.EMPTY_MASK, 0, f"{path} is black; paint the region in focus white")
    return mask


def focus_from_mask(disparity: Tensor, path: Path) -> float:
    """Focus disparity in 1/m: the median under the mask in ``path``; errors as load_mask."""
    return focus_disparity(disparity, load_mask(path, *disparity.shape))


def require_inside(pixel: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """The pixel (x, y), counted from the top left.

    Raises:
        ValueError: it lies outside the image.
    """
    x, y = pixel
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"--focus {x},{y} lies outside the {width}x{height} px image (WxH)")
    return pixel


def focus_at_point(disparity: Tensor, pixel: tuple[int, int]) -> float:
    """Focus disparity in 1/m: the value at the pixel (x, y); errors as :func:`require_inside`."""
    height, width = disparity.shape
    x, y = require_inside(pixel, height, width)
    return float(disparity[y, x])


def aperture_named(shape: str, rotation: float | None, curvature: float | None) -> Aperture:
    """The aperture that ``--aperture`` names; degrees and curvature are for polygons.

    Raises:
        ValueError: an unknown shape.
    """
    kind, _, blades = shape.partition(":")
    if kind in ("hexagon", "polygon"):
        count = "6" if kind == "hexagon" and not blades else blades
        if not count.isdecimal():
            raise ValueError(f"--aperture {shape}: give a number of blades, as in polygon:7")
        return polygon(int(count), math.radians(rotation or 0.0), curvature or 0.0)
    if shape == "disk":
        return disk()
    if not Path(shape).is_file():
        raise ValueError(
            f"--aperture {shape}: neither disk, hexagon, polygon:BLADES nor a picture that exists"
        )
    return raster(Path(shape))
