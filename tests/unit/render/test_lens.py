"""The reference renderer against geometric optics: moments, energy, occlusion, shape."""

import math

import pytest
import torch
from torch import Tensor

from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk, polygon
from genrefocus.render.lens import IDEAL, LensCharacter, render_lens, strongest
from genrefocus.render.scene import Layer, Plane, Scene, scene_aif
from genrefocus.world.scenes import procedural_scene

SIZE, MARGIN = 48, 12
CANVAS = SIZE + 2 * MARGIN


def layer(grey: Tensor | float, alpha: Tensor | float, plane: Plane | float) -> Layer:
    ones = torch.ones(CANVAS, CANVAS)
    grey, alpha = ones * grey, ones * alpha
    flat = plane if isinstance(plane, Plane) else Plane(0.0, 0.0, plane)
    return Layer(torch.stack([grey, grey, grey, alpha]), flat)


def scene(*layers: Layer) -> Scene:
    return Scene(layers, SIZE, SIZE, MARGIN)


def render(
    which: Scene,
    *,
    focus: float,
    k: float,
    positions: Tensor | None = None,
    character: LensCharacter = IDEAL,
) -> Tensor:
    positions = disk().positions(96) if positions is None else positions
    strength = BlurStrength(k, which.height, which.width)
    return render_lens(
        which,
        focus_disparity=focus,
        strength=strength,
        positions=positions,
        character=character,
    )


def light_at(disparity: float, column: float = SIZE / 2, row: float = SIZE / 2) -> Scene:
    """A faint point before a black wall."""
    return scene(layer(0.0, 1.0, 0.1), layer(0.8, spot(column, row), disparity))


def spot(column: float = SIZE / 2, row: float = SIZE / 2, sigma: float = 0.8) -> Tensor:
    """A matte (canvas) with a Gaussian point at a frame position."""
    y, x = torch.arange(CANVAS)[:, None] - MARGIN, torch.arange(CANVAS) - MARGIN
    return torch.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))


def moments(image: Tensor) -> tuple[float, float, float, float, float]:
    """Sum, mean x, mean y, variance x, variance y of a grey image (H, W)."""
    image = image.double()
    y, x = torch.arange(image.shape[0])[:, None], torch.arange(image.shape[1])
    total = image.sum()
    mx, my = (image * x).sum() / total, (image * y).sum() / total
    vx, vy = (image * (x - mx) ** 2).sum() / total, (image * (y - my) ** 2).sum() / total
    return float(total), float(mx), float(my), float(vx), float(vy)


@pytest.mark.parametrize(("disparity", "k"), [(0.5, 2.0), (2.5, 2.0), (2.0, 6.0), (0.2, 10.0)])
def test_a_point_becomes_a_disc_of_radius_k_times_defocus(disparity: float, k: float) -> None:
    """A uniform disc of radius r has second moments r^2 / 4 per axis."""
    point = scene(layer(0.0, 1.0, 0.1), layer(0.8, spot(), disparity))
    sharp = moments(scene_aif(point)[0])
    blurred = moments(render(point, focus=1.0, k=k)[0])
    radius = k * abs(disparity - 1.0)
    assert blurred[0] == pytest.approx(sharp[0], rel=2e-3)
    assert blurred[1:3] == pytest.approx(sharp[1:3], abs=0.02)
    for axis in (3, 4):
        assert blurred[axis] - sharp[axis] == pytest.approx(radius**2 / 4, rel=0.03, abs=0.025)


def test_a_bright_light_keeps_its_energy_and_throws_no_dark_ring() -> None:
    wall = 0.2
    light = scene(layer(wall, 1.0, 0.1), layer(40.0, spot(sigma=0.6), 2.0))
    image = render(light, focus=0.1, k=2.5)
    assert image.min() >= wall - 1e-3
    excess, sharp = (image - wall).sum(), (scene_aif(light) - wall).sum()
    assert float(excess) == pytest.approx(float(sharp), rel=1e-3)


def test_without_blur_the_photograph_is_the_pinhole_image() -> None:
    drawn = procedural_scene(5, 40, 56)
    torch.testing.assert_close(render(drawn, focus=0.7, k=0.0), scene_aif(drawn))


def test_the_layer_in_focus_stays_sharp_under_what_is_blurred_around_it() -> None:
    stripes = (torch.arange(CANVAS) % 4 < 2).float()
    card = torch.zeros(CANVAS, CANVAS)
    card[24:48, 24:48] = 1.0
    image = render(scene(layer(stripes, 1.0, 0.2), layer(stripes, card, 1.5)), focus=1.5, k=5.0)[0]
    inside = image[14:34, 14:34]
    torch.testing.assert_close(inside, stripes[26:46].expand(20, 20), atol=1e-5, rtol=0)
    assert image[2:8, 2:-2].std() < 0.1 * stripes.std()


def test_a_blurred_foreground_bleeds_over_a_focused_background_as_half_planes_do() -> None:
    """Across a straight edge the coverage is the area of a disc on one side of a chord."""
    edge = (torch.arange(CANVAS) >= MARGIN + SIZE // 2).float().expand(CANVAS, -1)
    radius = 6.0
    image = render(scene(layer(0.0, 1.0, 0.5), layer(1.0, edge, 2.0)), focus=0.5, k=4.0)[0, 20]
    for column in range(14, 34):
        # The chord lies at the edge, half a pixel before the first covered pixel's centre.
        t = max(-1.0, min(1.0, (SIZE // 2 - 0.5 - column) / radius))
        covered = (math.acos(t) - t * math.sqrt(1 - t * t)) / math.pi
        assert float(image[column]) == pytest.approx(covered, abs=0.025)


def test_what_lies_behind_an_edge_is_partly_seen() -> None:
    """Focused behind a thin wire, the wire fades; no single sharp image holds what is behind it."""
    wire = torch.zeros(CANVAS, CANVAS)
    wire[:, MARGIN + 24] = 1.0
    behind = torch.zeros(CANVAS, CANVAS)
    behind[:, MARGIN + 24] = 1.0
    image = render(scene(layer(behind, 1.0, 0.5), layer(0.0, wire, 2.0)), focus=0.5, k=4.0)[0]
    assert scene_aif(scene(layer(behind, 1.0, 0.5), layer(0.0, wire, 2.0)))[0, 20, 24] == 0.0
    # A wire of width 1 hides a chord of the disc of radius 6: 2 * 6 / (36 pi) of its light.
    assert float(image[20, 24]) == pytest.approx(1.0 - 12 / (36 * math.pi), abs=0.04)


def test_a_slanted_plane_blurs_by_its_disparity_at_each_point() -> None:
    slope = 0.04
    plane = Plane(slope, 0.0, 1.0 - slope * 24)
    for column in (10, 24, 38):
        lit = scene(layer(0.0, 1.0, 0.1), layer(0.8, spot(column), plane))
        sharp, blurred = moments(scene_aif(lit)[0]), moments(render(lit, focus=1.0, k=6.0)[0])
        radius = 6.0 * slope * abs(column - 24)
        assert blurred[4] - sharp[4] == pytest.approx(radius**2 / 4, rel=0.06, abs=0.03)


def test_the_shape_is_upright_in_front_of_the_focus_and_turned_behind_it() -> None:
    triangle = polygon(3, rotation=-math.pi / 2)
    positions = triangle.positions(96)
    images = {}
    for disparity in (0.2, 1.8):
        point = scene(layer(0.0, 1.0, 0.1), layer(1.0, spot(), disparity))
        images[disparity] = render(point, focus=1.0, k=9.0, positions=positions)[0]
    rows = torch.arange(SIZE) - SIZE / 2
    skew = {d: float((i.sum(1) * rows**3).sum()) for d, i in images.items()}
    assert skew[1.8] < 0 < skew[0.2]
    turned = images[0.2][1:, 1:].flip(0, 1)
    assert float((turned - images[1.8][1:, 1:]).abs().max()) < 0.02 * float(images[1.8].max())


@pytest.mark.parametrize("disparity", [0.3, 1.7])
def test_spherical_aberration_is_a_bright_rim_behind_and_a_soft_one_in_front(
    disparity: float,
) -> None:
    """A ray through the pupil at rho lands at z rho + s (rho^3 - rho): so much light is within."""
    k, spherical = 10.0, 0.2
    z, s = k * (disparity - 1.0), k * spherical
    point, opening = light_at(disparity), disk().positions(400)
    bent = LensCharacter(spherical=spherical)
    image = render(point, focus=1.0, k=k, positions=opening, character=bent)[0].double()
    sharp = moments(scene_aif(point)[0])
    for axis in (3, 4):
        expected = z**2 / 4 - z * s / 6 + s**2 / 24
        assert moments(image)[axis] - sharp[axis] == pytest.approx(expected, rel=0.03)
    y, x = torch.arange(SIZE)[:, None] - SIZE / 2, torch.arange(SIZE) - SIZE / 2
    away = torch.hypot(x, y)
    shares = {}
    for rho in (0.5, 0.7, 0.85):
        landed = abs(z * rho + s * (rho**3 - rho))
        covered = (0.5 + landed - away).clamp(0.0, 1.0)
        shares[rho] = float((image * covered).sum() / image.sum())
        assert shares[rho] == pytest.approx(rho**2, abs=0.04)
    rim = float(image[away.round() == 6].mean() / image[away < 2].mean())
    assert rim > 1.5 if z < 0 else rim < 0.7


def test_stopped_down_spherical_aberration_falls_with_the_third_power() -> None:
    wide, narrow = LensCharacter(spherical=0.2), LensCharacter(spherical=0.2, stop=0.5)
    opening = disk().positions(50)
    ratio = narrow.moved(opening, 5.0) / wide.moved(opening, 10.0)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.125))


def test_colours_have_discs_of_different_radius() -> None:
    character = LensCharacter(chromatic=(-0.1, 0.0, 0.15))
    for disparity in (0.4, 1.6):
        point = light_at(disparity)
        image = render(point, focus=1.0, k=8.0, character=character)
        for number, shift in enumerate(character.chromatic):
            radius = 8.0 * abs(disparity - 1.0 - shift)
            own, sharp = moments(image[number]), moments(scene_aif(point)[number])
            assert own[1:3] == pytest.approx(sharp[1:3], abs=0.03)
            assert own[3] - sharp[3] == pytest.approx(radius**2 / 4, rel=0.04)


@pytest.mark.parametrize("disparity", [0.5, 1.5])
def test_a_cats_eye_is_the_intersection_of_two_discs(disparity: float) -> None:
    """Light is normalised, so the brightness of the disc says how large its area is."""
    z, vignetting, place = 12.0 * (disparity - 1.0), 0.9, SIZE - 9
    middle, half = (SIZE - 1) / 2, math.sqrt(2) * (SIZE - 1) / 2
    opening = disk().positions(400)
    eye = LensCharacter(vignetting=vignetting)
    images = [
        render(light_at(disparity, at, at), focus=1.0, k=12.0, positions=opening, character=eye)[0]
        for at in (SIZE / 2, place)
    ]
    # The middle of the eye, where the rim of the lens is shifted by v h.
    seen = round(place - z * vignetting * (place - middle) / half / 2)
    shift = vignetting * math.sqrt(2) * (seen - middle) / half
    share = 2 / math.pi * (math.acos(shift / 2) - shift / 2 * math.sqrt(1 - shift**2 / 4))
    energy = float(scene_aif(light_at(disparity))[0].sum())
    for image, at, area in ((images[0], SIZE // 2, 1.0), (images[1], seen, share)):
        bright = float(image[at - 1 : at + 2, at - 1 : at + 2].mean())
        assert bright == pytest.approx(energy / (math.pi * z**2 * area), rel=0.06)
    # The eye is narrow along the direction to the corner.
    _, x0, y0, _, _ = moments(images[1])
    y, x = torch.arange(SIZE)[:, None] - y0, torch.arange(SIZE) - x0
    assert float((images[1] * x * y).sum() / images[1].sum()) < -0.5


def test_what_is_in_focus_has_no_eye_and_no_colour() -> None:
    stripes = (torch.arange(CANVAS) % 4 < 2).float()
    eye = LensCharacter(vignetting=1.0)
    image = render(scene(layer(stripes, 1.0, 1.0)), focus=1.0, k=4.0, character=eye)
    expected = stripes[MARGIN : MARGIN + SIZE].expand_as(image)
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


def test_the_strongest_blur_is_what_the_margin_holds() -> None:
    drawn = procedural_scene(4, 40, 56, margin=12)
    character = LensCharacter(0.1, (-0.05, 0.0, -0.06), 0.5)
    most = strongest(drawn, 0.4, character)
    render(drawn, focus=0.4, k=most.k, character=character)
    with pytest.raises(ValueError, match="larger margin"):
        render(drawn, focus=0.4, k=1.01 * most.k, character=character)


def test_the_same_arguments_give_the_same_bytes() -> None:
    drawn = procedural_scene(3, 32, 32)
    first, second = render(drawn, focus=0.5, k=1.0), render(drawn, focus=0.5, k=1.0)
    assert torch.equal(first, second)


def test_wrong_input_is_named() -> None:
    drawn = procedural_scene(3, 32, 32)
    with pytest.raises(ValueError, match="larger margin"):
        render(drawn, focus=0.1, k=50.0)
    with pytest.raises(ValueError, match="unit disc"):
        render(drawn, focus=0.1, k=1.0, positions=torch.tensor([[1.0, 1.0]]))
    with pytest.raises(ValueError, match="K is stated for"):
        strength = BlurStrength(1.0, 64, 64)
        render_lens(drawn, focus_disparity=0.1, strength=strength, positions=disk().positions(4))
