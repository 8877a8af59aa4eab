"""``genrefocus lightfield``: sets for the tasks bokeh and refocus, made of real light fields."""

import argparse
import shlex

from genrefocus.benchmark.lightfield.building import (
    FOLDERS,
    REJECTIONS_NAME,
    build_from_light_fields,
)
from genrefocus.cli.inputs import aperture_named
from genrefocus.data.shards import read_index
from genrefocus.wording import counted


def run(args: argparse.Namespace) -> int:
    command = ["genrefocus", "lightfield", str(args.source), "-o", str(args.output)]
    rejected = build_from_light_fields(
        args.output,
        args.source,
        seed=args.seed,
        grid=args.grid,
        order=args.order,
        reach=args.reach,
        blur_px=tuple(args.blur),
        aperture=aperture_named(args.aperture, None, None),
        workers=args.workers,
        command=shlex.join(command),
    )
    for name, reason in rejected:
        print(f"rejected {name}: {reason}")
    for folder in FOLDERS.values():
        samples = read_index(args.output / folder)["samples"]
        print(f"{args.output / folder}: {counted(samples, 'sample')}")
    if rejected:
        print(f"{counted(len(rejected), 'scene')} rejected, see {args.output / REJECTIONS_NAME}")
    return 0
