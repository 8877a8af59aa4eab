"""Procedural scenes: pure functions of the seed, consistent in depth, rich in detail."""

import math

import numpy as np
import pytest
import torch

from genrefocus.optics import visible_blur
from genrefocus.render.lens import strongest
from genrefocus.render.scene import Plane, scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.fields import spectral_noise
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene
from genrefocus.world.textures import (
    HELDOUT_FAMILIES,
    TRAIN_FAMILIES,
    draw_texture,
)

SEEDS = range(40)


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    first, again, other = (procedural_scene(seed, 40, 56) for seed in (7, 7, 8))
    assert len(first.layers) == len(again.layers)
    for one, two in zip(first.layers, again.layers, strict=True):
        assert torch.equal(one.rgba, two.rgba) and one.plane == two.plane
    assert not torch.equal(scene_aif(first), scene_aif(other))


def test_layers_are_in_order_of_depth_wherever_they_are_seen() -> None:
    for seed in SEEDS:
        scene = procedural_scene(seed, 48, 48)
        inside = slice(scene.margin, scene.margin + 48)
        front = scene.layers[0].plane.over(48, 48)
        assert float(scene.layers[0].rgba[3].min()) == 1.0
        for layer in scene.layers[1:]:
            plane = layer.plane.over(48, 48)
            seen = layer.rgba[3, inside, inside] >= 0.5
            assert not (seen & (plane < front - 1e-4)).any()
            front = torch.where(seen, plane, front)
        assert torch.equal(front, scene_disparity(scene))
        assert 0.04 < float(front.min()) < float(front.max()) < 2.8


def test_scenes_have_fine_detail_smooth_parts_and_a_natural_exposure() -> None:
    means, smooth, detail, lit = [], [], [], 0
    for seed in SEEDS:
        light = scene_aif(procedural_scene(seed, 64, 64))
        assert torch.isfinite(light).all() and float(light.min()) >= 0.0
        lit += int(float(light.max()) > 1.5)
        grey = linear_to_srgb(light).mean(0)
        gradient = torch.hypot(grey.diff(dim=0)[:, :-1], grey.diff(dim=1)[:-1])
        means.append(float(grey.mean()))
        smooth.append(float((gradient < 0.02).float().mean()))
        detail.append(float((gradient > 0.1).float().mean()))
    assert 0.3 < np.mean(means) < 0.55
    assert np.mean(smooth) > 0.15
    assert np.mean(detail) > 0.1
    assert 0 < lit < len(SEEDS) / 2


def test_point_lights_come_on_demand() -> None:
    for seed in range(6):
        brightest = [
            float(scene_aif(procedural_scene(seed, 64, 64, lights=p)).max()) for p in (0.0, 1.0)
        ]
        assert brightest[0] <= 1.0
    assert brightest[1] > 1.0


def test_focus_and_strength_are_drawn_from_the_scene() -> None:
    for seed in range(10):
        scene, rng = procedural_scene(seed, 64, 64), np.random.default_rng(seed)
        focus = draw_focus(scene, rng)
        disparity = scene_disparity(scene)
        assert (disparity == focus).any()
        strength = draw_strength(scene, focus, rng, low=2.0, high=4.0)
        blur, most = visible_blur(disparity, focus, strength), strongest(scene, focus)
        assert 1.999 < blur < 4.001 or strength == most
        assert strength.k <= most.k
        free = draw_strength(scene, focus, rng, low=2.0, high=4.0, most=math.inf)
        assert 1.999 < visible_blur(disparity, focus, free) < 4.001


def test_planes_are_affine_in_pixels() -> None:
    over = Plane(0.01, -0.02, 1.0).over(4, 6)
    assert over.shape == (4, 6)
    assert float(over[3, 5]) == pytest.approx(1.0 + 0.05 - 0.06)


def test_visible_layer_names_the_surface_at_each_pixel() -> None:
    scene = procedural_scene(11, 48, 48)
    index = scene.visible
    for number in index.unique().tolist():
        plane = scene.layers[number].plane.over(48, 48)
        assert torch.equal(scene_disparity(scene)[index == number], plane[index == number])


def test_heldout_textures_are_apart_from_those_of_training() -> None:
    assert not set(TRAIN_FAMILIES) & set(HELDOUT_FAMILIES)
    assert len(HELDOUT_FAMILIES) >= 3
    heldout = procedural_scene(2, 48, 48, families=HELDOUT_FAMILIES)
    assert not torch.equal(scene_aif(heldout), scene_aif(procedural_scene(2, 48, 48)))


@pytest.mark.parametrize("family", TRAIN_FAMILIES + HELDOUT_FAMILIES)
def test_every_texture_is_linear_light_of_the_right_size(family: str) -> None:
    for seed in range(4):
        drawn = draw_texture(family, np.random.default_rng(seed), 33, 47)
        assert drawn.shape == (3, 33, 47) and drawn.dtype == np.float32
        assert np.isfinite(drawn).all() and drawn.min() > 0.0 and drawn.max() < 1.0
        again = draw_texture(family, np.random.default_rng(seed), 33, 47)
        assert np.array_equal(drawn, again)


def test_noise_has_the_spectrum_that_it_was_asked_for() -> None:
    """Amplitude 1 / f^slope: a straight line of that slope in the log-log radial spectrum."""
    power = np.zeros((128, 128))
    for seed in range(8):
        noise = spectral_noise(np.random.default_rng(seed), 128, 128, 1.2)
        power += np.abs(np.fft.fft2(noise)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    band = (frequency > 0.05) & (frequency < 0.45)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]) / 2, 1)[0]
    assert slope == pytest.approx(-1.2, abs=0.05)


def test_an_object_may_leave_a_mere_line_on_the_canvas() -> None:
    scene = procedural_scene(5534575463219232319, 96, 96)
    extents = [(layer.rgba[3].any(0).sum(), layer.rgba[3].any(1).sum()) for layer in scene.layers]
    assert min(min(extent) for extent in extents) == 1
    assert scene_aif(scene).isfinite().all()


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        procedural_scene(0, 8, 64)
    with pytest.raises(ValueError, match="at least one texture family"):
        procedural_scene(0, 64, 64, families=())
    with pytest.raises(ValueError, match="'velvet' is unknown"):
        procedural_scene(0, 64, 64, families=("velvet",))
