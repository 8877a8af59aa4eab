"""Aperture shapes against their closed-form areas, moments and symmetry."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.render.apertures import Aperture, disk, polygon, raster, vignetted
from genrefocus.render.bokeh_shapes import heart, ring, star


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


def test_a_picture_of_a_disc_is_a_disc(tmp_path: Path) -> None:
    y, x = np.mgrid[0:90, 0:120]
    picture = np.where(np.hypot(x - 70, y - 40) < 30, 255, 0).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "round.png")
    shape = raster(tmp_path / "round.png")
    assert shape.name == "round"
    assert second_moment(shape.positions(128)) == pytest.approx(1 / 4, rel=0.05)
    x, y = pixels(9.0)
    drawn, exact = (a.coverage(x, y, np.array(9.0)) for a in (shape, disk()))
    np.testing.assert_allclose(drawn, exact, atol=0.4)
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.05)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"file_missing .*absent.png\): it does not exist"):
        raster(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
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
