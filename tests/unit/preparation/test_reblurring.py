"""Blur that all-in-focus images lack: by closed form, and against an exact lens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.data.shards import ShardDataset, write_set
from genrefocus.optics import MAX_COC, BlurStrength, lacking_radius
from genrefocus.preparation.reblurring import reblurred
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


def measured(samples: list[Sample], folder: Path) -> dict[str, Any]:
    samples = [replace(one, key=f"photo-{n}") for n, one in enumerate(samples)]
    write_set(folder, samples, parameters={}, samples_per_shard=8)
    steps: list[tuple[int, int]] = []
    found = reblurred(ShardDataset(folder), 8, lambda *step: steps.append(step))
    assert [done for done, _ in steps[:-1]] == list(range(1, len(steps)))
    assert steps[-2][0] <= steps[-1][0] == steps[-1][1]
    assert found["photographs"] == len(samples)
    return found


def test_sharp_images_lack_all_of_the_blur(tmp_path: Path) -> None:
    samples = []
    for seed in (4, 5, 7, 8):
        scene = procedural_scene(seed, 96, 96, lights=0.0, margin=16)
        rng = np.random.default_rng(seed)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=2.0, high=4.0)
        positions = disk().positions(64)
        photo = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
        samples.append(labelled(scene_aif(scene), photo, scene_disparity(scene), focus, strength))
    found = measured(samples, tmp_path)
    lacking = lacking_radius(torch.tensor(4.0), found["restored_radius"])
    assert float(lacking) == pytest.approx(4.0, rel=0.06)
    assert found["psnr"]["by_label"] > found["psnr"]["as_they_are"] + 3


@pytest.mark.parametrize("restored", [1.0, 2.0, 4.0])
def test_what_a_network_restores_is_found(restored: float, tmp_path: Path) -> None:
    """Photographs with the blur that images lack by the closed form, labelled with more."""
    light = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    disparity = torch.linspace(0, 1, 96).expand(96, 96).contiguous()
    lacking = 1 / (1 / (6.0 * disparity).square() + 1 / restored**2).sqrt()
    unit = BlurStrength(1.0, 96, 96)
    photo = render_scatter(light, lacking, focus_disparity=0.0, strength=unit, aperture=disk())
    sample = labelled(light, photo, disparity, 0.0, BlurStrength(6.0, 96, 96))
    found = measured([sample], tmp_path)
    assert found["restored_radius"] == pytest.approx(restored, rel=0.05)
    assert found["psnr"]["best"] > max(found["psnr"]["as_they_are"], found["psnr"]["by_label"]) + 3


def test_photographs_themselves_lack_nothing(tmp_path: Path) -> None:
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    disparity = torch.linspace(0, 1, 48).expand(48, 48).contiguous()
    sample = labelled(image, image, disparity, 0.0, BlurStrength(6.0, 48, 48))
    found = measured([sample], tmp_path)
    assert found["rejected"] == "score_flat" and "restored_radius" not in found


def test_lacking_radius() -> None:
    radius = torch.tensor([0.0, 1e-3, 2.0, 1e4])
    expected = torch.tensor([0.0, 1e-3, 2**0.5, 2.0])
    torch.testing.assert_close(lacking_radius(radius, 2.0), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lacking_radius(-radius, 2.0), -expected, rtol=1e-5, atol=1e-6)
    assert float(lacking_radius(torch.tensor(8.0), MAX_COC)) == pytest.approx(8.0, rel=0.01)
