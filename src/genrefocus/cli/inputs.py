"""What several commands read alike: image, depth, in-focus mask, point in focus, aperture."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genrefocus.data import images
from genrefocus.geometry import DepthResize, fitted, require_inside, require_proportions
from genrefocus.optics import depth_to_disparity
from genrefocus.rejection import Reason, Rejected

if TYPE_CHECKING:
    from genrefocus.estimators import DepthEstimator
    from genrefocus.render.apertures import Aperture


def read_photograph(path: Path, *, deep: bool = False) -> images.Photograph:
    """As :func:`images.load_photograph`; what was done to the image is said on stderr."""
    photo = images.load_photograph(path, deep=deep)
    shallow = ["16 bits are read at 8, as networks work; results have 8"] * (photo.bits > 8)
    for notice in photo.notices + shallow * (not deep):
        print(f"notice: {path}: {notice}", file=sys.stderr)
    return photo


def load_disparity(
    path: Path, height: int, width: int, resize_depth: DepthResize = "nearest"
) -> Tensor:
    """Disparity (height, width) in 1/m from a .npy file of metric depth.

    What is done to the map, or looks wrong about it, is said on stderr.

    Raises:
        ValueError: not a 2-D array of floating point metres, or of other proportions.
        Rejected: no such file, or degenerate depth, see ``optics.depth_to_disparity``.
    """
    depth = images.load_map(path, "depth in metres")
    require_proportions(depth, height, width, str(path))
    try:
        disparity = depth_to_disparity(depth)
    except Rejected as error:
        raise Rejected(error.reason, error.value, f"{path}: {error.detail}") from None
    if notice := images.not_in_metres(depth):
        print(f"notice: {path}: {notice}", file=sys.stderr)
    return fitted_with_notice(disparity, height, width, path, resize_depth)


def fitted_with_notice(
    values: Tensor, height: int, width: int, path: Path, mode: DepthResize = "nearest"
) -> Tensor:
    """As :func:`genrefocus.geometry.fitted`; a map that is resized is named on stderr."""
    resized = fitted(values, height, width, str(path), mode=mode)
    if resized.shape != values.shape:
        sizes = f"from {values.shape[1]}x{values.shape[0]} to {width}x{height} px (WxH)"
        print(f"notice: {path} is resized {sizes}, {mode}", file=sys.stderr)
    return resized


def load_focus_mask(path: Path, height: int, width: int) -> Tensor:
    """In-focus mask (height, width) bool from an image file, see :func:`data.images.load_mask`.

    Raises:
        ValueError: other proportions than the image's.
        Rejected: no image, or ``empty_mask``.
    """
    mask = fitted_with_notice(images.load_mask(path), height, width, path)
    if not mask.any():
        detail = f"{path} is nowhere half white; paint the region in focus white"
        raise Rejected(Reason.EMPTY_MASK, 0, detail)
    return mask


def depth_estimator(args: argparse.Namespace, device: str) -> "DepthEstimator":
    """The network that ``--depth-model`` names: an ONNX file, or one of transformers.

    Raises:
        ValueError, FileNotFoundError: it cannot be loaded, or does not fit the other options.
    """
    from genrefocus.estimators import OnnxDepth, PretrainedDepth

    told = {"kind": args.depth_kind, "range": args.depth_range}
    if args.depth_model.endswith(".onnx"):
        return OnnxDepth(args.depth_model, pixels=args.depth_pixels, **told)
    return PretrainedDepth(**_folder_or_commit(args.depth_model), device=device, **told)


def subject_of(photo: Tensor, args: argparse.Namespace, device: str) -> Tensor:
    """Mask (H, W) bool of the salient subject of a photograph (3, H, W), by ``--subject-model``.

    Raises:
        ValueError, FileNotFoundError: the network cannot be loaded, or answers no mask.
        Rejected: ``empty_mask``: it finds none.
    """
    from genrefocus.estimators import BiRefNet, OnnxSaliency, Photo

    if (model := args.subject_model).endswith(".onnx"):
        network: OnnxSaliency | BiRefNet = OnnxSaliency(model, pixels=args.subject_pixels)
    else:
        network = BiRefNet(**_folder_or_commit(model), device=device)
    ((region, name),) = network.mask([Photo("photograph", photo, photo)])
    if not region.any():
        detail = f"{name} finds no subject; name what shall be sharp with --focus X,Y"
        raise Rejected(Reason.EMPTY_MASK, 0, detail)
    return region


def _folder_or_commit(model: str) -> dict[str, Any]:
    if Path(model).is_dir():
        return {"model": model}
    name, _, revision = model.partition("@")
    return {"model": name, "revision": revision}


def focus_at_point(disparity: Tensor, pixel: tuple[int, int]) -> float:
    """Focus disparity in 1/m: the value at the pixel (x, y); errors as :func:`require_inside`."""
    require_inside(pixel, *disparity.shape)
    return float(disparity[pixel[1], pixel[0]])


def aperture_named(
    shape: str, rotation: float | None = None, curvature: float | None = None
) -> "Aperture":
    """The aperture that ``--aperture`` names, as lights behind the plane of focus show it.

    Args:
        shape: ``disk``, ``hexagon``, ``polygon:BLADES``, ``star:POINTS``, ``ring``, ``heart``, or
            an image.
        rotation: degrees, clockwise.
        curvature: of a polygon's blades.

    Raises:
        ValueError: an unknown shape.
    """
    from genrefocus.render.apertures import disk, heart, polygon, raster, ring, star

    turn = math.pi + math.radians(rotation or 0.0)  # behind the plane of focus a lens turns it
    kind, _, given = shape.partition(":")
    if kind in (fewest := {"hexagon": "6", "polygon": "", "star": "5"}):
        count = given or fewest[kind]
        if not count.isdecimal():
            raise ValueError(f"--aperture {shape}: give a number, as in polygon:7 or star:5")
        if kind == "star":
            return star(int(count), 0.45, turn)
        return polygon(int(count), turn, curvature or 0.0)
    plain = {"disk": disk, "ring": lambda: ring(0.5), "heart": lambda: heart(turn)}
    if shape in plain:
        return plain[shape]()
    if not Path(shape).is_file():
        raise ValueError(
            f"--aperture {shape}: neither disk, hexagon, polygon:BLADES, star:POINTS, ring, heart "
            "nor an image that exists"
        )
    return raster(Path(shape))
