"""``genrefocus lightfield``: sets for the tasks bokeh and refocus, made of real light fields."""

import argparse
import shlex

from genrefocus.benchmark.lightfield.building import (
    FOLDERS,
    REFOCUS,
    CapturedPairs,
    LightFields,
    build_sets,
)
from genrefocus.cli.inputs import aperture_named
from genrefocus.data.shards import read_index
from genrefocus.preparation.ledger import LEDGER_NAME, read_lines
from genrefocus.terminal import counted


def run(args: argparse.Namespace) -> int:
    command = ["genrefocus", "lightfield", str(args.source), "-o", str(args.output)]
    route = CapturedPairs(
        seed=args.seed,
        grid=args.grid,
        order=args.order,
        reach=args.reach,
        blur_px=tuple(args.blur),
        aperture=aperture_named(args.aperture),
    )
    fields = LightFields(args.source)
    build_sets(args.output, route, fields, workers=args.workers, command=shlex.join(command))
    ledger = args.output / REFOCUS / LEDGER_NAME
    rejected = list(read_lines(ledger))
    for one in rejected:
        print(f"rejected {one['name']}: {one['reason']} ({one['value']}): {one['detail']}")
    for folder in FOLDERS.values():
        samples = read_index(args.output / folder)["samples"]
        print(f"{args.output / folder}: {counted(samples, 'sample')}")
    if rejected:
        print(f"{counted(len(rejected), 'scene')} rejected, see {ledger}")
    return 0
