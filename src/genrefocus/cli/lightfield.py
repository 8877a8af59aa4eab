"""``genrefocus lightfield``: sets for the tasks bokeh and refocus, made of real light fields."""

import argparse
import math
import shlex
from pathlib import Path
from typing import get_args

from genrefocus.benchmark.lightfield.building import (
    FOLDERS,
    GRID,
    REJECTIONS_NAME,
    build_from_light_fields,
)
from genrefocus.benchmark.lightfield.reading import Order
from genrefocus.cli.inputs import aperture_named
from genrefocus.data.shards import read_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder; each sub-folder of views, ESLF picture or .npy (V, U, H, W, 3) is a scene",
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--seed", type=int, default=0, help="of focus and K (default: 0)")
    parser.add_argument(
        "--grid", type=int, default=GRID, help=f"central views in a row, odd (default: {GRID})"
    )
    parser.add_argument(
        "--order",
        choices=get_args(Order),
        default="camera",
        help="camera: views are counted as the camera moves (default); aperture: turned by 180 deg",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=2.0,
        metavar="PX",
        help="greatest motion between neighbouring views that is searched (default: 2)",
    )
    parser.add_argument(
        "--blur",
        type=float,
        nargs=2,
        default=(1.0, math.inf),
        metavar=("LOW", "HIGH"),
        help="range of the greatest blur radius, px (default: 1 to what the views allow)",
    )
    parser.add_argument(
        "--aperture", default="disk", metavar="SHAPE", help="as of genrefocus render"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")


def run(args: argparse.Namespace) -> int:
    low, high = args.blur
    if not 0 < low <= high:
        raise ValueError(f"--blur {low} {high}: give two radii in px, 0 < LOW <= HIGH")
    command = ["genrefocus", "lightfield", str(args.source), "-o", str(args.output)]
    rejected = build_from_light_fields(
        args.output,
        args.source,
        seed=args.seed,
        grid=args.grid,
        order=args.order,
        reach=args.reach,
        blur_px=(low, high),
        aperture=aperture_named(args.aperture, None, None),
        workers=args.workers,
        command=shlex.join(command),
    )
    for name, reason in rejected:
        print(f"rejected {name}: {reason}")
    for folder in FOLDERS.values():
        print(f"{args.output / folder}: {read_index(args.output / folder)['samples']} samples")
    if rejected:
        print(f"{len(rejected)} scenes rejected, see {args.output / REJECTIONS_NAME}")
    return 0
