"""``genrefocus compat FILE...``: relative error of each golden file."""

import argparse
import sys

from genrefocus.compat import TOLERANCE, relative_error


def run(args: argparse.Namespace) -> int:
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
