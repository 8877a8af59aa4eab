"""Measures of real pairs: photographs that were shifted, turned, coloured and blurred by us."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.ndimage import fourier_shift
from skimage import data
from skimage.transform import AffineTransform, warp
from torch import Tensor

from genrefocus.optics import BlurStrength
from genrefocus.preparation.pairs import PairMeasures, correct, measure_pair
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import disk
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

MARGIN = 20
GAIN, OFFSET = (0.72, 0.8, 0.88), (0.01, 0.0, -0.004)


@pytest.fixture(scope="module", params=["astronaut", "coffee"])
def image(request: pytest.FixtureRequest) -> Tensor:
    """(3, 320, 360) sRGB, a photograph."""
    pixels = getattr(data, request.param)()[40:360, 100:460]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def blurred(image: Tensor, radius: float, focus: str = "object") -> Tensor:
    """With depth of field: an object in focus before a background, a slope, or nothing in focus."""
    height, width = image.shape[1:]
    if focus == "slope":
        disparity, plane = torch.linspace(0, 1, width).expand(height, width).contiguous(), 0.4
    else:
        disparity, plane = torch.zeros(height, width), 1.0
        if focus == "object":
            disparity[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1.0
    light = render_scatter(
        srgb_to_linear(image),
        disparity,
        focus_disparity=plane,
        strength=BlurStrength(radius, height, width),
        aperture=disk(),
    )
    return linear_to_srgb(light)


def shifted(image: Tensor, down: float, right: float) -> Tensor:
    spectra = (fourier_shift(np.fft.fft2(x), (down, right)) for x in image.numpy())
    return torch.from_numpy(np.stack([np.fft.ifft2(x).real for x in spectra])).float().clamp(0, 1)


def coloured(image: Tensor) -> Tensor:
    gain, offset = (torch.tensor(x)[:, None, None] for x in (GAIN, OFFSET))
    return linear_to_srgb(srgb_to_linear(image) * gain + offset)


def noisy(image: Tensor) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + 0.01 * noise).clamp(0, 1)


def measured(sharp: Tensor, photo: Tensor) -> PairMeasures:
    """Of what lies within the margin, where nothing was invented."""
    return measure_pair(*(x[:, MARGIN:-MARGIN, MARGIN:-MARGIN] for x in (sharp, photo)))


@pytest.mark.parametrize(
    ("radius", "focus", "shift"),
    [
        (12, "object", (1.37, -2.61)),
        (6, "slope", (-7.2, 4.45)),
        (3, "nothing", (0.0, 0.25)),
    ],
)
def test_shifts_are_found_to_a_tenth_of_a_pixel_under_blur(
    image: Tensor, radius: float, focus: str, shift: tuple[float, float]
) -> None:
    photo = noisy(coloured(shifted(blurred(image, radius, focus), *shift)))
    found = measured(image, photo)
    assert math.dist(found.shift, shift) < 0.1
    assert found.registration_error == pytest.approx(math.hypot(*shift), abs=0.5)
    assert found.deformation is None or found.deformation < 0.5


@pytest.mark.parametrize("turn", [{"rotation": math.radians(0.6)}, {"scale": 1.012}])
def test_rotation_and_zoom_show(image: Tensor, turn: dict[str, float]) -> None:
    """The centre of a corner window lies a third of the image from the fixed point."""
    _, height, width = image.shape
    centre = np.array([width, height]) / 2
    about = AffineTransform(translation=-centre) + AffineTransform(**turn)
    about = about + AffineTransform(translation=centre)
    turned = warp(image.permute(1, 2, 0).numpy(), about.inverse, order=3, mode="reflect")
    found = measured(image, torch.from_numpy(turned).permute(2, 0, 1).float().clamp(0, 1))
    corner = (np.array([width, height]) - 2 * MARGIN) / 3 + centre
    expected = math.dist(about(corner)[0], corner)
    assert found.windows >= 6
    assert found.deformation == pytest.approx(expected, rel=0.3)
    assert found.registration_error == pytest.approx(expected, rel=0.3)
    assert math.hypot(*found.shift) < 0.5 * expected


@pytest.mark.parametrize(("radius", "focus"), [(8, "object"), (8, "slope")])
def test_colour_is_recovered_under_blur(image: Tensor, radius: float, focus: str) -> None:
    photo = noisy(coloured(shifted(blurred(image, radius, focus), 1.3, -2.2)))
    found = measured(image, photo)
    assert found.correction.gain == pytest.approx(GAIN, rel=0.04)
    assert found.correction.offset == pytest.approx(OFFSET, abs=0.012)
    assert found.correction.residual < 0.005
    expected = coloured(image)
    assert float((correct(image, found.correction) - expected).abs().mean()) < 0.01
    assert float((image - expected).abs().mean()) > 0.03


def test_shifts_of_colour_and_exposure_are_stops(image: Tensor) -> None:
    photo = linear_to_srgb(0.5 * srgb_to_linear(image))
    found = measured(image, photo)
    assert found.exposure_shift == pytest.approx(-1.0, abs=0.01)
    assert found.colour_shift == pytest.approx(0.0, abs=0.01)
    assert found.sharpness_ratio == pytest.approx(1.0, abs=0.02)
    gain = torch.tensor([0.9, 0.9, 0.45])[:, None, None]
    found = measured(image, linear_to_srgb(gain * srgb_to_linear(image)))
    assert found.colour_shift == pytest.approx(1.0, abs=0.02)
    assert -1.0 < found.exposure_shift < math.log2(0.9)


def test_the_sharpness_ratio_falls_with_blur(image: Tensor) -> None:
    photos = [blurred(image, radius) for radius in (1, 3, 8)]
    ratios = [measured(image, photo).sharpness_ratio for photo in photos]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] < 1 and ratios[-1] > 0.1
    assert measured(photos[1], image).sharpness_ratio == pytest.approx(1 / ratios[1], rel=0.05)


def test_an_image_with_itself(image: Tensor) -> None:
    found = measure_pair(image, image)
    assert found.shift == (0.0, 0.0) and found.registration_error == found.deformation == 0.0
    assert found.correlation == pytest.approx(1.0) and found.sharpness_ratio == pytest.approx(1.0)
    assert found.exposure_shift == pytest.approx(0.0, abs=1e-4)
    record = json.loads(json.dumps(asdict(found)))
    assert record["correction"]["gain"] == pytest.approx([1, 1, 1], abs=1e-4)
    torch.testing.assert_close(correct(image, found.correction), image, atol=1e-3, rtol=0)


def reason(sharp: Tensor, photo: Tensor) -> Reason:
    with pytest.raises(Rejected) as caught:
        measure_pair(sharp, photo)
    assert caught.value.value is not None
    assert json.dumps(caught.value.value)
    return caught.value.reason


def test_what_is_no_pair_is_rejected(image: Tensor) -> None:
    assert reason(image, image[:, :-1]) is Reason.SIZES_DIFFER
    assert reason(image[:, :95], image[:, :95]) is Reason.IMAGE_TOO_SMALL
    assert reason(image, torch.full_like(image, 0.5)) is Reason.REGISTRATION_FAILED
    assert reason(image, image.flip(1)) is Reason.REGISTRATION_FAILED
    assert reason(image, (image * 3 + 0.9).clamp(0, 1)) is Reason.REGISTRATION_FAILED
    assert reason(image, image * math.nan) is Reason.NON_FINITE
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        measure_pair(image[:1], image[:1])


def test_a_structure_along_one_direction_is_not_taken_for_a_deformation() -> None:
    """Along a stripe a shift does not show, and windows of stripes must not count."""
    generator = torch.Generator().manual_seed(0)
    stripes = torch.rand(1, 1, 240, generator=generator).expand(3, 240, 240).clone()
    patch = torch.rand(3, 80, 80, generator=generator)
    stripes[:, 80:160, 80:160] = patch
    smooth = torch.from_numpy(np.stack([_smooth(x) for x in stripes.numpy()])).float()
    found = measure_pair(smooth, shifted(smooth, 0.0, 0.4))
    assert found.windows < 9
    assert found.registration_error < 0.6


def _smooth(channel: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(channel, 1.0, mode="wrap")
