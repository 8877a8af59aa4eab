"""BokehNet on scenes of an exact lens: PSNR, and how far the rendered blur radius is off.

The benchmark has estimated depth and lenses of their own character; here the answer is exact, so
what is left is the network's. Beside it the scatter renderer with the same exact disparity::

    python benchmarks/exact_lens.py outputs/semi_supervised/<run>/bokehnet_semi_supervised
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from genrefocus.metrics.blur_radius import measure_radii
from genrefocus.metrics.psnr import psnr
from genrefocus.network import Network, load_networks
from genrefocus.network_card import read_network_card
from genrefocus.noise import seeded_generators
from genrefocus.optics import BlurStrength, defocus_map
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

SEED, POSITIONS = 900, 128
BINS = ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.1))
"""Of the radius that is asked for, px."""


class Shot(NamedTuple):
    """All in focus and photograph (3, H, W), disparity (H, W) in 1/m, focus and strength."""

    aif: Tensor
    photograph: Tensor
    disparity: Tensor
    focus: float
    strength: BlurStrength


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", type=Path, nargs="*", help="folders of trained BokehNets")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="px of a side (128)")
    parser.add_argument("--radius", type=float, default=4.0, help="greatest in a scene, px (4)")
    args = parser.parse_args()
    console = Console(stderr=True)
    shots = list(track(shots_of(args), "scenes", console=console, total=args.scenes))
    ways: dict[str, Callable[[int, Shot], Tensor]] = {
        "unmodified": lambda _, shot: shot.aif,
        "scatter renderer": lambda _, shot: scattered(shot),
    }
    for stage in args.stages:
        card = read_network_card(stage)
        network = load_networks({card.task: card})[card.task]
        ways["/".join(stage.resolve().parts[-3:])] = partial(answer, network)
    table = Table(title=f"{args.scenes} scenes, blur up to {args.radius:g} px, radius error in px")
    for column in ("", "PSNR dB", *(f"{low:g} to {high:.1g} px" for low, high in BINS)):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for name, way in ways.items():
        images = list(enumerate(track(shots, "images", console=console, transient=True)))
        table.add_row(name, *row([(shot, way(number, shot)) for number, shot in images]))
    Console().print(table)


def shots_of(args: argparse.Namespace) -> Iterator[Shot]:
    """Scenes that no training has, by their seeds."""
    for seed in range(SEED, SEED + args.scenes):
        scene = procedural_scene(seed, args.size, args.size, lights=0.3, margin=24)
        rng = np.random.default_rng(seed)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=args.radius, high=args.radius + 0.001)
        optics = {"focus_disparity": focus, "strength": strength}
        light = render_lens(scene, **optics, positions=disk().positions(POSITIONS))
        images = (linear_to_srgb(one).clamp(0, 1) for one in (scene_aif(scene), light))
        yield Shot(*images, scene_disparity(scene), focus, strength)


def answer(network: Network, number: int, shot: Shot) -> Tensor:
    """By BokehNet; ``number`` selects its noise."""
    control = defocus_map(shot.disparity, shot.focus, shot.strength)[None, None]
    return network.generate(shot.aif[None], seeded_generators(0, [number]), control=control)[0]


def scattered(shot: Shot) -> Tensor:
    """By the scatter renderer."""
    light = render_scatter(
        srgb_to_linear(shot.aif),
        shot.disparity,
        focus_disparity=shot.focus,
        strength=shot.strength,
        aperture=disk(),
    )
    return linear_to_srgb(light).clamp(0, 1)


def row(answers: list[tuple[Shot, Tensor]]) -> list[str]:
    """Mean PSNR, and mean absolute error of the radius in each bin."""
    mean = fmean(float(psnr(image[None], shot.photograph[None])[0]) for shot, image in answers)
    found = [
        measure_radii(
            image.clamp(0, 1),
            shot.aif,
            shot.disparity,
            focus_disparity=shot.focus,
            strength=shot.strength,
        )
        for shot, image in answers
    ]
    asked = torch.cat([one.requested for one in found])
    error = (torch.cat([one.measured for one in found]) - asked).abs()
    bins = [error[(asked >= low) & (asked < high)] for low, high in BINS]
    return [f"{mean:.2f}", *(f"{float(one.mean()):.3f}" for one in bins)]


if __name__ == "__main__":
    main()
