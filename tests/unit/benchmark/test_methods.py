"""Methods without a network against scikit-image, scipy and closed forms."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import unsharp_mask as skimage_unsharp_mask
from torch import Tensor

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.methods import Classical, Unsharp
from genrefocus.metrics.psnr import psnr
from genrefocus.optics import BlurStrength


def images(count: int = 3, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0.1, 0.9)


def case(image: Tensor, target: Tensor | None = None) -> Case:
    return Case("deblur", "a", image, image if target is None else target)


@pytest.mark.parametrize(("sigma", "amount"), [(1.0, 0.5), (2.0, 1.5), (0.5, 3.0)])
def test_the_unsharp_mask_equals_scikit_image(sigma: float, amount: float) -> None:
    image = images(1)[0]
    expected = skimage_unsharp_mask(
        image.double().numpy(), radius=sigma, amount=amount, channel_axis=0
    )
    # Borders are continued differently.
    inner = slice(int(4 * sigma), -int(4 * sigma))
    torch.testing.assert_close(
        Unsharp(sigma, amount)(case(image))[:, inner, inner],
        torch.tensor(expected[:, inner, inner]).float(),
        atol=1e-5,
        rtol=0,
    )


def test_the_unsharp_mask_without_an_amount_is_the_input() -> None:
    image = images()[0]
    assert torch.equal(Unsharp(2.0, 0.0)(case(image)), image)
    with pytest.raises(ValueError, match="needs an image of more than 64 px"):
        Unsharp(16.0, 1.0)(case(image))


def test_the_fitted_unsharp_mask_is_the_best_of_its_grid() -> None:
    sharp = images()
    blurry = torch.tensor(gaussian_filter(sharp.numpy(), (0, 0, 1.0, 1.0)))
    cases = [case(*pair) for pair in zip(blurry, sharp, strict=True)]
    grid = {"sigmas": (1.0, 2.0), "amounts": (0.0, 0.5, 1.0)}

    def mean_psnr(method: Unsharp) -> float:
        answers = torch.stack([method(one) for one in cases])
        return psnr(answers, sharp).mean().item()

    by_hand = [mean_psnr(Unsharp(s, a)) for s in grid["sigmas"] for a in grid["amounts"]]
    best = mean_psnr(Unsharp.fitted(cases, **grid))
    assert best == pytest.approx(max(by_hand))
    assert best > psnr(blurry, sharp).mean().item() + 1.0
    assert Unsharp.fitted([case(image) for image in sharp]).amount == 0.0


def test_classical_bokeh_works_in_linear_light() -> None:
    # Stripes of black and white, all out of focus alike: their mean in linear light is 0.5, which
    # sRGB encodes as 0.7354; blurring the encoded values would give 0.5.
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    wall, strength = torch.full((64, 64), 1.0), BlurStrength(8.0, 64, 64)
    blurred, in_focus = (
        Classical()(Case("bokeh", "a", stripes, stripes, stripes, wall, focus, strength))
        for focus in (0.0, 1.0)
    )
    assert blurred[:, 24:40, 24:40].mean().item() == pytest.approx(0.7354, abs=0.01)
    torch.testing.assert_close(in_focus, stripes, atol=1e-5, rtol=0)


def test_the_classical_chain_sharpens_and_then_renders() -> None:
    """A wall in the plane of focus is sharpened alone; a wall behind it is blurred anew."""
    image = images(1)[0]
    wall, strength, sharpened = (
        torch.full((64, 64), 1.0),
        BlurStrength(8.0, 64, 64),
        Unsharp(2.0, 1.5),
    )
    chain = Classical(sharpened=sharpened)
    assert chain.name == "unsharp_scatter"

    def answered(focus: float) -> Tensor:
        return chain(Case("refocus", "a", image, image, image, wall, focus, strength))

    torch.testing.assert_close(answered(1.0), sharpened(case(image)), atol=1e-5, rtol=0)
    assert answered(0.0).var() < 0.5 * image.var()
