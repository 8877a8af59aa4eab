"""Lights added to images, and night scenes."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from genrefocus.optics import BlurStrength
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import Aperture, heart, ring, star
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.world.lights import (
    Night,
    add_lights,
    black_body,
    darkened,
    draw_light_colours,
    draw_night,
    sharpened,
    tristimulus,
)
from genrefocus.world.night import night_scene
from genrefocus.world.scenes import procedural_scene

# ---- colours and exposure


@pytest.mark.parametrize(
    ("kelvin", "x", "y"), [(2856, 0.4476, 0.4074), (6500, 0.3135, 0.3237), (2000, 0.5267, 0.4133)]
)
def test_black_bodies_have_the_published_chromaticities(kelvin: float, x: float, y: float) -> None:
    """CIE illuminant A, and points of the Planckian locus."""
    xyz = tristimulus(kelvin)
    np.testing.assert_allclose(xyz[:2] / xyz.sum(), [x, y], atol=0.004)


def test_lamps_go_from_red_to_blue_and_are_grey_to_a_camera_balanced_to_them() -> None:
    warmth = [black_body(t)[0] / black_body(t)[2] for t in (2500, 4000, 6500, 9000)]
    assert warmth == sorted(warmth, reverse=True)
    np.testing.assert_allclose(black_body(3200, 3200), 1.0, atol=1e-9)
    rng = np.random.default_rng(0)
    for count in (1, 7, 7, 7, 7):
        colours = draw_light_colours(rng, count)
        assert colours.shape == (count, 3) and colours.min() >= 0
        np.testing.assert_allclose(colours.mean(1), 1.0)


def test_night_and_sharpening_do_what_they_say() -> None:
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    dark = darkened(image, Night(0.1, (1.2, 1.0, 0.8)))
    torch.testing.assert_close(dark, image * torch.tensor([0.12, 0.1, 0.08])[:, None, None])
    for seed in range(20):
        night = draw_night(np.random.default_rng(seed), mean=(0.01, 0.03))
        assert 0.05 <= night.gain <= 0.15
    torch.testing.assert_close(
        sharpened(torch.full((3, 9, 9), 0.4), amount=1.0), image.new_full((3, 9, 9), 0.4)
    )
    wave = (0.5 + 0.2 * torch.sin(torch.arange(64) * 0.8)).expand(3, 8, 64)
    # A Gaussian of deviation s takes a wave of frequency w to exp(-(w s)^2 / 2) of its height.
    gain = 1 + 0.7 * (1 - math.exp(-0.5 * 0.8**2))
    inner = sharpened(wave, amount=0.7)[0, 4, 16:48] - 0.5
    torch.testing.assert_close(inner, gain * (wave[0, 4, 16:48] - 0.5), atol=2e-3, rtol=0)


# ---- lights on images


def stage(height: int = 96, width: int = 128) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, disparity and label of a floor that slants, a far wall and a near box."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = torch.where(y >= height // 2, 1, 0)
    label[(y > 30) & (y < 70) & (x > 30) & (x < 60)] = 2
    slant = 0.5 + (y - height // 2) / height
    disparity = torch.where(label == 0, torch.tensor(0.1), slant)
    disparity = torch.where(label == 2, torch.tensor(2.0), disparity)
    image = 0.02 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
    return image, disparity, label


def test_added_light_is_the_sum_of_the_listed_energies() -> None:
    image, disparity, _ = stage()
    lit, lights = add_lights(
        image, disparity, np.random.default_rng(5), count=50, energies=(2.0, 500.0)
    )
    added = (lit.double() - image.double()).sum((1, 2))
    listed = np.array([np.array(light.colour) * light.energy for light in lights]).sum(0)
    np.testing.assert_allclose(added.numpy(), listed, rtol=1e-5)
    assert float(added.mean()) == pytest.approx(sum(x.energy for x in lights), rel=1e-5)
    energies = np.log([light.energy for light in lights])
    assert math.log(2) <= energies.min() and energies.max() <= math.log(500)
    assert len(lights) == 50 and len({light.colour for light in lights}) > 2
    assert float(lit.max()) > 10.0 and bool((lit >= image).all())


def test_lights_are_a_pure_function_of_the_generator() -> None:
    image, disparity, _ = stage()
    before = image.clone()
    (one, first), (two, second), (three, third) = (
        add_lights(image, disparity, np.random.default_rng(s), count=9, energies=(5.0, 50.0))
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two) and first == second
    assert not torch.equal(one, three) and first != third
    assert torch.equal(image, before)


def test_every_light_lies_on_one_surface_and_far_ones_carry_more() -> None:
    image, disparity, label = stage()
    carried = np.zeros(3)
    for seed in range(200):
        lit, lights = add_lights(
            image, disparity, np.random.default_rng(seed), count=1, energies=(100.0, 100.0)
        )
        reached = ((lit - image).sum(0) > 1e-6).nonzero()
        on = label[reached[:, 0], reached[:, 1]].unique()
        assert len(on) == 1 and len(reached) >= 9
        at = disparity[round(lights[0].y), round(lights[0].x)]
        assert lights[0].disparity == pytest.approx(float(at), rel=0.05)
        centre = reached.double().mean(0)
        assert abs(float(centre[1]) - lights[0].x) < 1 and abs(float(centre[0]) - lights[0].y) < 1
        carried[int(on)] += 1
    density = carried / np.bincount(label.flatten().numpy())
    assert density[0] > density[1] > density[2]


def test_images_that_cannot_be_lit_are_rejected() -> None:
    image, disparity, _ = stage()
    rng = np.random.default_rng(0)
    noise = torch.rand(96, 128, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Rejected) as caught:
        add_lights(image, noise, rng, count=3, energies=(1, 2))
    assert caught.value.reason is Reason.NO_PLACE_FOR_LIGHTS
    with pytest.raises(Rejected) as caught:
        add_lights(image, disparity / 0.0 - disparity / 0.0, rng, count=3, energies=(1, 2))
    assert caught.value.reason is Reason.NON_FINITE
    with pytest.raises(ValueError, match="of one size"):
        add_lights(image, disparity[1:], rng, count=3, energies=(1, 2))
    with pytest.raises(ValueError, match="least <= greatest"):
        add_lights(image, disparity, rng, count=3, energies=(2, 1))


@pytest.mark.parametrize(
    "shape", [ring(0.5), star(5, 0.45, 0.3), star(8, 0.6), heart()], ids=lambda shape: shape.name
)
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_light_draws_the_shape_at_k_times_defocus(shape: Aperture, side: float) -> None:
    """Second moment of the blob: that of the shape times r^2, plus that of the light itself."""
    size, k, focus, radius = 96, 10.0, 1.0, 13.0
    disparity = torch.full((size, size), focus + side * radius / k)
    weight = torch.zeros(size, size)
    weight[40:56, 40:56] = 1.0  # keep the blob inside the frame
    for seed in range(50):
        lit, (light,) = add_lights(
            torch.zeros(3, size, size),
            disparity,
            np.random.default_rng(seed),
            count=1,
            energies=(4000.0, 4000.0),
        )
        if 30 < light.x < 66 and 30 < light.y < 66:
            break
    out = (
        render_scatter(
            lit,
            disparity,
            focus_disparity=focus,
            strength=BlurStrength(k, size, size),
            aperture=shape,
        )
        .mean(0)
        .double()
    )
    axis = np.linspace(-1.0, 1.0, 801)
    area = 4.0 * float((shape.distance(axis, axis[:, None]) < 0).mean())
    assert float(out.sum()) == pytest.approx(light.energy, rel=1e-3)
    x, y = (torch.arange(size) - c for c in (light.x, light.y))
    square = x[None, :] ** 2 + y[:, None] ** 2
    variance = float((out * square).sum() / out.sum()) / 2
    assert variance == pytest.approx(shape.second_moment * radius**2 + light.size**2, rel=0.03)
    # Above white where the shape is open, and only there; behind the focus it is upside down.
    level = 4000.0 / (area * radius**2)
    drawn = out.numpy() > 0.5 * level
    u, v = np.meshgrid(side * x.numpy() / radius, side * y.numpy() / radius)
    is_open, turned = shape.distance(u, v) < 0, shape.distance(-u, -v) < 0
    assert level > 1 and float(out.max()) > 0.95 * level
    assert overlap(drawn, is_open) > 0.9
    if shape.name in ("heart", "star5"):
        assert overlap(drawn, turned) < 0.85


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


# ---- night scenes

SEEDS = range(24)


@pytest.fixture(scope="module")
def nights() -> list[Scene]:
    return [night_scene(seed, 64, 80) for seed in SEEDS]


def test_nights_are_pure_functions_of_the_seed() -> None:
    one, two = night_scene(3, 48, 40), night_scene(3, 48, 40)
    assert len(one.layers) == len(two.layers)
    for first, second in zip(one.layers, two.layers, strict=True):
        assert torch.equal(first.rgba, second.rgba) and first.plane == second.plane


def test_nights_are_dark_with_many_lights_at_several_depths(nights: list[Scene]) -> None:
    depths, warm = [], []
    for scene in nights:
        light = scene_aif(scene)
        assert torch.isfinite(light).all() and float(light.min()) >= 0.0
        assert float(light.median()) < 0.12
        bright = light.amax(0) > 1.0
        assert 4 <= int(bright.sum()) < 0.15 * bright.numel()
        lamps = [x for x in scene.layers if float((x.rgba[:3] * x.rgba[3]).amax()) > 1.0]
        depths.append(len({lamp.plane.offset for lamp in lamps}))
        red, _, blue = light[:, bright].sum(1).tolist()
        warm.append(red > blue)
    assert np.mean(np.array(depths) >= 2) > 0.8
    assert 0.2 < np.mean(warm) < 0.95


def test_lights_hang_between_the_surfaces_they_are_laid_between(nights: list[Scene]) -> None:
    for scene in nights:
        m = scene.margin
        inside = (slice(m, m + scene.height), slice(m, m + scene.width))
        front = scene.layers[0].plane.over(scene.height, scene.width)
        for layer in scene.layers[1:]:
            plane = layer.plane.over(scene.height, scene.width)
            seen = layer.rgba[3][inside] >= 0.5
            assert not (seen & (plane < front - 1e-4)).any()
            front = torch.where(seen, plane, front)
        torch.testing.assert_close(front, scene_disparity(scene))


def test_nights_differ_from_each_other_and_from_the_day(nights: list[Scene]) -> None:
    """Images a quarter of the size, of equal mean brightness: no two are nearly alike."""
    small = []
    for scene in nights:
        image = scene_aif(scene).clamp(0, 1).sqrt()
        thumbnail = torch.nn.functional.avg_pool2d(image[None], 4)[0]
        small.append(thumbnail / thumbnail.mean())
    distances = [float((a - b).abs().mean()) for a, b in combinations(small, 2)]
    assert min(distances) > 0.15
    day = scene_aif(procedural_scene(0, 64, 80, lights=0.0))
    assert float(scene_aif(nights[0]).median()) < 0.5 * float(day.median())


def test_a_night_renders_through_a_heart() -> None:
    scene = night_scene(1, 48, 48)
    strength = BlurStrength(1.5, 48, 48)
    out = render_lens(
        scene, focus_disparity=0.5, strength=strength, positions=heart().positions(32)
    )
    assert torch.isfinite(out).all() and out.max() < scene_aif(scene).max()
