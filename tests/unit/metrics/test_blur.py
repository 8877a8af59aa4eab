"""Blur radius, plane of focus, bleeding and in-focus fidelity: truth against known wrong images.

Scenes are rendered through a sampled lens, which shares nothing with the metrics.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.metrics import blur_radius as module
from genrefocus.metrics.bleeding import measure_bleeding
from genrefocus.metrics.blur_radius import RadiusPatches, errors_by_bin, measure_radii
from genrefocus.metrics.focus_plane import find_focus
from genrefocus.metrics.in_focus import in_focus
from genrefocus.metrics.lpips import lpips, lpips_available
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.registry import METRICS
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens, strongest
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

SIZE = 192


@dataclass(frozen=True, eq=False)
class Rendered:
    """A scene with what a bokeh case knows."""

    scene: Scene
    aif: Tensor
    disparity: Tensor
    focus: float
    strength: BlurStrength

    @functools.cache  # noqa: B019
    def photo(self, *, k: float = 1.0, focus: float = 0.0) -> Tensor:
        """Through the lens, K by a factor and focus by a shift (1/m) off what is asked for."""
        linear = render_lens(
            self.scene,
            focus_disparity=self.focus + focus,
            strength=BlurStrength(self.strength.k * k, SIZE, SIZE),
            positions=disk().positions(96),
        )
        return linear_to_srgb(linear)

    @property
    def asked(self) -> dict:
        return {"focus_disparity": self.focus, "strength": self.strength}

    @functools.cache  # noqa: B019
    def radii(self, pred: Tensor) -> RadiusPatches:
        return measure_radii(pred, self.aif, self.disparity, **self.asked)


@functools.cache
def make(seed: int, low: float = 4, high: float = 8, margin: int = 48) -> Rendered:
    rng = np.random.default_rng(seed)
    scene = procedural_scene(seed, SIZE, SIZE, lights=0.0, margin=margin)
    focus = draw_focus(scene, rng)
    most = strongest(scene, focus).k / 1.25  # K is raised below
    strength = draw_strength(scene, focus, rng, low=low, high=high, most=most)
    aif = linear_to_srgb(scene_aif(scene))
    return Rendered(scene, aif, scene_disparity(scene), focus, strength)


@pytest.fixture(scope="module", params=[105, 106])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return make(request.param)


def disc_blur(image: Tensor, radius: float, fine: int = 15) -> Tensor:
    """Convolution with a disc of pixels that count by the share of them inside, in linear light."""
    reach = math.ceil(radius) + 1
    steps = (np.arange(fine * (2 * reach + 1)) + 0.5) / fine - reach - 0.5
    inside = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)
    kernel = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    linear = np.pad(srgb_to_linear(image).numpy(), ((0, 0), (reach,) * 2, (reach,) * 2), "reflect")
    blurred = fftconvolve(linear, (kernel / kernel.sum())[None], mode="valid", axes=(1, 2))
    return linear_to_srgb(torch.from_numpy(blurred).float())


def test_the_radius_of_a_disc_is_found() -> None:
    coarse = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    aif = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic").clamp(0, 1)[0]
    disparity = torch.ones(96, 96)
    disparity[0, 0] = 1.001
    for radius in (1.5, 3.0, 4.7, 8.0):
        strength = BlurStrength(radius, 96, 96)
        patches = measure_radii(
            disc_blur(aif, radius), aif, disparity, focus_disparity=0.0, strength=strength
        )
        assert patches.coverage > 0.9
        assert patches.measured.median().item() == pytest.approx(radius, rel=0.04)


def test_the_truth_has_the_requested_radius(rendered: Rendered) -> None:
    patches = rendered.radii(rendered.photo())
    blurred = patches.requested > 2.0
    assert int(blurred.sum()) > 50
    error = (patches.measured - patches.requested)[blurred]
    assert error.abs().mean() < 0.05 * patches.requested[blurred].mean()
    assert error.mean().abs() < 0.03 * patches.requested[blurred].mean()


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_wrong_k_is_seen_as_such(rendered: Rendered, factor: float) -> None:
    photo = rendered.photo(k=factor)
    patches = rendered.radii(photo)
    blurred = patches.requested > 2.0
    ratio = patches.measured[blurred].sum() / patches.requested[blurred].sum()
    assert ratio.item() == pytest.approx(factor, abs=0.04)
    found = find_focus(patches, rendered.strength.k)
    assert found.k / rendered.strength.k == pytest.approx(factor, abs=0.05)
    assert found.disparity == pytest.approx(rendered.focus, abs=0.03), "K off, focus right"


def test_identity_has_no_blur_and_no_plane_of_focus(rendered: Rendered) -> None:
    patches = rendered.radii(rendered.aif)
    assert patches.measured.abs().max() < 1e-3
    magnitude, bias = errors_by_bin(patches)
    torch.testing.assert_close(-bias, magnitude, equal_nan=True)
    edges = [0, *module.RADIUS_EDGES, math.inf]
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = patches.requested[(patches.requested >= low) & (patches.requested < high)]
        expected = pytest.approx(inside.mean().item(), abs=2e-3, nan_ok=True)
        assert magnitude[number].item() == expected
    assert math.isnan(find_focus(patches, rendered.strength.k).disparity)


def test_the_same_patches_count_whatever_the_output(rendered: Rendered) -> None:
    noise = torch.rand(rendered.aif.shape, generator=torch.Generator().manual_seed(1))
    for other in (rendered.aif, noise):
        torch.testing.assert_close(
            rendered.radii(other).requested, rendered.radii(rendered.photo()).requested
        )


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_plane_of_focus_is_found(rendered: Rendered, shift: float) -> None:
    facts = {"aif": rendered.aif, "disparity": rendered.disparity, **rendered.asked}
    error = METRICS["focus_plane_error"](rendered.photo(focus=shift), **facts)
    assert error == pytest.approx(shift, abs=0.03)
    in_px = METRICS["focus_plane_error_px"](rendered.photo(focus=shift), **facts)
    assert in_px == pytest.approx(error * rendered.strength.k, rel=1e-5)


def patches_of(radius, disparity) -> RadiusPatches:
    disparity = torch.tensor(disparity)
    ends = float(disparity.min()), float(disparity.max())
    return RadiusPatches(torch.tensor(radius), torch.tensor(radius), disparity, ends, 1.0)


def test_focus_between_the_surfaces_and_where_it_cannot_be_told() -> None:
    disparity = [0.2, 0.4, 1.0, 1.4, 2.0]
    between = patches_of([10 * abs(d - 0.7) for d in disparity], disparity)
    assert find_focus(between, 8.0) == pytest.approx((0.7, 10.0), abs=0.02)
    # One wrong patch in six does not move it.
    wrong = patches_of([*between.measured.tolist(), 25.0], [*disparity, 0.9])
    assert find_focus(wrong, 10.0) == pytest.approx((0.7, 10.0), abs=0.02)
    far_away = patches_of([20 - 10 * d for d in (0.1, 0.2, 0.3, 0.4)], [0.1, 0.2, 0.3, 0.4])
    even = patches_of([3.0] * 5, disparity)
    for hopeless in (far_away, even, patches_of([0.0, 1.0], [1.0, 2.0])):
        assert math.isnan(find_focus(hopeless, 10.0).disparity)


def test_wrong_use_of_the_blur_radius_is_an_error(rendered: Rendered) -> None:
    with pytest.raises(ValueError, match="not finite"):
        rendered.radii(torch.full_like(rendered.aif, math.nan))
    with pytest.raises(ValueError, match="too small"):
        measure_radii(
            torch.zeros(3, 8, 8),
            torch.zeros(3, 8, 8),
            torch.ones(8, 8),
            focus_disparity=0.0,
            strength=BlurStrength(1.0, 8, 8),
        )
    with pytest.raises(ValueError, match="shapes differ"):
        rendered.radii(torch.zeros(3, 64, 64))


# Bleeding


def without_order(rendered: Rendered) -> tuple[Tensor, Tensor]:
    """Two ways to forget who hides whom: every pixel spreads over all, or gathers from all."""
    radius = blur_radius(rendered.disparity, **rendered.asked)
    levels = [0.0, *np.arange(1.0, float(radius.max()) + 1.0)]
    nearest = (radius[..., None] - torch.tensor(levels)).abs().argmin(-1)
    spread, weight, gathered = (torch.zeros(3, SIZE, SIZE) for _ in range(3))
    for number, level in enumerate(levels):
        mask = (nearest == number).float()

        def blur(image: Tensor, level: float = level) -> Tensor:
            # As wide as a disc of that radius: its variance is a quarter of the square.
            return gaussian_blur(image, [int(4 * level) + 1] * 2, [max(0.5 * level, 0.01)] * 2)

        spread += blur(srgb_to_linear(rendered.aif) * mask)
        weight += blur(mask.expand(3, -1, -1))
        gathered += blur(srgb_to_linear(rendered.aif)) * mask
    return linear_to_srgb(spread / weight), linear_to_srgb(gathered)


def test_bleeding_tells_wrong_orders_from_a_wrong_amount_of_blur() -> None:
    rendered = make(110, low=10, high=16, margin=96)
    truth = rendered.photo()

    def measure(pred: Tensor) -> tuple[float, float]:
        return measure_bleeding(pred, truth, rendered.aif, rendered.disparity, **rendered.asked)

    assert measure(truth) == (0.0, 0.0)
    for k in (0.8, 1.2):
        assert measure(rendered.photo(k=k)) == pytest.approx((0.0, 0.0), abs=0.02)
    spread, gathered = without_order(rendered)
    assert measure(spread)[0] > 0.08, "background over the foreground"
    assert measure(gathered)[0] == pytest.approx(0.0, abs=0.01)
    assert measure(gathered)[1] > 0.08, "foreground smeared into the background"
    assert min(measure(gaussian_blur(rendered.aif, [13, 13], [2.0, 2.0]))) > 0.05


def two_sides() -> dict:
    """A near square in focus before a far wall, flat colours."""
    near = torch.zeros(64, 64, dtype=torch.bool)
    near[16:48, 16:48] = True
    colours = torch.where(near, torch.tensor([0.9, 0.2, 0.4])[:, None, None], 0.3)
    return {
        "target": colours,
        "aif": colours,
        "disparity": torch.where(near, 1.0, 0.2),
        "focus_disparity": 1.0,
        "strength": BlurStrength(5.0, 64, 64),
    }


def test_bleeding_is_the_share_mixed_in() -> None:
    case = two_sides()
    linear, near = srgb_to_linear(case["aif"]), case["disparity"] == 1.0
    front, back = linear[:, 32, 32], linear[:, 0, 0]
    for share in (0.0, 0.25, -0.1):
        pred = linear_to_srgb(linear + share * (back - front)[:, None, None] * near)
        measured = measure_bleeding(pred, **case)
        assert measured.near == pytest.approx(share, abs=1e-4)
        assert measured.far == pytest.approx(0.0, abs=1e-6)
    assert METRICS["bleeding"](pred, **case) == pytest.approx(0.1 / 2, abs=1e-4), "magnitudes"


def test_without_an_edge_or_without_contrast_there_is_no_bleeding() -> None:
    case = two_sides()
    pred = case["target"]
    in_focus_all_over = {**case, "strength": BlurStrength(0.1, 64, 64)}
    grey = torch.full_like(pred, 0.5)
    one_colour = {**case, "aif": grey, "target": grey}
    behind = {**case, "focus_disparity": 0.2}
    for other, output in ((in_focus_all_over, pred), (one_colour, grey), (behind, pred)):
        assert math.isnan(measure_bleeding(output, **other).near)


# In focus


def pair(seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.nn.functional.interpolate(
        torch.rand(2, 3, 16, 16, generator=generator), (64, 64), mode="bilinear"
    )
    noise = 0.1 * torch.randn(target.shape, generator=generator)
    return (target + noise).clamp(0, 1), target


def test_the_region_in_focus_is_that_of_the_control_map() -> None:
    pred, target = pair()
    disparity = torch.linspace(0.9, 1.1, 64).expand(64, 64)
    region = (10.0 * (disparity - 1.0).abs() < 0.5)[None]
    value = METRICS["in_focus_psnr"](
        pred[0],
        target=target[0],
        disparity=disparity,
        focus_disparity=1.0,
        strength=BlurStrength(10.0, 64, 64),
    )
    assert value == in_focus(pred[:1], target[:1], region, measure="psnr").item()


def test_only_what_is_in_focus_counts() -> None:
    pred, target = pair()
    region = torch.zeros(2, 64, 64, dtype=torch.bool)
    region[:, 8:40, 8:56] = True
    beside = torch.where(region[:, None], pred, 1.0 - pred)
    for measure in ("psnr", "ssim"):
        torch.testing.assert_close(
            in_focus(beside, target, region, measure=measure),
            in_focus(pred, target, region, measure=measure),
        )
    inside = (pred - target)[:, :, 8:40, 8:56].square().mean((1, 2, 3))
    expected = -10 * inside.log10()
    torch.testing.assert_close(in_focus(pred, target, region, measure="psnr"), expected)
    everywhere = torch.ones_like(region)
    torch.testing.assert_close(
        in_focus(pred, target, everywhere, measure="psnr"), psnr(pred, target)
    )


def test_ssim_in_focus_equals_the_map_of_scikit_image() -> None:
    pred, target = pair()
    region = torch.zeros(2, 64, 64, dtype=torch.bool)
    region[0, 3:30, 20:64], region[1, 30:60, 5:50] = True, True
    seen = torch.where(region[:, None], pred, target)
    expected = []
    for a, b, r in zip(seen, target, region, strict=True):
        _, full = structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        expected.append(full[:, 5:-5, 5:-5].mean(0)[r.numpy()[5:-5, 5:-5]].mean())
    torch.testing.assert_close(
        in_focus(pred, target, region, measure="ssim"),
        torch.tensor(expected).float(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_in_focus_failures_and_wrong_use() -> None:
    pred, target = pair()
    region = torch.ones(2, 64, 64, dtype=torch.bool)
    region[1, :, 1:] = False
    region[1, 63] = False  # 63 px are too few
    values = in_focus(pred, target, region, measure="psnr")
    assert values.isnan().tolist() == [False, True]
    pred[0, 0, 0, 0] = math.nan
    assert in_focus(pred, target, region, measure="ssim").isnan().all()
    with pytest.raises(ValueError, match="choose one of psnr, ssim, lpips"):
        in_focus(pred, target, region, measure="mse")
    with pytest.raises(ValueError, match="region is"):
        in_focus(pred, target, region[:1], measure="psnr")


@pytest.mark.skipif(not lpips_available("alex"), reason="run `genrefocus weights`")
def test_lpips_in_focus() -> None:
    pred, target = pair()
    region = torch.zeros(2, 64, 64, dtype=torch.bool)
    region[:, 8:40, 8:56] = True
    beside = torch.where(region[:, None], pred, 1.0 - pred)
    inside = in_focus(pred, target, region, measure="lpips")
    torch.testing.assert_close(in_focus(beside, target, region, measure="lpips"), inside)
    # The map averages to the metric, but for the borders that bringing it to size repeats.
    everywhere = in_focus(pred, target, torch.ones_like(region), measure="lpips")
    torch.testing.assert_close(everywhere, lpips(pred, target), rtol=0.1, atol=0)
    assert (in_focus(target, target, region, measure="lpips") == 0).all()
