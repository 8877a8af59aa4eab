"""``genrefocus render``: depth of field in a sharp image with depth, occlusion included."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genrefocus.cli.inputs import (
    add_resize_depth_argument,
    aperture_named,
    focus_at_point,
    load_disparity,
    load_map,
    open_upright,
)
from genrefocus.geometry import DepthResize, resize_disparity
from genrefocus.optics import BlurStrength, require_spread
from genrefocus.render.layered import render_layered
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import RESPONSES, in_linear_light


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="sharp image")
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
        help="disk, hexagon, polygon:BLADES, or a picture of the opening, white on black "
        "(default: disk)",
    )
    parser.add_argument(
        "--rotation", type=float, metavar="DEG", help="turns a polygon; 0: a corner to the right"
    )
    parser.add_argument(
        "--curvature",
        type=float,
        metavar="C",
        help="of a polygon's blades, 0 (straight, the default) to 1 (a disc)",
    )
    parser.add_argument(
        "--cats-eye",
        type=float,
        metavar="V",
        help="vignetting of the aperture in the corners, 0 (none, the default) to 1",
    )
    parser.add_argument(
        "--ramps",
        type=int,
        metavar="PX",
        help="px over which edges of estimated depth are smeared; 0 (default) for exact depth",
    )
    parser.add_argument(
        "--response",
        choices=RESPONSES,
        default="srgb",
        help="how IMAGE encodes light, and OUT.png will (default: srgb)",
    )
    parser.add_argument(
        "--renderer",
        choices=("layered", "scatter"),
        default="layered",
        help="layered fills what edges hide; scatter is the classical one (default: layered)",
    )
    add_resize_depth_argument(parser)
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT.png")


def run(args: argparse.Namespace) -> int:
    _require_png(args.output)
    with open_upright(args.image, "image") as picture:
        image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255.0
    height, width = image.shape[1:]
    strength = BlurStrength(args.k, height, width)
    if args.depth is not None:
        disparity = load_disparity(args.depth, height, width, args.resize_depth)
    else:
        disparity = _load_given_disparity(args.disparity, height, width, args.resize_depth)
    focus = args.focus_disparity
    if focus is None:
        require_spread(disparity)
        focus = focus_at_point(disparity, args.focus)
    render = partial(
        _renderer(args),
        disparity=disparity,
        focus_disparity=focus,
        strength=strength,
        aperture=aperture_named(args.aperture, args.rotation, args.curvature),
    )
    encoded = (in_linear_light(render, image, args.response) * 255.0).round().to(torch.uint8)
    Image.fromarray(encoded.permute(1, 2, 0).numpy()).save(args.output)
    return 0


def _renderer(args: argparse.Namespace) -> Callable[..., Tensor]:
    if args.renderer == "layered":
        return partial(render_layered, vignetting=args.cats_eye or 0.0, ramps=args.ramps or 0)
    for name in ("cats_eye", "ramps"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} needs --renderer layered; scatter knows nothing of it")
    return render_scatter


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


def _require_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"-o {path}: the result is written as PNG; give a name with .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"-o {path}: there is no folder {path.parent}")
