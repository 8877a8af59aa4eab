"""``genrefocus compat FILE...``: relative error of each golden file."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="golden .safetensors file"
    )


def run(args: argparse.Namespace) -> int:
    from genrefocus.compat import TOLERANCE, relative_error

    status = 0
    for path in args.files:
        try:
            error = relative_error(path)
        except (ValueError, OSError) as problem:
            print(f"genrefocus compat: {problem}", file=sys.stderr)
            status = 2
            continue
        agrees = error <= TOLERANCE
        print(f"{'ok  ' if agrees else 'FAIL'} {error:.3e} {path}")
        status = max(status, int(not agrees))
    return status
