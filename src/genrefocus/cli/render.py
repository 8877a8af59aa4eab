"""``genrefocus render``: depth of field in a sharp image with depth, by the classical renderer."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genrefocus.cli.inputs import (
    add_resize_depth_argument,
    focus_at_point,
    load_disparity,
    load_map,
    open_upright,
)
from genrefocus.geometry import DepthResize, resize_disparity
from genrefocus.optics import BlurStrength, require_spread
from genrefocus.render.apertures import Aperture, disk, polygon, raster
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import srgb_to_linear, to_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="sharp image, sRGB")
    surface = parser.add_mutually_exclusive_group(required=True)
    surface.add_argument("--depth", type=Path, metavar="D.npy", help="metres, (H, W)")
    surface.add_argument("--disparity", type=Path, metavar="D.npy", help="1/m, (H, W)")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument("--focus", metavar="X,Y", help="pixel in focus; its disparity is taken")
    focus.add_argument("--focus-disparity", type=float, metavar="V", help="1/m; 0 is infinity")
    parser.add_argument(
        "--k", type=float, required=True, metavar="K", help="px at 1/m for IMAGE's size; 0 or more"
    )
    parser.add_argument(
        "--aperture",
        default="disk",
        metavar="SHAPE",
        help="disk, hexagon, or a picture of the opening, white on black (default: disk)",
    )
    add_resize_depth_argument(parser)
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT.png")


def run(args: argparse.Namespace) -> int:
    _require_png(args.output)
    with open_upright(args.image, "image") as picture:
        srgb = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255.0
    height, width = srgb.shape[1:]
    strength = BlurStrength(args.k, height, width)
    if args.depth is not None:
        disparity = load_disparity(args.depth, height, width, args.resize_depth)
    else:
        disparity = _load_given_disparity(args.disparity, height, width, args.resize_depth)
    focus = args.focus_disparity
    if focus is None:
        require_spread(disparity)
        focus = focus_at_point(disparity, args.focus)
    image = render_scatter(
        srgb_to_linear(srgb),
        disparity,
        focus_disparity=focus,
        strength=strength,
        aperture=_aperture(args.aperture),
    )
    Image.fromarray(to_bytes(image).permute(1, 2, 0).numpy()).save(args.output)
    return 0


def _load_given_disparity(
    path: Path, height: int, width: int, resize_depth: DepthResize | None
) -> Tensor:
    disparity = torch.from_numpy(load_map(path, "disparity"))
    if not torch.isfinite(disparity).all() or disparity.min() < 0:
        raise ValueError(f"{path}: disparity must be finite and 0 or more, in 1/m")
    if tuple(disparity.shape) == (height, width):
        return disparity
    if resize_depth is None:
        raise ValueError(
            f"{path} is {disparity.shape[0]}x{disparity.shape[1]} px but the image is "
            f"{height}x{width} px (HxW); give disparity of the upright image's size or add "
            "--resize-depth nearest"
        )
    return resize_disparity(disparity, height, width, mode=resize_depth)


def _aperture(shape: str) -> Aperture:
    if shape == "disk":
        return disk()
    if shape == "hexagon":
        return polygon(6)
    if not Path(shape).is_file():
        raise ValueError(f"--aperture {shape}: neither disk, hexagon nor a picture that exists")
    return raster(Path(shape))


def _require_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"-o {path}: the result is written as PNG; give a name with .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"-o {path}: there is no folder {path.parent}")
