"""What the metrics of blur say of right and wrong images of scenes seen through a sampled lens.

Wrong on purpose: K 20 % off either way, focus off by 0.3 1/m (with K 20 % low), no blur, one blur
all over, and each pixel blurred by its own radius without an order of surfaces::

    python benchmarks/metric_validity.py --scenes 24
"""

import argparse
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.metrics.blur_radius import measure_radii
from genrefocus.metrics.focus_plane import find_focus
from genrefocus.metrics.registry import METRICS
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import in_linear_light, linear_to_srgb
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

SHOWN = (
    "blur_radius_error",
    "blur_radius_bias",
    "focus_plane_error",
    "in_focus_psnr",
    "bleeding_near",
    "bleeding_far",
)


def through_lens(scene: Scene, focus: float, k: float) -> Tensor:
    strength = BlurStrength(k, scene.height, scene.width)
    return linear_to_srgb(
        render_lens(
            scene, focus_disparity=focus, strength=strength, positions=disk().positions(128)
        )
    )


def gathered(aif: Tensor, radius: Tensor) -> Tensor:
    """Each pixel from a Gaussian of its own radius over whatever lies around it."""
    levels = torch.arange(0, math.ceil(float(radius.max())) + 1)
    stack = [aif] + [
        gaussian_blur(aif, [4 * int(r) + 1] * 2, [float(r) / 2] * 2) for r in levels[1:]
    ]
    return torch.stack(stack).gather(0, radius.round().long()[None, None].expand(1, 3, -1, -1))[0]


def cases(count: int, size: int) -> Iterator[tuple[dict, dict[str, Tensor]]]:
    """Facts of a scene, and images of it by name."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        scene = procedural_scene(seed, size, size, lights=0.0, margin=size // 6)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=size / 48, high=size / 14)
        aif, disparity = linear_to_srgb(scene_aif(scene)), scene_disparity(scene)
        facts = {"aif": aif, "disparity": disparity}
        facts |= {"focus_disparity": focus, "strength": strength}
        facts["target"] = through_lens(scene, focus, strength.k)
        images = {"truth": facts["target"]}
        for factor in (0.8, 1.2):
            images[f"K x {factor}"] = through_lens(scene, focus, factor * strength.k)
        images |= {
            "focus + 0.3": through_lens(scene, focus + 0.3, 0.8 * strength.k),
            "scatter": in_linear_light(
                partial(
                    render_scatter,
                    disparity=disparity,
                    focus_disparity=focus,
                    strength=strength,
                    aperture=disk(),
                ),
                aif,
            ),
            "no order": gathered(aif, blur_radius(disparity, focus, strength)),
            "one blur": gaussian_blur(aif, [17, 17], [2.0, 2.0]),
            "identity": aif,
        }
        yield facts, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--size", type=int, default=192, help="pixels a side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    values: dict[str, list[list[float]]] = {}
    ratios: dict[str, list[Tensor]] = {}
    fitted: dict[str, list[float]] = {}
    for facts, images in cases(args.scenes, args.size):
        asked = {name: facts[name] for name in ("focus_disparity", "strength")}
        for name, image in images.items():
            row = [METRICS[m](image, **{n: facts[n] for n in METRICS[m].needs}) for m in SHOWN]
            values.setdefault(name, []).append(row)
            patches = measure_radii(image, facts["aif"], facts["disparity"], **asked)
            wide = patches.requested > 2.0
            ratios.setdefault(name, []).append(patches.measured[wide] / patches.requested[wide])
            k = find_focus(patches, facts["strength"].k).k
            fitted.setdefault(name, []).append(k / facts["strength"].k)
    columns = (*SHOWN, "measured / requested radius", "fitted / requested K")
    table = Table("image", *columns, title="medians over scenes (scenes that give a number)")
    for name, rows in values.items():
        figures = [*np.array(rows).T, torch.cat(ratios[name]).numpy(), np.array(fitted[name])]
        cells = []
        for column, numbers in zip(columns, figures, strict=True):
            told = numbers[np.isfinite(numbers)]
            count = "" if column.startswith("measured") else f" ({len(told)})"
            cells.append(f"{np.median(told):.3f}{count}" if len(told) else "- (0)")
        table.add_row(name, *cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
