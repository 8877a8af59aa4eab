"""Light fields: readers agree, blur has the radius K says, targets are near the lens's truth."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import j1

from genrefocus.benchmark.lightfield import (
    LightField,
    build_lightfields,
    estimate_disparity,
    open_light_field,
    refocus,
)
from genrefocus.benchmark.lightfield.simulated import SimulatedLightField, simulate
from genrefocus.cli import main
from genrefocus.data.shards import ShardDataset
from genrefocus.metrics.psnr import psnr
from genrefocus.preparation.route import Prepared
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import disk, polygon
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear, to_bytes

BASELINE, REST = 5.0, 1.0
SPOT = 0.8  # px, standard deviation


def plane(pattern, disparity: float, *, grid: int = 9, height: int = 48, width: int = 64):
    """The light field of one upright surface that looks like pattern(x, y), and its disparity."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    steps = torch.arange(grid) / (grid // 2) - 1.0
    shift = BASELINE * (disparity - REST)
    rows = [
        torch.stack([pattern(x - shift * u, y - shift * v).expand(3, -1, -1) for u in steps])
        for v in steps
    ]
    field = LightField(torch.stack(rows).float(), BASELINE, REST, "1/m")
    return field, torch.full((height, width), disparity)


def spot(x, y):
    return torch.exp(-((x - 32) ** 2 + (y - 24) ** 2) / (2.0 * SPOT**2))


def write_folder(folder: Path, views: torch.Tensor) -> None:
    """Images named by row and column of (V, U, 3, H, W) uint8."""
    folder.mkdir(parents=True)
    for v, row in enumerate(views):
        for u, view in enumerate(row):
            pixels = view.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"view_{v:02d}_{u:02d}.png")


@pytest.fixture(scope="module")
def simulated() -> list[SimulatedLightField]:
    return [simulate(seed, size=64, grid=9) for seed in (2, 3, 9)]


def test_readers_agree_on_the_order_of_views(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    views = torch.from_numpy(rng.integers(0, 256, (14, 14, 3, 6, 8), dtype=np.uint8))
    write_folder(tmp_path / "folder", views)
    np.save(tmp_path / "array.npy", views.permute(0, 1, 3, 4, 2).numpy())
    interleaved = np.zeros((14 * 6, 14 * 8, 3), np.uint8)
    for v in range(14):
        for u in range(14):
            interleaved[v::14, u::14] = views[v, u].permute(1, 2, 0).numpy()
    Image.fromarray(interleaved).save(tmp_path / "eslf.png")
    expected = srgb_to_linear(views[2:11, 2:11].float() / 255)
    for name in ("folder", "array.npy", "eslf.png"):
        field = open_light_field(tmp_path / name, grid=9, order="aperture")
        torch.testing.assert_close(field.views, expected, rtol=0, atol=1e-6)
        assert (field.unit, field.baseline) == ("px", 4.0)
        turned = open_light_field(tmp_path / name, grid=9, order="camera")
        torch.testing.assert_close(turned.views[0, 2], expected[8, 6], rtol=0, atol=1e-6)


def test_views_counted_by_one_number(tmp_path: Path) -> None:
    for number in range(9):
        pixels = np.full((4, 4, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"input_Cam{number:03d}.png")
    field = open_light_field(tmp_path, grid=None, order="aperture")
    levels = (linear_to_srgb(field.views[:, :, 0, 0, 0]) * 255).round()
    assert levels.tolist() == [[0, 20, 40], [60, 80, 100], [120, 140, 160]]


def test_files_that_are_no_light_field_are_named(tmp_path: Path) -> None:
    views = torch.zeros(4, 3, 3, 4, 4, dtype=torch.uint8)
    write_folder(tmp_path / "even", views)
    with pytest.raises(ValueError, match="4 x 3 views has no central one"):
        open_light_field(tmp_path / "even", grid=None, order="camera")
    (tmp_path / "even/view_01_02.png").unlink()
    with pytest.raises(ValueError, match=r"row and column \(1, 2\) are missing"):
        open_light_field(tmp_path / "even", grid=3, order="camera")
    with pytest.raises(FileNotFoundError, match="no light field at"):
        open_light_field(tmp_path / "nothing", grid=3, order="camera")
    Image.new("RGB", (29, 28)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match="29x28 px .* no multiple of 14"):
        open_light_field(tmp_path / "odd.png", grid=9, order="camera")


def test_two_planes_lose_the_contrast_of_their_discs() -> None:
    """A disc of radius r leaves 2 J1(2 pi f r) / (2 pi f r) of a wave of frequency f."""
    frequency, halves, width = 0.11, (0.4, 1.7), 96

    def wave(x, y):
        return 0.5 + 0.4 * torch.cos(2 * np.pi * frequency * x)

    parts = [plane(wave, d, width=width) for d in halves]
    left = torch.arange(width) < width // 2
    views = torch.where(left, parts[0][0].views, parts[1][0].views)
    disparity = torch.where(left, parts[0][1], parts[1][1])
    field = LightField(views, BASELINE, REST, "1/m")
    radius, focus = 0.6, 1.2
    image = refocus(field, focus=focus, radius=radius, aperture=disk(), disparity=disparity)
    x = torch.arange(width)
    for d, middle in zip(halves, (slice(14, 34), slice(62, 82)), strict=True):
        argument = 2 * np.pi * frequency * radius * BASELINE * abs(d - focus)
        wanted = 0.5 + 0.4 * (2 * j1(argument) / argument) * torch.cos(2 * np.pi * frequency * x)
        error = (image[:, 16:32, middle] - wanted[middle]).abs().max()
        assert error < 0.01


def test_a_point_becomes_a_disc_without_dots() -> None:
    focus, disparity, radius = 0.2, 2.6, 0.9
    blur = radius * BASELINE * (disparity - focus)  # 10.8 px; views lie 3 px apart
    field, surface = plane(spot, disparity)
    settings = {"focus": focus, "radius": radius, "aperture": disk(), "disparity": surface}
    image = refocus(field, **settings, count=1000)[0]
    y, x = torch.meshgrid(torch.arange(48) - 24.0, torch.arange(64) - 32.0, indexing="ij")
    square = x**2 + y**2
    assert float(image.sum()) == pytest.approx(2 * np.pi * SPOT**2, rel=0.01)
    moment = float((image * square).sum() / image.sum()) / 2
    assert moment == pytest.approx(blur**2 / 4 + SPOT**2, rel=0.03)
    inside = square.sqrt() < blur - 2.5
    assert float(image[square.sqrt() > blur + 3].max()) < 1e-3 * float(image.max())
    assert float(image[inside].std() / image[inside].mean()) < 0.01
    dotted = refocus(field, **settings, count=1000, between="nearest")[0]
    assert float(dotted[inside].std() / dotted[inside].mean()) > 0.12


def test_a_corner_of_the_aperture_points_where_it_should() -> None:
    """A nearer point draws the shape as it is, a farther one turned; so it is in ``apertures``."""
    triangle = polygon(3)  # its corner at angle 0, to the right
    for disparity, sign in ((1.8, 1), (0.2, -1)):
        field, surface = plane(spot, disparity)
        image = refocus(
            field, focus=1.0, radius=1.0, aperture=triangle, disparity=surface, count=300
        )[0]
        x = torch.arange(64) - 32.0
        assert float((image * x**3).sum()) * sign > 0.1 * float((image * x.abs() ** 3).sum())


def test_a_centre_off_the_axis_is_parallax() -> None:
    field, surface = plane(spot, 1.6)
    centre = (0.5, -0.25)
    image = refocus(
        field, focus=0.8, radius=0.4, aperture=disk(), disparity=surface, centre=centre
    )[0]
    weights = image / image.sum()
    x = float((weights.sum(0) * torch.arange(64)).sum()) - 32
    y = float((weights.sum(1) * torch.arange(48)).sum()) - 24
    expected = [BASELINE * (1.6 - 0.8) * c for c in centre]
    assert [x, y] == pytest.approx(expected, abs=0.05)
    with pytest.raises(ValueError, match="reaches beyond the views"):
        refocus(field, focus=0.8, radius=0.6, aperture=disk(), disparity=surface, centre=(0.5, 0.0))


def test_targets_are_near_the_truth_of_the_lens(simulated: list[SimulatedLightField]) -> None:
    """Bounds lie below what docs/lightfields.md reports; disparity is estimated."""
    gains = []
    for one in simulated:
        field = one.field
        reach = 7.5 / field.baseline
        rest = field.rest_disparity
        disparity = estimate_disparity(field, low=rest - reach, high=rest + reach)
        inner = slice(one.border, -one.border)
        error = field.shift(disparity - one.disparity + rest)[inner, inner].abs() / 4
        assert float(error.median()) < 0.1  # px between neighbouring views
        focus = float(disparity.median())
        radius = 4.0 / (field.baseline * float((disparity - focus).abs().max()))
        settings = {"focus": focus, "radius": radius, "aperture": disk()}
        truth = linear_to_srgb(one.photograph(**settings, count=200))[None, :, inner, inner]
        scores = {}
        for between in ("warped", "nearest"):
            image = refocus(field, **settings, disparity=disparity, between=between)
            scores[between] = float(psnr(linear_to_srgb(image)[None, :, inner, inner], truth))
        assert scores["warped"] > 36
        gains.append(scores["warped"] - scores["nearest"])
    assert np.mean(gains) > 2


def test_a_pinhole_in_the_middle_is_the_central_view(simulated: list[SimulatedLightField]) -> None:
    field, disparity = simulated[0].field, simulated[0].disparity
    image = refocus(field, focus=0.5, radius=0.0, aperture=disk(), disparity=disparity)
    torch.testing.assert_close(image, field.aif, rtol=0, atol=1e-5)


def test_what_the_search_cannot_know_is_rejected(simulated: list[SimulatedLightField]) -> None:
    field = simulated[0].field
    with pytest.raises(Rejected) as error:
        estimate_disparity(field, low=field.rest_disparity, high=field.rest_disparity + 0.1)
    assert error.value.reason is Reason.DISPARITY_AT_BOUND


def digests(root: Path) -> dict[str, str]:
    files = sorted(x for x in root.rglob("*") if x.is_file())
    return {
        x.relative_to(root).as_posix(): hashlib.sha256(x.read_bytes()).hexdigest() for x in files
    }


def build(root: Path, **changes) -> Path:
    settings = {"seed": 1, "count": 9, "size": 32, "grid": 5, "workers": 0, **changes}
    build_lightfields(root, **settings, progress=False)
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("light_fields"))


def test_bytes_follow_from_the_seed(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a run is cut off and goes on with other processes."""
    from genrefocus.benchmark.lightfield.building import SimulatedPairs

    whole = SimulatedPairs.sample

    def failing(self: SimulatedPairs, candidate: Candidate, estimated: object) -> Prepared:
        if candidate.key == "test-000008":  # after the first shard
            raise KeyboardInterrupt
        return whole(self, candidate, estimated)

    monkeypatch.setattr(SimulatedPairs, "sample", failing)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "lf_bokeh/test/index.json").exists()
    assert digests(build(tmp_path, workers=2)) == digests(sets)
    with pytest.raises(ValueError, match="holds a set made with seed 1, now it is 2"):
        build(tmp_path, seed=2)


def test_pairs_go_both_ways(sets: Path) -> None:
    bokeh, pairs = (ShardDataset(sets / f"lf_{task}/test") for task in ("bokeh", "refocus"))
    assert (len(bokeh), len(pairs)) == (9, 18)
    for number in range(9):
        one, other = pairs[2 * number], pairs[2 * number + 1]
        target = bokeh[number]
        assert torch.equal(one.bokeh, other.extras["blurry"])
        assert torch.equal(other.bokeh, one.extras["blurry"])
        assert torch.equal(other.bokeh, target.bokeh)
        assert other.provenance["source_k"] == one.strength.k
        assert one.provenance["source_focus_disparity"] == target.focus_disparity
        assert one.provenance["disparity_unit"] == "1/m"
        spread = float(one.disparity.max() - one.disparity.min())
        assert abs(one.focus_disparity - other.focus_disparity) > 0.1 * spread


def test_real_light_fields_from_the_command_line(
    simulated: list[SimulatedLightField], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    views = to_bytes(simulated[1].field.views)
    write_folder(tmp_path / "in/scene", views.flip(0, 1))  # as a camera moves
    np.save(tmp_path / "in/flat.npy", np.full((9, 9, 80, 80, 3), 128, np.uint8))
    arguments = ["lightfield", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "rejected flat: " in printed and "lf_refocus/test: 2 samples" in printed
    lines = (tmp_path / "out/lf_refocus/rejections.jsonl").read_text().splitlines()
    assert [json.loads(x)["name"] for x in lines] == ["flat"]
    sample = ShardDataset(tmp_path / "out/lf_bokeh/test")[0]
    assert sample.provenance["disparity_unit"] == "px between neighbouring views"
    assert "no 1/m" in (tmp_path / "out/README.md").read_text().replace("\n", " ")
    # Up to its zero, relative disparity is the true one in other units; nearer is greater.
    field, true = simulated[1].field, simulated[1].disparity
    border = (true.shape[0] - sample.size[0]) // 2
    exact = (field.shift(true) / field.radius_steps)[border:-border, border:-border]
    difference = sample.disparity - exact
    assert float((difference - difference.median()).abs().median()) < 0.1


def test_no_light_fields_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["lightfield", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no light fields" in capsys.readouterr().err
