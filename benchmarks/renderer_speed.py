"""Seconds of the layered renderer beside the plain scatter, in one process, by size and K.

On a CPU they are seconds of computing, all threads together, so that other work on the machine
does not count; on a GPU they are seconds of the clock.
Plain scatter with very many offsets is timed on every n-th of them, at full size, and scaled::

    python benchmarks/renderer_speed.py
    python benchmarks/renderer_speed.py --device cuda --cupy-kernel /path/to/scatter.py

`--cupy-kernel` is the file of BokehMe's CUDA kernel (classical_renderer/scatter.py of
JuewenPeng/BokehMe; bokehdiff carries it too); it needs a cupy old enough to have
`cupy.cuda.compile_with_cache`.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from plain_scatter import offsets, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.world.scenes import draw_focus, procedural_scene

MOST_WORK = 5e8
"""Offsets times pixels of a plain scatter beyond which it is timed in part."""


class RenderedImage:
    """A scene on a device; the same scene at every size, its K's in px at 1/m."""

    def __init__(self, seed: int, size: int, device: str) -> None:
        scene = procedural_scene(seed, size, size, lights=0.0, margin=8)
        self.focus = draw_focus(scene, np.random.default_rng(seed))
        self.image = scene_aif(scene).to(device)
        self.disparity = scene_disparity(scene).to(device)

    def defocus(self, k: float) -> Tensor:
        return signed_defocus(self.disparity, self.focus, self._strength(k))

    def _strength(self, k: float) -> BlurStrength:
        return BlurStrength(k, *self.disparity.shape)

    def layered(self, k: float) -> Tensor:
        return self._render(render_layered, k)

    def scatter(self, k: float) -> Tensor:
        return self._render(render_scatter, k)

    def _render(self, render: Callable[..., Tensor], k: float) -> Tensor:
        return render(
            self.image,
            self.disparity,
            focus_disparity=self.focus,
            strength=self._strength(k),
            aperture=disk(),
        )


def plain_seconds(image: RenderedImage, k: float, repeats: int) -> tuple[float, int]:
    """Median seconds of a plain scatter, and of how many offsets one was timed."""
    radius = image.defocus(k).abs()
    steps = offsets(float(radius.max()))
    part = max(1, round(len(steps) * radius.numel() / MOST_WORK))
    # An odd stride through rows of offsets takes near and far ones alike; the middle is kept.
    chosen = [x for i, x in enumerate(steps) if i % part == 0 or x == (0, 0)]
    once = seconds(partial(spread, image.image, radius, chosen), repeats, radius.is_cuda)
    return once * len(steps) / len(chosen), part


def seconds(run: Callable[[], object], repeats: int, cuda: bool) -> float:
    """Median seconds of a call; on a GPU after one to warm up, and until the GPU is done."""
    if cuda:
        run()
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        clock = time.perf_counter if cuda else time.process_time
        started = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - started)
    return statistics.median(times)


def load_cupy_scatter(path: Path) -> Callable[[Tensor, Tensor], object] | None:
    """The module of BokehMe's kernel, or None with a word why not."""
    if importlib.util.find_spec("cupy") is None:
        print("cupy is not installed: its kernel is not timed", file=sys.stderr)
        return None
    spec = importlib.util.spec_from_file_location("bokehme_scatter", path)
    if spec is None or spec.loader is None or not path.is_file():
        sys.exit(f"--cupy-kernel {path}: no Python file; give BokehMe's scatter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModuleRenderScatter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--k", type=float, nargs="+", default=[5.0, 15.0, 50.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cupy-kernel", type=Path, metavar="PATH")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    kernel = load_cupy_scatter(args.cupy_kernel) if args.cupy_kernel else None
    if kernel is not None and not cuda:
        parser.error("--cupy-kernel needs --device cuda")
    threads = torch.get_num_threads()
    table = Table(title=f"{args.device}, {threads} threads; seconds, median of {args.repeats}")
    names = [
        "px",
        "K",
        "seed",
        "radius",
        "layered",
        "scatter in layers",
        "plain",
        "plain / layered",
    ]
    for name in [*names, *(["BokehMe kernel"] if kernel else [])]:
        table.add_column(name, justify="right")
    for size in args.sizes:
        images = {seed: RenderedImage(seed, size, args.device) for seed in args.seeds}
        for k in args.k:
            for seed, image in images.items():
                ours = seconds(partial(image.layered, k), args.repeats, cuda)
                layers = seconds(partial(image.scatter, k), args.repeats, cuda)
                plain, part = plain_seconds(image, k, args.repeats)
                row = [
                    str(size),
                    f"{k:g}",
                    str(seed),
                    f"{float(image.defocus(k).abs().max()):.1f}",
                ]
                row += [f"{ours:.3f}", f"{layers:.3f}", f"{plain:.2f}" + "*" * (part > 1)]
                row += [f"{plain / ours:.1f}"]
                if kernel is not None:
                    planes = image.image[None], image.defocus(k)[None, None].contiguous()
                    row.append(f"{seconds(partial(kernel, *planes), args.repeats, cuda):.3f}")
                table.add_row(*row, end_section=seed == args.seeds[-1])
    table.caption = "* timed on part of the offsets and scaled"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
