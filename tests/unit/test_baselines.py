"""Baselines against scikit-image, scipy and closed forms."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import unsharp_mask as skimage_unsharp_mask
from torch import Tensor

from genrefocus.baselines import AMOUNTS, best_unsharp, classical_bokeh, unsharp_mask
from genrefocus.metrics.psnr import psnr
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk


def images(count: int = 3, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0.1, 0.9)


@pytest.mark.parametrize(("sigma", "amount"), [(1.0, 0.5), (2.0, 1.5), (0.5, 3.0)])
def test_unsharp_mask_equals_scikit_image(sigma: float, amount: float) -> None:
    image = images(1)[0]
    expected = skimage_unsharp_mask(
        image.double().numpy(), radius=sigma, amount=amount, channel_axis=0
    )
    # Borders are continued differently.
    inner = slice(int(4 * sigma), -int(4 * sigma))
    torch.testing.assert_close(
        unsharp_mask(image, sigma, amount)[:, inner, inner],
        torch.tensor(expected[:, inner, inner]).float(),
        atol=1e-5,
        rtol=0,
    )


def test_unsharp_mask_of_nothing_is_the_input() -> None:
    batch = images()
    assert torch.equal(unsharp_mask(batch, 2.0, 0.0), batch)
    torch.testing.assert_close(
        unsharp_mask(torch.full_like(batch, 0.4), 2.0, 3.0)[0, 0, 0, 0], torch.tensor(0.4)
    )


def test_best_unsharp_is_the_best_of_its_grid() -> None:
    sharp = images()
    blurry = torch.tensor(gaussian_filter(sharp.numpy(), (0, 0, 1.0, 1.0)))
    sigmas, amounts = (1.0, 2.0), (0.0, 0.5, 1.0)
    found = best_unsharp(blurry, sharp, sigmas=sigmas, amounts=amounts)
    by_hand = {
        (s, a): psnr(unsharp_mask(blurry, s, a), sharp).mean().item()
        for s in sigmas
        for a in amounts
    }
    assert by_hand[found.sigma, found.amount] == max(by_hand.values())
    assert found.psnr == pytest.approx(max(by_hand.values()))
    assert found.psnr > psnr(blurry, sharp).mean().item() + 1.0


def test_best_unsharp_of_a_sharp_image_does_nothing() -> None:
    assert 0.0 in AMOUNTS
    sharp = images()
    assert best_unsharp(sharp, sharp).amount == 0.0


def test_wrong_input_is_an_error() -> None:
    batch = images()
    wrong = [
        (lambda: unsharp_mask(batch, 0.0, 1.0), "sigma must be above 0"),
        (lambda: unsharp_mask(batch, 16.0, 1.0), "needs an image of more than 64 px"),
        (lambda: unsharp_mask(batch, 1.0, -1.0), "amount must be at least 0"),
        (lambda: best_unsharp(batch, batch[:2]), "shapes differ"),
        (lambda: best_unsharp(batch[:0], batch[:0]), "at least one"),
        (lambda: best_unsharp(torch.full_like(batch, torch.nan), batch), "finite images"),
        (lambda: best_unsharp(batch, batch, sigmas=()), "nothing to search"),
    ]
    for attempt, message in wrong:
        with pytest.raises(ValueError, match=message):
            attempt()


def test_classical_bokeh_works_in_linear_light() -> None:
    # Stripes of black and white, all out of focus alike: their mean in linear light is 0.5, which
    # sRGB encodes as 0.7354; blurring the encoded values would give 0.5.
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)

    def rendered(focus_disparity: float) -> torch.Tensor:
        return classical_bokeh(
            stripes,
            torch.full((64, 64), 1.0),
            focus_disparity=focus_disparity,
            strength=BlurStrength(k=8.0, height=64, width=64),
            aperture=disk(),
        )

    middle = rendered(focus_disparity=0.0)[:, 24:40, 24:40]
    assert middle.mean().item() == pytest.approx(0.7354, abs=0.01)
    torch.testing.assert_close(rendered(focus_disparity=1.0), stripes, atol=1e-5, rtol=0)
