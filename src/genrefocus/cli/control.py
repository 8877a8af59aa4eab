"""``genrefocus control``: the control signal of an image with depth, as one JSON line."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from genrefocus.cli.inputs import (
    add_resize_depth_argument,
    focus_at_point,
    focus_from_mask,
    load_disparity,
    open_upright,
)
from genrefocus.optics import BlurStrength, defocus_map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--depth", type=Path, required=True, metavar="D.npy", help="metres, (H, W)")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument("--mask", type=Path, metavar="M.png", help="in focus where not black")
    focus.add_argument("--focus", metavar="X,Y", help="pixel in focus; its disparity is taken")
    parser.add_argument(
        "--k", type=float, required=True, metavar="K", help="px at 1/m for IMAGE's size; 0 or more"
    )
    add_resize_depth_argument(parser)
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="map.png",
        help="write the defocus map as 16 bit grey, 65535 for 1",
    )


def run(args: argparse.Namespace) -> int:
    width, height = open_upright(args.image, "image").size
    strength = BlurStrength(args.k, height, width)
    disparity = load_disparity(args.depth, height, width, args.resize_depth)
    if args.mask is not None:
        focus = focus_from_mask(disparity, args.mask)
    else:
        focus = focus_at_point(disparity, args.focus)
    defocus = defocus_map(disparity, focus, strength).numpy()
    if args.output is not None:
        _write_map(defocus, args.output)
    summary = {
        "focus_disparity": focus,
        "k": strength.k,
        "mean": float(defocus.mean(dtype=np.float64)),
        "max": float(defocus.max()),
        "p99": float(np.percentile(defocus, 99)),
    }
    print(json.dumps(summary, allow_nan=False))
    return 0


def _write_map(defocus: np.ndarray, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"-o {path}: the defocus map is written as PNG; give a name with .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"-o {path}: there is no folder {path.parent}")
    Image.fromarray(np.round(defocus * 65535).astype(np.uint16)).save(path)
