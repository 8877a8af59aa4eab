"""``genrefocus control``: the control signal of an image with depth, as one JSON line."""

import argparse
import json

import numpy as np

from genrefocus.cli.inputs import (
    focus_at_point,
    load_disparity,
    load_focus_mask,
)
from genrefocus.data.images import load_image, save_map
from genrefocus.optics import BlurStrength, defocus_map, focus_disparity


def run(args: argparse.Namespace) -> int:
    height, width = load_image(args.image).shape[1:]
    strength = BlurStrength(args.k, height, width)
    disparity = load_disparity(args.depth, height, width, args.resize_depth)
    if args.mask is not None:
        focus = focus_disparity(disparity, load_focus_mask(args.mask, height, width))
    else:
        focus = focus_at_point(disparity, args.focus)
    defocus = defocus_map(disparity, focus, strength)
    if args.save_map is not None:
        save_map(defocus, args.save_map)
    summary = {
        "focus_disparity": focus,
        "k": strength.k,
        "mean": float(defocus.double().mean()),
        "max": float(defocus.max()),
        "p99": float(np.percentile(defocus.numpy(), 99)),
    }
    print(json.dumps(summary, allow_nan=False))
    return 0
