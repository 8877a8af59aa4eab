"""Full-reference metrics against scikit-image, and what they do with unusable pairs."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from genrefocus.metrics.psnr import CAP_DB, psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.tally import Tally


def pairs(count: int = 4, size: tuple[int, int] = (64, 48)) -> tuple[Tensor, Tensor]:
    """Smooth random images, each with more noise than the one before."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    target = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    noise = torch.randn(target.shape, generator=generator)
    level = torch.linspace(0.01, 0.2, count).view(-1, 1, 1, 1)
    return (target + level * noise).clamp(0, 1), target


def hwc(image: Tensor) -> np.ndarray:
    return image.double().permute(1, 2, 0).numpy()


def test_psnr_equals_scikit_image() -> None:
    pred, target = pairs()
    expected = [
        peak_signal_noise_ratio(hwc(t), hwc(p), data_range=1.0)
        for p, t in zip(pred, target, strict=True)
    ]
    torch.testing.assert_close(
        psnr(pred, target), torch.tensor(expected).float(), atol=1e-3, rtol=0
    )


def test_psnr_is_capped_above_the_rounding_of_stored_images() -> None:
    _, target = pairs()
    rounded = (target * 255).round() / 255
    assert (psnr(rounded, target) < CAP_DB).all()
    assert psnr(target, target).tolist() == pytest.approx([CAP_DB] * len(target))


def test_ssim_equals_scikit_image() -> None:
    pred, target = pairs()
    expected = [
        structural_similarity(
            hwc(t),
            hwc(p),
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for p, t in zip(pred, target, strict=True)
    ]
    torch.testing.assert_close(
        ssim(pred, target), torch.tensor(expected).float(), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_image_is_measured_as_within_its_batch(metric) -> None:
    pred, target = pairs()
    alone = torch.cat([metric(pred[i : i + 1], target[i : i + 1]) for i in range(len(pred))])
    torch.testing.assert_close(alone, metric(pred, target), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_pair_that_is_not_finite_fails_alone(metric, poison: float) -> None:
    pred, target = pairs()
    clean = metric(pred, target)
    pred[1, 0, 5, 5] = poison
    values = metric(pred, target)
    assert values.isfinite().tolist() == [True, False, True, True]
    torch.testing.assert_close(values[[0, 2, 3]], clean[[0, 2, 3]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_input_is_an_error(metric) -> None:
    pred, target = pairs()
    wrong = [
        (pred[:, :, :32], target, "shapes differ"),
        (pred[0], target[0], r"\(B, 3, H, W\)"),
        (pred[:, :1], target[:, :1], r"\(B, 3, H, W\)"),
        (pred * 2 - 1, target, "pred has values in"),
        (pred, target * 255, "target has values in"),
        ((pred * 255).byte(), (target * 255).byte(), "floating point"),
    ]
    for first, second, message in wrong:
        with pytest.raises(ValueError, match=message):
            metric(first, second)


def test_ssim_needs_an_image_as_large_as_its_window() -> None:
    small = torch.rand(1, 3, 10, 64)
    with pytest.raises(ValueError, match="10 x 64 px are too small"):
        ssim(small, small)


@pytest.mark.parametrize("function", [psnr, ssim])
def test_a_tally_is_the_mean_over_valid_images_however_batched(function) -> None:
    pred, target = pairs()
    pred[2, 0, 0, 0] = math.nan
    expected = np.delete(function(pred, target).double().numpy(), 2).mean()
    for sizes in ([4], [1, 1, 1, 1], [3, 1]):
        tally = Tally(function)
        for p, t in zip(pred.split(sizes), target.split(sizes), strict=True):
            tally.update(p, t)
        summary = tally.compute()
        assert summary.mean.item() == pytest.approx(expected, rel=1e-6)
        assert (summary.valid.item(), summary.failed.item()) == (3, 1)


def test_nothing_valid_has_no_mean() -> None:
    tally = Tally(psnr)
    tally.update(torch.full((2, 3, 16, 16), math.nan), torch.rand(2, 3, 16, 16))
    summary = tally.compute()
    assert math.isnan(summary.mean.item())
    assert (summary.valid.item(), summary.failed.item()) == (0, 2)


def test_reset_forgets() -> None:
    pred, target = pairs()
    tally = Tally(psnr)
    tally.update(pred, target)
    tally.reset()
    tally.update(target, target)
    assert tally.compute().mean.item() == pytest.approx(CAP_DB)
