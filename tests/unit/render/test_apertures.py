"""Aperture shapes against their closed-form areas, moments and symmetry."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import affine_transform

from genrefocus.render.apertures import (
    SHAPE_WEIGHTS,
    Aperture,
    described,
    disk,
    draw_aperture,
    heart,
    image_shapes,
    polygon,
    raster,
    ring,
    star,
    vignetted,
)


def second_moment(positions: torch.Tensor) -> float:
    return float(positions.double().square().sum(1).mean() / 2)


@pytest.mark.parametrize("count", [16, 64, 128])
def test_disk_positions_have_the_moments_of_a_disc(count: int) -> None:
    positions = disk().positions(count)
    assert positions.shape == (count, 2)
    assert float(positions.mean(0).abs().max()) < 1e-5
    assert second_moment(positions) == pytest.approx(1 / 4, rel=0.01)
    assert float(positions.norm(dim=1).max()) <= 1.0


@pytest.mark.parametrize("blades", [3, 5, 6, 8])
def test_polygon_positions_have_the_moments_of_a_polygon(blades: int) -> None:
    """About an axis: (1 + 2 cos^2(pi / n)) / 12 for circumradius 1."""
    positions = polygon(blades).positions(128)
    expected = (1 + 2 * math.cos(math.pi / blades) ** 2) / 12
    assert second_moment(positions) == pytest.approx(expected, rel=0.06)
    assert torch.equal(positions, polygon(blades).positions(128))


def pixels(radius: float) -> tuple[np.ndarray, np.ndarray]:
    reach = np.arange(-math.ceil(radius) - 2, math.ceil(radius) + 3, dtype=np.float64)
    x, y = np.meshgrid(reach, reach)
    return x, y


@pytest.mark.parametrize(
    ("aperture", "unit_area"),
    [(disk(), math.pi), (polygon(6), 1.5 * math.sqrt(3)), (polygon(4, 0.3), 2.0)],
)
@pytest.mark.parametrize("radius", [1.5, 4.0, 11.3])
def test_coverage_sums_to_the_area(aperture: Aperture, unit_area: float, radius: float) -> None:
    x, y = pixels(radius)
    covered = aperture.coverage(x, y, np.array(radius))
    assert covered.min() >= 0 and covered.max() <= 1
    # The soft edge is symmetric about the true one, up to the curvature of corners.
    assert covered.sum() == pytest.approx(unit_area * radius**2, rel=0.05 if radius > 2 else 0.15)


@pytest.mark.parametrize("curvature", [0.0, 0.3, 0.7, 1.0])
def test_blades_are_arcs_of_their_curvature(curvature: float) -> None:
    """Area of a polygon plus a circular segment of radius 1 / curvature on every side."""
    blades, axis = 6, np.linspace(-1.0, 1.0, 1601)
    shape = polygon(blades, 0.1, curvature)
    area = (shape.distance(axis[None, :], axis[:, None]) < 0).sum() * (axis[1] - axis[0]) ** 2
    expected = 0.5 * blades * math.sin(2 * math.pi / blades)
    if curvature > 0:
        angle = 2 * math.asin(curvature * math.sin(math.pi / blades))
        expected += 0.5 * blades * (angle - math.sin(angle)) / curvature**2
    assert area == pytest.approx(expected, rel=2e-3)


def test_the_rim_cuts_a_lens_out_of_a_disc() -> None:
    """Area that two unit discs share at a distance s: 2 acos(s / 2) - s sqrt(1 - s^2 / 4)."""
    axis = np.linspace(-1.0, 1.0, 1601)
    shape = vignetted(disk(), 0.3, -0.4)
    area = (shape.distance(axis[None, :], axis[:, None]) < 0).sum() * (axis[1] - axis[0]) ** 2
    assert area == pytest.approx(2 * math.acos(0.25) - 0.5 * math.sqrt(1 - 0.25**2), rel=2e-3)


def test_an_image_of_a_disc_is_a_disc(tmp_path: Path) -> None:
    y, x = np.mgrid[0:90, 0:120]
    image = np.where(np.hypot(x - 70, y - 40) < 30, 255, 0).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "round.png")
    shape = raster(tmp_path / "round.png")
    assert shape.name == "round"
    assert second_moment(shape.positions(128)) == pytest.approx(1 / 4, rel=0.05)
    x, y = pixels(9.0)
    drawn, exact = (a.coverage(x, y, np.array(9.0)) for a in (shape, disk()))
    np.testing.assert_allclose(drawn, exact, atol=0.4)
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.05)


def test_an_image_shows_what_lights_behind_the_plane_of_focus_do(tmp_path: Path) -> None:
    """A triangle with a bite out of its lower right corner, against scipy's scaling of it."""
    y, x = np.mgrid[0:60, 0:60]
    picture = (np.abs(x - 30) <= y / 2) & ~((x > 40) & (y > 40))
    Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / "bitten.png")
    shape, middle = raster(tmp_path / "bitten.png"), np.argwhere(picture).mean(0)
    reach = np.hypot(*(np.argwhere(picture) - middle).T).max()
    for seen, radius in ((shape.image(64)[0].numpy(), 31.0), (shape.kernel(-12.0), 12.0)):
        scale = reach / radius
        offset = middle - scale * (len(seen) - 1) / 2
        expected = affine_transform(picture * 1.0, [scale] * 2, offset, seen.shape, order=1)
        assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.97
        assert np.corrcoef(seen.ravel(), expected[::-1, ::-1].ravel())[0, 1] < 0.8


def test_a_description_draws_the_same_shape_again(tmp_path: Path) -> None:
    Image.fromarray(np.tri(40, dtype=np.uint8) * 255).save(tmp_path / "half.png")
    shapes = [disk(), polygon(7, 0.4, 0.3), ring(0.4), star(5, 0.5, 1.1), heart(0.3)]
    for shape in (*shapes, raster(tmp_path / "half.png")):
        again = described(json.loads(json.dumps(shape.facts)))
        assert again.name == shape.name
        np.testing.assert_array_equal(again.kernel(-9.3), shape.kernel(-9.3))
    for wrong in ({}, {"kind": "moon"}, {"kind": "ring"}, {"kind": "image", "png": "AAAA"}):
        with pytest.raises(ValueError, match="describes no shape"):
            described(wrong)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file_missing .*absent.png\): it does not exist"):
        raster(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="not_an_image"):
        raster(tmp_path / "text.png")
    Image.new("L", (20, 20)).save(tmp_path / "dark.png")
    with pytest.raises(ValueError, match="nowhere half white"):
        raster(tmp_path / "dark.png")
    with pytest.raises(ValueError, match="3 blades"):
        polygon(2)
    with pytest.raises(ValueError, match="curvature"):
        polygon(5, curvature=1.2)
    with pytest.raises(ValueError, match="at most"):
        vignetted(disk(), 0.9, 0.9)
    with pytest.raises(ValueError, match="one position or more"):
        disk().positions(0)


def test_apertures_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(tmp_path / "slit.png")
    shapes = [disk(), polygon(6, 0.3, 0.5), raster(tmp_path / "slit.png"), ring(0.4), heart(0.2)]
    x, y = np.random.default_rng(1).uniform(-1, 1, (2, 50))
    for shape in (*shapes, star(5, 0.5), vignetted(polygon(5), 0.3, 0.1)):
        again = pickle.loads(pickle.dumps(shape))
        assert again.name == shape.name
        assert np.array_equal(again.distance(x, y), shape.distance(x, y))


# ---- shapes: (area, second moment per axis) by closed forms, farthest point at distance 1


def of_star(points: int, inner: float) -> tuple[float, float]:
    """2 n triangles (centre, tip, notch); the polar moment of one is A (a^2 + a.b + b^2) / 6."""
    half = math.pi / points
    area = points * inner * math.sin(half)
    return area, (1.0 + inner * math.cos(half) + inner**2) / 6.0 / 2.0


def of_heart() -> tuple[float, float]:
    """A square of side 2 and two half-discs of radius 1, about the common centre of area."""
    s, c = math.sqrt(0.5), 4 / (3 * math.pi)
    area, lobe = 4 + math.pi, np.array([s + c * s, -s - c * s])
    middle = math.pi * lobe[1] / area
    polar = 16 / 6 + 4 * middle**2
    own = math.pi / 4 - math.pi / 2 * c**2
    polar += 2 * (own + math.pi / 2 * (lobe[0] ** 2 + (lobe[1] - middle) ** 2))
    reach = max(math.sqrt(2) - middle, math.hypot(s, s + middle) + 1)
    return area / reach**2, polar / area / reach**2 / 2


SHAPES = [
    pytest.param(ring(0.5), (math.pi * 0.75, (1 + 0.25) / 4), id="ring"),
    pytest.param(star(5, 0.45, 0.3), of_star(5, 0.45), id="star5"),
    pytest.param(star(8, 0.6), of_star(8, 0.6), id="star8"),
    pytest.param(heart(), of_heart(), id="heart"),
    pytest.param(heart(2.0), of_heart(), id="heart turned"),
]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
def test_shapes_have_their_closed_form_area_moment_centre_and_reach(
    shape: Aperture, expected: tuple[float, float]
) -> None:
    axis = np.linspace(-1.1, 1.1, 1201)
    x, y = np.meshgrid(axis, axis)
    inside = shape.distance(x, y) < 0
    area, moment = expected
    assert inside.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(area, rel=2e-3)
    assert abs(x[inside].mean()) < 1e-3 and abs(y[inside].mean()) < 1e-3
    assert np.hypot(x, y)[inside].max() == pytest.approx(1.0, abs=5e-3)
    assert (x**2 + y**2)[inside].mean() / 2 == pytest.approx(moment, rel=3e-3)
    assert shape.second_moment == pytest.approx(moment, rel=0.02)
    # No steeper than a distance, so that edges are anti-aliased over one pixel at most.
    for direction in (0, 1):
        steps = np.diff(shape.distance(x, y), axis=direction)
        assert np.abs(steps).max() < 1.0001 * (axis[1] - axis[0])


def test_a_heart_stands_on_its_point_and_turns_clockwise() -> None:
    def is_open(shape: Aperture, x: float, y: float) -> bool:
        return bool(shape.distance(np.array(x), np.array(y)) < 0)

    assert is_open(heart(), 0, 0.9) and not is_open(heart(), 0, -0.8)
    assert is_open(heart(), 0.4, -0.5) and is_open(heart(), -0.4, -0.5)
    assert is_open(heart(math.pi / 2), -0.9, 0) and not is_open(heart(math.pi / 2), 0.8, 0)


def test_apertures_are_drawn_by_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [draw_aperture(rng).name.rstrip("0123456789") for _ in range(1500)]
    for name, weight in SHAPE_WEIGHTS.items():
        share = weight / sum(SHAPE_WEIGHTS.values())
        assert names.count(name) / 1500 == pytest.approx(share, abs=0.05)
    x, y = np.array([0.3, -0.5]), np.array([0.6, 0.2])
    one, two = (draw_aperture(np.random.default_rng(3)) for _ in range(2))
    assert one.name == two.name and np.array_equal(one.distance(x, y), two.distance(x, y))
    Image.new("L", (9, 9), 255).save(tmp_path / "square.png")
    Image.new("L", (20, 9), 255).save(tmp_path / "bar.png")
    (tmp_path / "notes.txt").write_text("no image")
    drawn = image_shapes(tmp_path)
    assert [shape.name for shape in drawn] == ["bar", "square"]
    taken = {draw_aperture(rng, weights={"image": 1}, images=drawn).name for _ in range(20)}
    assert taken == {"bar", "square"}


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'moon'"):
        draw_aperture(rng, weights={"moon": 1.0})
    with pytest.raises(ValueError, match="sum > 0"):
        draw_aperture(rng, weights={"disk": 0.0})
    with pytest.raises(ValueError, match="give both or neither"):
        draw_aperture(rng, images=(disk(),))
    with pytest.raises(FileNotFoundError, match="no aperture image"):
        image_shapes(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        image_shapes(tmp_path / "absent")
    with pytest.raises(ValueError, match="between 0 and 0.809"):
        star(5, 0.9)
    with pytest.raises(ValueError, match="3 points"):
        star(2, 0.4)
    with pytest.raises(ValueError, match="inner radius"):
        ring(1.0)
