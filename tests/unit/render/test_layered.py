"""The renderer of labels: closed forms, properties, and a bound against the lens-sampled truth."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import interpolate

from genrefocus.cli import main
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import Aperture, disk, polygon, raster
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import (
    RESPONSES,
    decode,
    encode,
    in_linear_light,
    linear_to_srgb,
    srgb_to_linear,
)
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene


def layered(image: torch.Tensor, disparity: torch.Tensor, focus: float, k: float, **options):
    strength = BlurStrength(k, *disparity.shape)
    options = {"aperture": disk(), **options}
    return render_layered(image, disparity, focus_disparity=focus, strength=strength, **options)


def point(size: int, value: float = 40.0, at: tuple[int, int] | None = None) -> torch.Tensor:
    image = torch.zeros(3, size, size)
    row, column = at or (size // 2, size // 2)
    image[:, row, column] = value
    return image


def moments(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (2,) and covariance (2, 2) of the light of an image (H, W), in px, row and column."""
    weight = image.double() / image.double().sum()
    axes = [torch.arange(n, dtype=torch.float64) for n in image.shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    mean = (grid * weight).sum((1, 2))
    away = grid - mean[:, None, None]
    return mean, torch.einsum("ihw,jhw,hw->ij", away, away, weight)


def scene_case(seed: int, size: int = 80):
    """A procedural scene as image, disparity, focus, K and truth."""
    scene, rng = procedural_scene(seed, size, size, lights=0.0), np.random.default_rng(seed)
    focus = draw_focus(scene, rng)
    strength = draw_strength(scene, focus, rng, low=3.0, high=8.0)
    return scene, focus, strength


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = Image.new("L", (120, 120), 0)
    pen = ImageDraw.Draw(image)
    pen.ellipse((15, 20, 65, 70), fill=255)
    pen.ellipse((55, 20, 105, 70), fill=255)
    pen.polygon([(19, 58), (101, 58), (60, 110)], fill=255)
    image.save(path := tmp_path_factory.mktemp("shapes") / "heart.png")
    return path


def test_without_blur_the_image_stays_as_it_is() -> None:
    scene = procedural_scene(3, 64, 48)
    image, disparity = scene_aif(scene), scene_disparity(scene)
    assert torch.equal(layered(image, disparity, 0.5, 0.0), image)


def test_what_is_in_focus_stays_as_it_is() -> None:
    """Where nothing out of focus comes near, taking edges apart and together changes nothing."""
    scene = procedural_scene(5, 96, 96, lights=0.0)
    image, disparity = scene_aif(scene), scene_disparity(scene)
    focus = float(disparity.max())
    far = 2.0 * (focus - disparity).abs() > 0.05
    near_far = torch.nn.functional.max_pool2d(far[None].float(), 15, 1, 7)[0] > 0
    out = layered(image, disparity, focus, 2.0)
    assert (~near_far).sum() > 500
    torch.testing.assert_close(out[:, ~near_far], image[:, ~near_far], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", ["disk", "pentagon", "curved", "heart"])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_radius_of_a_point_is_linear_in_k(shape: str, side: float, heart: Path) -> None:
    """Radius from the second moment of the light, which is that of the shape at its radius."""
    aperture: Aperture = {
        "disk": disk,
        "pentagon": lambda: polygon(5),
        "curved": lambda: polygon(7, 0.2, 0.5),
        "heart": lambda: raster(heart),
    }[shape]()
    axis = np.linspace(-1, 1, 801)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = aperture.distance(x, y) < 0
    unit = (np.var(x[inside]) + np.var(y[inside])) / 2
    strengths = np.array([2.0, 5.0, 9.0, 14.0, 21.0, 30.0])
    flat = torch.full((151, 151), 1.0)
    spreads = [
        float(moments(layered(point(151), flat, 1.0 - side, k, aperture=aperture)[0])[1].trace())
        for k in strengths
    ]
    slope, offset = np.polyfit(strengths, np.sqrt(np.array(spreads) / 2 / unit), 1)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert abs(offset) < 0.5


def test_light_is_kept_on_a_slope_and_in_front_of_others() -> None:
    """Points on a slanted plane through the focus, and highlights on a plane of their own."""
    image = torch.full((3, 160, 160), 0.05)
    disparity = torch.linspace(0.0, 2.0, 160).expand(160, 160).clone()
    for row in range(48, 128, 16):
        for column in range(48, 128, 16):
            image[:, row, column] = 30.0
    out = layered(image, disparity, 1.0, 12.0)
    inner = (slice(None), slice(16, -16), slice(16, -16))
    assert float(out[inner].sum()) == pytest.approx(float(image[inner].sum()), rel=0.01)
    apart = torch.full((160, 160), 0.5)
    apart[image[0] > 1] = 2.0
    out = layered(image, apart, 0.5, 5.0)
    assert float(out.sum()) == pytest.approx(float(image.sum()), rel=0.01)
    assert float(out.max()) > 0.2


def test_blur_grows_with_k() -> None:
    scene = procedural_scene(11, 96, 96, lights=0.0)
    image, disparity = scene_aif(scene), scene_disparity(scene)
    focus = float(disparity.min()) - 0.05
    detail = [
        float(layered(image, disparity, focus, k).diff(dim=2).square().mean())
        for k in (0.0, 0.3, 0.7, 1.5, 3.0, 6.0, 12.0)
    ]
    assert all(b < a for a, b in zip(detail, detail[1:], strict=False))


@pytest.mark.parametrize("seed", [1, 4])
def test_single_precision_is_enough(seed: int) -> None:
    scene, focus, strength = scene_case(seed)
    image, disparity = scene_aif(scene), scene_disparity(scene).double()
    single, double = (
        layered(image.to(t), disparity, focus, strength.k, vignetting=0.5)
        for t in (torch.float32, torch.float64)
    )
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
def test_the_gpu_gives_the_same() -> None:
    scene, focus, strength = scene_case(2)
    image, disparity = scene_aif(scene), scene_disparity(scene)
    here = layered(image, disparity, focus, strength.k, vignetting=0.5)
    there = layered(image.cuda(), disparity.cuda(), focus, strength.k, vignetting=0.5)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-3)


def test_scaling_image_and_k_together_scales_the_result() -> None:
    """A smooth image with a smooth edge, rendered at twice the size with twice K."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 192), torch.linspace(0, 1, 192), indexing="ij")
    large = torch.stack([0.4 + 0.3 * torch.sin(9 * x + 4 * y), 0.5 + 0.3 * x, y])
    object_ = (x - 0.5).square() + (y - 0.5).square() < 0.06
    large = torch.where(object_, 1.0 - 0.5 * large, large)
    disparity = torch.where(object_, 1.5, 0.3 + 0.3 * y)
    small = interpolate(large[None], scale_factor=0.5, mode="area")[0]
    disparity_small = disparity[::2, ::2].contiguous()
    for focus in (0.4, 1.5):
        first = layered(small, disparity_small, focus, 5.0)
        then = interpolate(
            layered(large, disparity, focus, 10.0)[None], scale_factor=0.5, mode="area"
        )[0]
        error = (first - then).abs()
        # The object's outline itself moves by half a pixel of the small image.
        assert float(error.mean()) < 5e-3
        assert float(error.flatten().quantile(0.95)) < 0.03


def test_the_background_does_not_bleed_over_an_object_in_focus() -> None:
    image, disparity = torch.zeros(3, 96, 96), torch.full((96, 96), 0.2)
    image[:, :, ::2] = 1.5
    image[:, 32:64, 32:64] = torch.tensor([0.37, 0.0, 0.1])[:, None, None]
    disparity[32:64, 32:64] = 2.0
    out = layered(image, disparity, 2.0, 6.0)
    inside = (slice(None), slice(33, 63), slice(33, 63))
    torch.testing.assert_close(out[inside], image[inside], atol=1e-4, rtol=0)
    # Nor is light taken from it: just beside the object the background has its own mean.
    assert float(out[1, 40:56, 28:31].mean()) == pytest.approx(0.75, rel=0.1)


def test_an_object_out_of_focus_is_transparent_at_its_edge() -> None:
    """Beyond half its width it lets through what it hides: exactly so for a straight edge."""
    image, disparity = torch.zeros(3, 96, 96), torch.full((96, 96), 0.5)
    image[1] = 0.8
    image[0, :, 48:], image[1, :, 48:], disparity[:, 48:] = 1.0, 0.0, 2.0
    out = layered(image, disparity, 0.5, 8.0)
    offset = torch.arange(96) - 47.5  # the edge lies between columns 47 and 48
    chord = (offset / 12.0).clamp(-1.0, 1.0)
    cover = 0.5 + (chord * (1 - chord**2).sqrt() + chord.asin()) / torch.pi
    row = out[:, 48, 16:80]
    torch.testing.assert_close(row[0], cover[16:80], atol=0.02, rtol=0)
    torch.testing.assert_close(row[1], 0.8 * (1 - cover[16:80]), atol=0.02, rtol=0)


def test_borders_stay_as_bright_as_the_image() -> None:
    disparity = torch.full((64, 96), 2.0)
    disparity[20:, 30:] = 0.5
    out = layered(torch.full((3, 64, 96), 0.6), disparity, 1.0, 14.0, vignetting=0.8)
    torch.testing.assert_close(out, torch.full_like(out, 0.6), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (17, 16), (16, 300)])
def test_any_size_and_depth_without_any_order(size: tuple[int, int]) -> None:
    """A grey image stays grey, whatever its depth: all that covers is grey."""
    disparity = 3.0 * torch.rand(*size, generator=torch.Generator().manual_seed(0))
    out = layered(torch.full((3, *size), 0.4), disparity, 1.0, 20.0, vignetting=0.5)
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-3, rtol=0)


def test_a_cats_eye_points_across_the_way_to_the_middle() -> None:
    """Two unit discs a distance s apart: narrow towards the middle, and moved by s / 2."""
    size, radius = 257, 16.0
    flat = torch.full((size, size), 2.0)
    for side in (1.0, -1.0):
        for at in ((32, 32), (32, 224)):
            spot = layered(point(size, at=at), flat, 2.0 - side, radius, vignetting=0.9)[0]
            mean, spread = moments(spot)
            values, vectors = torch.linalg.eigh(spread)
            way = torch.tensor(at, dtype=torch.float64) - size / 2
            shift = 0.9 * way / (0.5 * 2**0.5 * size)
            assert abs(float(vectors[:, 0] @ way / way.norm())) > 0.98
            assert float(values[0]) < 0.6 * float(values[1])
            moved = mean - torch.tensor(at)
            torch.testing.assert_close(moved, side * 0.5 * shift * radius, atol=0.5, rtol=0)
    centre = layered(point(127), flat[:127, :127], 1.0, radius, vignetting=0.9)[0]
    ratio = torch.linalg.eigvalsh(moments(centre)[1])
    assert float(ratio[0] / ratio[1]) > 0.6


def test_gradients_are_those_of_finite_differences() -> None:
    """In colours away from edges, where the coverage of pixels is not estimated."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 40, 40, generator=generator, dtype=torch.float64).requires_grad_()
    disparity = torch.full((40, 40), 0.3)
    disparity[12:28, 12:28] = 1.7
    weight = torch.rand(3, 40, 40, generator=generator, dtype=torch.float64)
    (layered(image, disparity, 0.8, 4.0) * weight).sum().backward()
    step = torch.rand(3, 40, 40, generator=generator, dtype=torch.float64)
    step[:, 9:31, 9:31] = 0.0
    step[:, 17:23, 17:23] = 1.0
    with torch.no_grad():
        up, down = (
            (layered(image + sign * 1e-4 * step, disparity, 0.8, 4.0) * weight).sum()
            for sign in (1, -1)
        )
    assert float((up - down) / 2e-4) == pytest.approx(float((image.grad * step).sum()), rel=1e-5)


def test_it_sees_behind_edges_better_than_the_classical_renderer() -> None:
    gains = []
    for seed in range(8):
        scene, focus, strength = scene_case(seed)
        positions = disk().positions(64)
        truth = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
        image, disparity = scene_aif(scene), scene_disparity(scene)
        errors = [
            float((linear_to_srgb(out) - linear_to_srgb(truth)).square().mean())
            for out in (
                render_scatter(
                    image, disparity, focus_disparity=focus, strength=strength, aperture=disk()
                ),
                layered(image, disparity, focus, strength.k),
            )
        ]
        gains.append(10 * np.log10(errors[0] / errors[1]))
    assert np.mean(gains) > 3.0


def test_ramps_of_estimated_depth_can_be_made_steps() -> None:
    image, disparity = torch.zeros(3, 64, 64), torch.full((64, 64), 0.5)
    image[1] = 0.8
    image[0, :, 32:], image[1, :, 32:], disparity[:, 32:] = 1.0, 0.0, 2.0
    exact = layered(image, disparity, 0.5, 6.0)
    smeared = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(disparity[None], (1, 1, 0, 0), mode="replicate"), (1, 3), 1
    )[0]
    errors = [
        float((layered(image, smeared, 0.5, 6.0, edge_width=n) - exact).square().mean())
        for n in (0, 2)
    ]
    assert errors[1] < 0.5 * errors[0]
    slope = torch.linspace(0.0, 2.0, 64).expand(64, 64).contiguous()
    texture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        layered(texture, slope, 1.0, 6.0, edge_width=2), layered(texture, slope, 1.0, 6.0)
    )


@pytest.mark.parametrize("response", RESPONSES)
def test_responses_are_inverse_and_differ(response: str) -> None:
    codes = torch.arange(256) / 255.0
    torch.testing.assert_close(encode(decode(codes, response), response), codes)
    half = in_linear_light(lambda light: 0.5 * light, torch.ones(1), response)
    expected = {"srgb": 0.7354, "gamma": 0.5 ** (1 / 2.2), "linear": 0.5}[response]
    assert float(half) == pytest.approx(expected, abs=1e-4)


def test_wrong_input_is_named() -> None:
    image, disparity = torch.zeros(3, 20, 30), torch.ones(20, 30)
    with pytest.raises(ValueError, match="one size"):
        layered(image, disparity[:, :-1], 0.5, 2.0)
    with pytest.raises(ValueError, match=r"vignetting must lie in \[0, 1\], got 1.5"):
        layered(image, disparity, 0.5, 2.0, vignetting=1.5)
    with pytest.raises(ValueError, match="edge_width is a width"):
        layered(image, disparity, 0.5, 2.0, edge_width=-1)
    with pytest.raises(ValueError, match="response 'log' is unknown"):
        encode(image, "log")


def command(folder: Path, *options: str) -> int:
    files = (str(folder / "photo.png"), "--depth", str(folder / "depth.npy"))
    fixed = ("--focus", "10,10", "--k", "9", "-o", str(folder / "out.png"))
    return main(["render", *files, *fixed, *options])


def test_the_command_offers_shapes_and_responses(
    tmp_path: Path, heart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    depth = np.full((48, 64), 4.0, np.float32)
    depth[8:24, 8:32] = 0.8
    np.save(tmp_path / "depth.npy", depth)
    sharp = torch.from_numpy(np.array(Image.open(tmp_path / "photo.png"))).permute(2, 0, 1) / 255.0
    images = []
    for options, keywords in (
        ((), {}),
        (("--aperture", "polygon:5"), {"aperture": polygon(5, np.pi)}),
        (
            ("--aperture", "polygon:5", "--rotation", "30", "--curvature", "0.4"),
            {"aperture": polygon(5, np.pi + np.pi / 6, 0.4)},
        ),
        (("--aperture", str(heart)), {"aperture": raster(heart)}),
        (("--cats-eye", "0.9"), {"vignetting": 0.9}),
    ):
        assert command(tmp_path, *options) == 0
        light = layered(srgb_to_linear(sharp), 1.0 / torch.from_numpy(depth), 1.25, 9.0, **keywords)
        expected = (linear_to_srgb(light) * 255.0).round().permute(1, 2, 0).numpy()
        image = np.asarray(Image.open(tmp_path / "out.png"))
        assert np.array_equal(image, expected)
        images.append(image.tobytes())
    assert command(tmp_path, "--response", "linear") == 0
    images.append(np.asarray(Image.open(tmp_path / "out.png")).tobytes())
    assert len(set(images)) == len(images)
    for options, complaint in (
        (("--aperture", "polygon:x"), "polygon:7"),
        (("--rotation", "10"), "--rotation is for polygons, stars and hearts"),
        (("--aperture", "polygon:2"), "3 blades"),
    ):
        assert command(tmp_path, *options) == 2
        assert complaint in capsys.readouterr().err
    deep = rng.integers(0, 65536, (48, 64, 3), np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    files = [str(tmp_path / name) for name in ("deep.tif", "depth.npy", "out.tif")]
    given = ["render", files[0], "--depth", files[1], "--focus", "50,40", "--k", "9"]
    assert main([*given, "-o", files[2]]) == 0
    rendered = tifffile.imread(files[2])
    assert rendered.dtype == np.uint16
    # 8 px of blur end within 12 px of the near surface; beyond, every bit is as it was.
    assert np.array_equal(rendered[38:, 46:], deep[38:, 46:])
    assert not np.array_equal(rendered[8:24, 8:32], deep[8:24, 8:32])
