"""Estimated against true depth of a real photograph: ranks, blur radii, and the rendered image.

For 16 points in focus the layered renderer blurs the photograph by the true depth, and by others,
which each take the plane of focus from their own depth at the point, as a click does::

    python benchmarks/estimated_depth.py motorcycle.png motorcycle.npy --depth-model FILE.onnx \
        --depth-kind relative_disparity --depth-pixels bytes --depth-range 2,5

DEPTH.npy holds metres, and 0 or less where nothing is known; these pixels are not counted.
"""

import argparse
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_edt
from scipy.stats import spearmanr
from torch import Tensor

from genrefocus.cli.inputs import depth_estimator
from genrefocus.data.images import load_image, load_map
from genrefocus.estimators import Photo
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.tone import in_linear_light


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image")
    parser.add_argument("depth")
    parser.add_argument("--depth-model", required=True)
    parser.add_argument("--depth-kind")
    parser.add_argument("--depth-pixels")
    parser.add_argument("--depth-range", type=lambda text: [float(x) for x in text.split(",")])
    parser.add_argument("--radius", type=float, default=8.0, help="largest true blur radius, px")
    args = parser.parse_args()
    image, depth = load_image(args.image), load_map(args.depth, "depth")
    known = depth > 0
    nearest = distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    true = 1 / depth[tuple(torch.from_numpy(nearest))]
    estimator = depth_estimator(args, "cpu")
    (answer,) = estimator.depth([Photo("photograph", image, image)])
    estimated = 1 / answer
    low, high = true[known].aminmax()
    down = torch.linspace(0, 1, len(true))[:, None].expand_as(true)
    slope, offset = np.polyfit(estimated[known].double(), true[known].double(), 1)
    ways = {
        "photograph as it is": None,
        "ramp from the top (far) to the bottom (near)": low + down * (high - low),
        "estimated": estimated,
        "estimated, best linear fit to the true disparity": slope * estimated + offset,
    }
    table = Table(title=estimator.name)
    for column in ("disparity", "rank correlation", "error of the radius, px", "PSNR, dB"):
        table.add_column(column)
    for name, disparity in ways.items():
        rank = "" if disparity is None else f"{spearmanr(disparity[known], true[known])[0]:.3f}"
        radius, psnr = compared(image, true, disparity, known, args.radius)
        table.add_row(name, rank, f"{radius:.2f}", f"{psnr:.2f}")
    Console().print(table)


def compared(
    image: Tensor, true: Tensor, other: Tensor | None, known: Tensor, most: float
) -> tuple[float, float]:
    """Mean error of the blur radius in px and mean PSNR in dB over the points in focus."""
    height, width = true.shape
    found = []
    for y in range(height // 8, height, height // 4):
        for x in range(width // 8, width, width // 4):
            k = most / float((true - true[y, x])[known].abs().max())
            strength = BlurStrength(k, height, width)
            by = partial(render, image, strength=strength)
            truth = by(true, focus=float(true[y, x]))
            radius = blur_radius(true, float(true[y, x]), strength)
            if other is None:
                answer, own = image, torch.zeros_like(radius)
            else:
                answer = by(other, focus=float(other[y, x]), edge_width=2)
                own = blur_radius(other, float(other[y, x]), strength)
            error = (answer - truth)[:, known].square().mean()
            found.append(((own - radius)[known].abs().mean(), -10 * error.log10()))
    radii, psnr = zip(*found, strict=True)
    return float(torch.stack(radii).mean()), float(torch.stack(psnr).mean())


def render(
    image: Tensor, disparity: Tensor, *, focus: float, strength: BlurStrength, edge_width: int = 0
) -> Tensor:
    """The photograph (3, H, W) blurred by the layered renderer, encoded as before."""
    blurred = partial(
        render_layered,
        disparity=disparity.clamp_min(0),
        focus_disparity=max(focus, 0.0),
        strength=strength,
        aperture=disk(),
        edge_width=edge_width,
    )
    return in_linear_light(blurred, image)


if __name__ == "__main__":
    main()
