"""Milliseconds of the page's previews, 512 px long, by blur and aperture.

Of computing, on one thread as on the page, so that other work on the machine hardly counts. Scenes
are procedural, of 3:2, with depth as estimators give it::

    OMP_NUM_THREADS=1 python benchmarks/preview_speed.py
"""

import argparse
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from genrefocus.geometry import View
from genrefocus.optics import BlurStrength
from genrefocus.page.rendering import Wish, in_coarse_slices, render_view
from genrefocus.page.session import PREVIEW_EDGE
from genrefocus.render.apertures import Aperture, disk, heart
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.estimates import estimate_depth
from genrefocus.world.scenes import draw_focus, procedural_scene


def main() -> None:
    """Print a row for each blur radius: medians and the slowest, over scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--radii", type=float, nargs="+", default=[4.0, 8.0, 16.0, 32.0])
    args = parser.parse_args()
    size = PREVIEW_EDGE * 2 // 3, PREVIEW_EDGE
    title = f"{size[1]}x{size[0]} px, {torch.get_num_threads()} threads; ms: median, slowest"
    table = Table(title=title)
    shapes = (disk(), heart())
    for name in ("greatest radius, px", *(shape.name for shape in shapes)):
        table.add_column(name, justify="right")
    for radius in args.radii:
        row = []
        for shape in shapes:
            times = [preview_ms(n, size, radius, shape, args.repeats) for n in range(args.scenes)]
            row.append(f"{statistics.median(times):.0f}, {max(times):.0f}")
        table.add_row(f"{radius:g}", *row)
    Console(width=110).print(table)


def preview_ms(
    seed: int, size: tuple[int, int], radius: float, shape: Aperture, repeats: int
) -> float:
    """Median over repeats, of one scene."""
    rng = np.random.default_rng(seed)
    scene = procedural_scene(seed, *size, lights=0.0, margin=8)
    focus, exact = draw_focus(scene, rng), scene_disparity(scene)
    disparity = 1 / torch.from_numpy(estimate_depth(exact.numpy(), rng)).float()
    k = radius / float((disparity - focus).abs().max())
    view = View(linear_to_srgb(scene_aif(scene)), disparity, None, BlurStrength(1.0, *size))
    wish, times = Wish(focus, k, shape), []
    for _ in range(repeats + 1):
        start = time.process_time()
        render_view(in_coarse_slices(view, wish), wish)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times[1:])


if __name__ == "__main__":
    main()
