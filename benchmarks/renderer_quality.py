"""Renderers of one image with depth, against the lens-sampled truth of procedural scenes.

Textures are of families that no network is trained on; the constants of the layered renderer were
set on other scenes of these families. Depth, focus and K are exact::

    python benchmarks/renderer_quality.py --images /tmp/images
    python benchmarks/renderer_quality.py --smear 0.7
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from plain_scatter import render_plain
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.metrics.lpips import lpips
from genrefocus.metrics.ssim import ssim
from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.apertures import Aperture, Array, disk
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES

KINDS = ("foreground in focus", "background in focus", "thin structures", "point lights")
FIRST_SEED = 70_000
THIN_SHARE = 0.12
"""Share of pixels at depth edges from which a scene counts as one of thin structures."""


class Case(NamedTuple):
    """A scene: what a renderer gets, the truth in linear light, and where depth edges act.

    `band` (H, W) is what lies within the greatest blur radius of a depth edge of more than 1 px.
    """

    image: Tensor
    disparity: Tensor
    focus: float
    strength: BlurStrength
    truth: Tensor
    band: Tensor


class Scores(NamedTuple):
    """PSNR in dB, SSIM and LPIPS of the image; PSNR of the band at depth edges and the rest."""

    psnr: float
    ssim: float
    lpips: float
    edges: float
    elsewhere: float


class _Gaussian(Aperture):
    """No aperture: a Gaussian with the variance of the disc."""

    def kernel(self, radius: float) -> Array:
        sigma = max(abs(radius) / 2.0, 1e-3)
        reach = math.ceil(3.0 * sigma)
        axis = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        weights = np.outer(axis, axis)
        return weights / weights.sum()


Renderer = Callable[[Case], Tensor]


def renderers(smear: float) -> dict[str, Renderer]:
    """Name to renderer; those of smeared depth as well where it is."""

    def arguments(case: Case) -> dict[str, float | BlurStrength]:
        return {"focus_disparity": case.focus, "strength": case.strength}

    gaussian = _Gaussian("gaussian", disk().distance)
    found: dict[str, Renderer] = {
        "Gaussian layers": lambda c: render_scatter(
            c.image, c.disparity, aperture=gaussian, **arguments(c)
        ),
        "plain scatter": lambda c: render_plain(c.image, c.disparity, **arguments(c)),
        "scatter in layers": lambda c: render_scatter(
            c.image, c.disparity, aperture=disk(), **arguments(c)
        ),
        "layered": lambda c: render_layered(c.image, c.disparity, aperture=disk(), **arguments(c)),
    }
    if smear > 0.0:
        found["layered, edge_width=2"] = lambda c: render_layered(
            c.image, c.disparity, aperture=disk(), edge_width=2, **arguments(c)
        )
    return found


def cases(kind: str, count: int, size: int, samples: int, smear: float) -> Iterator[Case]:
    """The first `count` scenes of a kind, in order of their seeds."""
    seed, found = FIRST_SEED + 1000 * KINDS.index(kind), 0
    while found < count:
        seed += 1
        lights = 1.0 if kind == "point lights" else 0.0
        scene = procedural_scene(seed, size, size, families=HELDOUT_FAMILIES, lights=lights)
        rng = np.random.default_rng(seed)
        disparity = scene_disparity(scene)
        focus = _focus(kind, scene, disparity, rng)
        strength = draw_strength(scene, focus, rng, low=4.0, high=20.0)
        if (
            kind == "thin structures"
            and float(_edges(disparity, focus, strength).mean()) < THIN_SHARE
        ):
            continue
        found += 1
        reach = math.ceil(float(signed_defocus(disparity, focus, strength).abs().max()))
        edges = _edges(disparity, focus, strength)
        band = max_pool2d(edges[None], 2 * reach + 1, 1, reach)[0] > 0
        truth = render_lens(
            scene, focus_disparity=focus, strength=strength, positions=disk().positions(samples)
        )
        if smear > 0.0:
            disparity = gaussian_blur(disparity[None], [9, 9], [smear, smear])[0]
        yield Case(scene_aif(scene), disparity, focus, strength, truth, band)


def _focus(kind: str, scene: Scene, disparity: Tensor, rng: np.random.Generator) -> float:
    """The nearest or farthest surface of 2 % of the image or more, or any."""
    if kind not in KINDS[:2]:
        return draw_focus(scene, rng)
    index = scene.visible
    areas = torch.bincount(index.flatten()) / index.numel()
    surfaces = [i for i, area in enumerate(areas.tolist()) if area >= 0.02]
    return float(disparity[index == surfaces[-1 if kind == KINDS[0] else 0]].median())


def _edges(disparity: Tensor, focus: float, strength: BlurStrength) -> Tensor:
    """1 at pixels (H, W) beside one that differs by more than 1 px of defocus, else 0."""
    defocus = signed_defocus(disparity, focus, strength)
    edge = torch.zeros_like(defocus)
    edge[:, 1:] = torch.maximum(edge[:, 1:], (defocus.diff(dim=1).abs() > 1.0).float())
    edge[1:] = torch.maximum(edge[1:], (defocus.diff(dim=0).abs() > 1.0).float())
    return edge


def score(output: Tensor, case: Case) -> Scores:
    """Scores of linear light, clipped and in sRGB."""
    ours, truth = linear_to_srgb(output)[None], linear_to_srgb(case.truth)[None]
    square = (ours - truth).square().mean((0, 1))

    def decibels(where: Tensor) -> float:
        # Up to 60 dB, a quarter of an 8-bit step: what is beyond is the same.
        return (
            -10.0 * math.log10(max(float(square[where].mean()), 1e-6)) if where.any() else math.nan
        )

    return Scores(
        decibels(torch.ones_like(case.band)),
        float(ssim(ours, truth)),
        float(lpips(ours, truth)),
        decibels(case.band),
        decibels(~case.band),
    )


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, list[Scores]]:
    found: dict[str, list[Scores]] = {}
    settings = (arguments.scenes, arguments.size, arguments.samples, arguments.smear)
    for number, case in enumerate(cases(kind, *settings)):
        outputs = {name: render(case) for name, render in renderers(arguments.smear).items()}
        for name, output in outputs.items():
            found.setdefault(name, []).append(score(output, case))
        if arguments.images is not None:
            file = f"{kind.replace(' ', '_')}_{number}.png"
            _image(case, outputs).save(arguments.images / file)
    return found


def _image(case: Case, outputs: dict[str, Tensor]) -> Image.Image:
    """Sharp image, outputs and truth in a row; below, disparity and four times the errors."""
    truth = linear_to_srgb(case.truth)
    shown = [linear_to_srgb(x) for x in (case.image, *outputs.values())]
    errors = [(4.0 * (x - truth)).abs().clamp(0.0, 1.0) for x in shown[1:]]
    depth = case.disparity - case.disparity.min()
    first = (depth / depth.max().clamp_min(1e-6)).expand(3, -1, -1)
    above = torch.cat([*shown, truth], 2)
    below = torch.cat([first, *errors, torch.zeros_like(truth)], 2)
    both = (torch.cat([above, below], 1) * 255.0).round().to(torch.uint8)
    return Image.fromarray(both.permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12, help="per kind")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=512, help="views on the aperture")
    parser.add_argument("--smear", type=float, default=0.0, help="blur of the given depth, px")
    parser.add_argument("--images", type=Path, help="folder for images of all scenes")
    arguments = parser.parse_args()
    if arguments.images is not None:
        arguments.images.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"{arguments.scenes} scenes a kind, {arguments.size} px")
    for column in ("scenes", "renderer", "PSNR", "SSIM", "LPIPS", "at edges", "elsewhere"):
        table.add_column(column, justify="left" if column in ("scenes", "renderer") else "right")
    everything: dict[str, list[Scores]] = {}
    for kind in KINDS:
        found = measure(kind, arguments)
        for name, scores in found.items():
            everything.setdefault(name, []).extend(scores)
        _rows(table, kind, found)
    _rows(table, "all", everything)
    console = Console(width=100)
    console.print(table)
    for name in ("plain scatter", "scatter in layers"):
        for part in ("edges", "elsewhere"):
            gains = [
                getattr(ours, part) - getattr(theirs, part)
                for ours, theirs in zip(everything["layered"], everything[name], strict=True)
            ]
            gain = np.array([x for x in gains if not math.isnan(x)])
            console.print(
                f"layered over {name}, {part}: median {np.median(gain):+.2f} dB, "
                f"worst scene {gain.min():+.2f}, better in {(gain > 0).sum()} of {len(gain)}"
            )


def _rows(table: Table, kind: str, found: dict[str, list[Scores]]) -> None:
    for number, (name, scores) in enumerate(found.items()):
        means = Scores(*np.nanmean(np.array(scores), axis=0))
        table.add_row(
            kind if number == 0 else "",
            name,
            f"{means.psnr:.2f}",
            f"{means.ssim:.4f}",
            f"{means.lpips:.4f}",
            f"{means.edges:.2f}",
            f"{means.elsewhere:.2f}",
            end_section=number == len(found) - 1,
        )


if __name__ == "__main__":
    main()
