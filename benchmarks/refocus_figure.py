"""The first image of the README: a simulated photograph, all in focus, and focused anew twice.

The photograph is a procedural scene of held-out textures through a sampled lens. DeblurNet and
BokehNet of a run make the other images, from its pixels, exact depth and two planes of focus. The
figures on screen compare each with the truth. From the checkout::

    python benchmarks/refocus_figure.py outputs/semi_supervised/<run> docs/images/refocus.jpg
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from genrefocus.metrics.psnr import psnr
from genrefocus.network_card import networks_of
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.pipeline import load_pipeline
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.report.contact_sheet import contact_sheet
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES


def main() -> None:
    """Write the sheet and print PSNR of its images and of the photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=949, help="of the scene")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 176), metavar=("H", "W"))
    parser.add_argument("--radius", type=float, default=3.0, help="greatest of the photograph, px")
    parser.add_argument("--asked", type=float, default=5.0, help="greatest of the answers, px")
    args = parser.parse_args()
    size = tuple(args.size)
    scene = procedural_scene(args.seed, *size, families=HELDOUT_FAMILIES, lights=0.0, margin=48)
    disparity = scene_disparity(scene)
    planes = torch.stack([layer.plane.over(*size) for layer in scene.layers])
    near, far = float(disparity.quantile(0.98)), float(disparity.quantile(0.1))

    def strength(focus: float, radius: float) -> BlurStrength:
        unit = BlurStrength(1.0, *size)
        return BlurStrength(radius / float(blur_radius(planes, focus, unit).max()), *size)

    def truth(focus: float, k: BlurStrength) -> Tensor:
        views = disk().positions(512)
        linear = render_lens(scene, focus_disparity=focus, strength=k, positions=views)
        return linear_to_srgb(linear).clamp(0, 1)

    photo = truth(near, strength(near, args.radius))
    pipeline = load_pipeline(networks_of(args.run), args.run)
    images, expected = {}, {}
    for name, focus in (("focus behind", far), ("more blur", near)):
        k = strength(focus, args.asked)
        prepared = pipeline.prepare(photo, focus=focus, disparity=disparity)
        images |= {"all in focus (DeblurNet)": prepared.aif}
        images |= {f"{name} (BokehNet)": pipeline.refocus(prepared, k).image}
        expected |= {"all in focus (DeblurNet)": linear_to_srgb(scene_aif(scene)).clamp(0, 1)}
        expected |= {f"{name} (BokehNet)": truth(focus, k)}
    for name, image in images.items():
        before, after = (float(psnr(x[None], expected[name][None])) for x in (photo, image))
        print(f"{name}: photograph {before:.2f} dB, network {after:.2f} dB")
    sheet = contact_sheet([[photo, *images.values()]], ["photograph", *images], scale=2)
    sheet.save(args.out, quality=92)


if __name__ == "__main__":
    main()
