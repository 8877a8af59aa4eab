"""``genrefocus render``: depth of field in a sharp image with depth, occlusion included."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from genrefocus.cli.inputs import (
    aperture_named,
    fitted_with_notice,
    focus_at_point,
    load_disparity,
    read_photograph,
)
from genrefocus.data.images import load_map
from genrefocus.geometry import DepthResize
from genrefocus.optics import BlurStrength, require_spread
from genrefocus.render.layered import render_layered
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import in_linear_light


def run(args: argparse.Namespace) -> int:
    photo = read_photograph(args.image, deep=True)
    height, width = photo.size
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
    rendered = in_linear_light(render, photo.image, args.response)
    photo.save(rendered, args.output, bits=photo.bits)
    return 0


def _renderer(args: argparse.Namespace) -> Callable[..., Tensor]:
    if args.renderer == "layered":
        return partial(
            render_layered, vignetting=args.cats_eye or 0.0, edge_width=args.edge_width or 0
        )
    return render_scatter


def _load_given_disparity(path: Path, height: int, width: int, resize_depth: DepthResize) -> Tensor:
    disparity = load_map(path, "disparity")
    if not torch.isfinite(disparity).all() or disparity.min() < 0:
        raise ValueError(f"{path}: disparity must be finite and 0 or more, in 1/m")
    return fitted_with_notice(disparity, height, width, path, resize_depth)
