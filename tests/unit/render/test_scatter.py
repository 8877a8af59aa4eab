"""The classical renderer, the command and the tone curve: closed forms, occlusion, wrong input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.cli import main
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk, polygon
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear, to_bytes
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

SIZE = 65


def point() -> torch.Tensor:
    image = torch.zeros(3, SIZE, SIZE)
    image[:, SIZE // 2, SIZE // 2] = 0.9
    return image


def scatter(image: torch.Tensor, disparity: torch.Tensor, focus: float, k: float, shape=None):
    return render_scatter(
        image,
        disparity,
        focus_disparity=focus,
        strength=BlurStrength(k, *disparity.shape),
        aperture=disk() if shape is None else shape,
    )


@pytest.mark.parametrize("radius", [0.7, 1.0, 2.5, 9.3])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_point_becomes_a_disc(radius: float, side: float) -> None:
    """Uniform disc of radius r: second moment r^2 / 4 per axis, light spread over pi r^2."""
    flat = torch.full((SIZE, SIZE), 2.0)
    image = scatter(point(), flat, 2.0 - side * radius / 8.0, 8.0)[0].double()
    assert float(image.sum()) == pytest.approx(0.9, rel=1e-4)
    # Rounding far away would enter the moment with the square of its distance.
    image = image[12:-12, 12:-12]
    offset = torch.arange(len(image)) - len(image) // 2
    variance = float((image.sum(0) * offset**2).sum() / image.sum())
    assert variance == pytest.approx(radius**2 / 4, rel=0.05)
    if radius > 4:
        assert float(image.max()) == pytest.approx(0.9 / (np.pi * radius**2), rel=0.03)


def test_without_blur_the_image_stays_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    image, disparity = (torch.rand(s, 20, 30, generator=generator).squeeze(0) for s in (3, 1))
    assert torch.equal(scatter(image, disparity, 0.4, 0.0), image)


def test_an_object_in_focus_takes_nothing_from_the_blurred_background() -> None:
    image, disparity = torch.zeros(3, 48, 48), torch.full((48, 48), 0.2)
    image[:, :, ::2] = 1.0
    image[0, 16:32, 16:32], disparity[16:32, 16:32] = 0.37, 2.0
    out = scatter(image, disparity, 2.0, 4.0)
    torch.testing.assert_close(out[:, 16:32, 16:32], image[:, 16:32, 16:32], atol=1e-5, rtol=0)
    assert out[1, 4:12, 8:40].std() < 0.1


def test_a_blurred_object_bleeds_over_the_background_in_focus() -> None:
    image, disparity = torch.zeros(3, 48, 48), torch.full((48, 48), 0.5)
    image[:, :, 24:], disparity[:, 24:] = 1.0, 2.0
    row = scatter(image, disparity, 0.5, 4.0)[0, 24]
    assert float(row[23]) == pytest.approx(0.5, abs=0.1)
    assert float(row[16]) == 0.0
    assert (row[:30].diff() >= -1e-5).all()


def test_shapes_turn_with_the_sign_of_the_defocus() -> None:
    triangle, flat = polygon(3, rotation=0.2), torch.full((SIZE, SIZE), 1.0)
    near = scatter(point(), flat, 0.0, 9.0, triangle)
    far = scatter(point(), flat, 2.0, 9.0, triangle)
    torch.testing.assert_close(near.flip(1, 2), far, atol=1e-6, rtol=0)
    assert float((near - far).abs().max()) > 0.5 * float(near.max())


def test_it_comes_close_to_the_reference_where_nothing_hidden_is_seen() -> None:
    """Over scenes it must beat the sharp image by far, though it cannot see behind edges."""
    gains = []
    for seed in range(8):
        scene, rng = procedural_scene(seed, 64, 64, lights=0.0), np.random.default_rng(seed)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=2.0, high=6.0)
        positions = disk().positions(64)
        truth = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
        sharp = scene_aif(scene)
        classical = scatter(sharp, scene_disparity(scene), focus, strength.k)
        errors = [
            float((linear_to_srgb(x) - linear_to_srgb(truth)).square().mean())
            for x in (sharp, classical)
        ]
        gains.append(10 * np.log10(errors[0] / errors[1]))
    assert np.mean(gains) > 4.0


def test_tone_curve_follows_the_standard() -> None:
    """Values of IEC 61966-2-1 at mid grey and at the joint; both directions are inverse."""
    assert float(srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)
    assert float(linear_to_srgb(torch.tensor(0.0031308))) == pytest.approx(0.04045, abs=1e-5)
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(srgb_to_linear(codes / 255.0)), codes)
    assert to_bytes(torch.tensor([-0.5, 7.0])).tolist() == [0, 255]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    depth = np.full((24, 32), 4.0, np.float32)
    depth[8:16, 8:20] = 0.8
    np.save(tmp_path / "depth.npy", depth)
    np.save(tmp_path / "disparity.npy", 1.0 / depth)
    np.save(tmp_path / "small.npy", depth[::2, ::2])
    np.save(tmp_path / "other.npy", depth[::2, ::3])
    return tmp_path


def command(folder: Path, *arguments: str) -> int:
    fixed = [
        "render",
        "--renderer",
        "scatter",
        str(folder / "photo.png"),
        "-o",
        str(folder / "out.png"),
    ]
    return main([*fixed, *(a.replace("@", f"{folder}/") for a in arguments)])


def test_the_command_renders_in_linear_light(photo: Path) -> None:
    assert command(photo, "--depth", "@depth.npy", "--focus", "10,10", "--k", "4") == 0
    out = np.asarray(Image.open(photo / "out.png"))
    sharp = torch.from_numpy(np.array(Image.open(photo / "photo.png"))).permute(2, 0, 1) / 255.0
    disparity = 1.0 / torch.from_numpy(np.load(photo / "depth.npy"))
    expected = to_bytes(scatter(srgb_to_linear(sharp), disparity, 1.25, 4.0))
    assert np.array_equal(out, expected.permute(1, 2, 0).numpy())
    given = ("--disparity", "@disparity.npy", "--focus-disparity", "1.25", "--k", "4")
    assert command(photo, *given) == 0
    assert np.array_equal(np.asarray(Image.open(photo / "out.png")), out)
    assert command(photo, *given, "--aperture", "hexagon") == 0
    assert not np.array_equal(np.asarray(Image.open(photo / "out.png")), out)


def test_the_command_with_k_0_returns_the_image(photo: Path) -> None:
    assert command(photo, "--depth", "@depth.npy", "--focus", "0,0", "--k", "0") == 0
    out, sharp = (np.asarray(Image.open(photo / n)) for n in ("out.png", "photo.png"))
    assert np.array_equal(out, sharp)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--depth", "@none.npy", "--focus", "1,1", "--k", "4"), "none.npy does not exist"),
        (("--depth", "@other.npy", "--focus", "1,1", "--k", "4"), "of other proportions"),
        (("--disparity", "@other.npy", "--focus", "1,1", "--k", "4"), "of other proportions"),
        (("--depth", "@depth.npy", "--focus", "99,1", "--k", "4"), "outside"),
        (
            ("--depth", "@depth.npy", "--focus", "1,1", "--k", "-2"),
            "--k: '-2': give a number, 0 or more",
        ),
        (
            ("--depth", "@depth.npy", "--focus-disparity", "-1", "--k", "2"),
            "--focus-disparity: '-1': give a number, 0 or more",
        ),
        (("--depth", "@depth.npy", "--focus", "1,1", "--k", "4", "--aperture", "cross"), "cross"),
        (("--depth", "@depth.npy", "--focus", "1,1", "--k", "4", "--cats-eye", "1"), "layered"),
    ],
)
def test_wrong_input_is_one_line(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    assert command(photo, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and complaint in error
    assert not (photo / "out.png").exists()
