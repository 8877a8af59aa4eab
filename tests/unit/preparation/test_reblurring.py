"""K that all-in-focus images lack: by closed form, and against an exact lens."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.optics import BlurStrength
from genrefocus.preparation.reblurring import search_relative_k
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene


def labelled(
    aif: Tensor, photo: Tensor, disparity: Tensor, focus: float, k: BlurStrength
) -> Sample:
    """A photograph of linear light with what is known about it."""
    images = {name: to_uint8(linear_to_srgb(one)) for name, one in [("aif", aif), ("bokeh", photo)]}
    return Sample(
        "one",
        "in_the_wild",
        "train",
        **images,
        disparity=disparity,
        strength=k,
        focus_disparity=focus,
    )


def relative_k(samples: list[Sample]) -> float:
    steps: list[tuple[int, int]] = []
    found = search_relative_k(samples, aperture=disk(), advance=lambda *step: steps.append(step))
    assert [done for done, _ in steps] == list(range(1, len(found.curve) * len(samples) + 1))
    assert steps[-1][0] <= steps[-1][1]
    return found.k


def test_sharp_images_give_photographs_back_at_their_own_k() -> None:
    samples = []
    for seed in (4, 5, 7, 8):
        scene = procedural_scene(seed, 96, 96, lights=0.0, margin=16)
        rng = np.random.default_rng(seed)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=2.0, high=4.0)
        positions = disk().positions(64)
        photo = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
        samples.append(labelled(scene_aif(scene), photo, scene_disparity(scene), focus, strength))
    assert relative_k(samples) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("left", [0.5, 0.8])
def test_images_that_keep_blur_give_photographs_back_at_a_smaller_k(left: float) -> None:
    """Second moments of blur add: what is missing of K is about sqrt(1 - left^2) of it.

    The shape of a disk blurred twice is no disk; by the transfer functions of disks and the
    spectrum of photographs the best match is at up to 0.08 more.
    """
    light = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    light = gaussian_blur(light, [5, 5])
    disparity = torch.linspace(0, 1, 96).expand(96, 96).contiguous()

    def blurred(k: float) -> Tensor:
        strength = BlurStrength(k, 96, 96)
        kind = {"focus_disparity": 0.2, "strength": strength, "aperture": disk()}
        return render_scatter(light, disparity, **kind)

    sample = labelled(blurred(4.0 * left), blurred(4.0), disparity, 0.2, BlurStrength(4.0, 96, 96))
    moments = math.sqrt(1 - left**2)
    assert moments < relative_k([sample]) < moments + 0.1
