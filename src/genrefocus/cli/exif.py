"""``genrefocus exif``: exposure facts of photographs, one JSON line a file."""

import argparse
import dataclasses
import json

from genrefocus.exif import read_exposure
from genrefocus.rejection import Rejected


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO")


def run(args: argparse.Namespace) -> int:
    for photo in args.photos:
        record: dict[str, object] = {"file": photo}
        try:
            record |= dataclasses.asdict(read_exposure(photo))
        except Rejected as rejected:
            record |= {
                "reason": rejected.reason.value,
                "value": rejected.value,
                "detail": rejected.detail,
            }
        print(json.dumps(record, allow_nan=False), flush=True)
    return 0
