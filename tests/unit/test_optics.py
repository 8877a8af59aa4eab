"""The control signal against closed forms; the real photograph is in golden/."""

import math
import pickle
from types import SimpleNamespace

import pytest
import torch

from genrefocus.optics import (
    MAX_COC,
    BlurStrength,
    blur_radius,
    blur_strength_from_exif,
    defocus_map,
    depth_to_disparity,
    focus_disparity,
    signed_defocus,
)
from genrefocus.rejection import Reason, Rejected


def lens(focal_length_mm=50.0, f_number=1.8, sensor_width_mm=36.0):
    return SimpleNamespace(
        focal_length_mm=focal_length_mm, f_number=f_number, sensor_width_mm=sensor_width_mm
    )


def test_disparity_is_the_inverse_and_missing_depth_is_infinitely_far():
    depth = torch.tensor([[0.5, 2.0, 8.0], [0.0, -3.0, 1e38]])
    expected = torch.tensor([[2.0, 0.5, 0.125], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(depth_to_disparity(depth), expected)


def test_half_precision_depth_is_inverted_in_float32():
    disparity = depth_to_disparity(torch.tensor([[3.0, 2.0]], dtype=torch.float16))
    assert disparity.dtype == torch.float32
    assert disparity[0, 0] == pytest.approx(1 / 3, abs=1e-7)


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        ([[1.0, math.nan]], Reason.NON_FINITE),
        ([[1.0, math.inf]], Reason.NON_FINITE),
        ([[1.0, 1e-42]], Reason.NON_FINITE),  # its inverse overflows float32
        ([[2.0, 2.0]], Reason.DEPTH_WITHOUT_SPREAD),
        ([[0.0, -1.0]], Reason.DEPTH_WITHOUT_SPREAD),
    ],
)
def test_degenerate_depth_is_rejected(depth, reason):
    with pytest.raises(Rejected) as caught:
        depth_to_disparity(torch.tensor(depth))
    assert caught.value.reason is reason
    assert caught.value.value is not None
    assert "\n" not in str(caught.value)


def test_integer_depth_is_refused_since_it_is_rarely_metres():
    with pytest.raises(ValueError, match="metres"):
        depth_to_disparity(torch.tensor([[1200, 3400]]))


def test_focus_disparity_is_a_median_on_disparity_with_the_mean_of_two_middle_values():
    depth = torch.tensor([[1.0, 4.0, 2.0, 100.0]])
    disparity = depth_to_disparity(depth)
    two = torch.tensor([[True, True, False, False]])
    # Not 1 / median(depth) = 0.4, nor the lower middle value 0.25.
    assert focus_disparity(disparity, two) == pytest.approx((1.0 + 0.25) / 2)
    three = torch.tensor([[255, 255, 255, 0]], dtype=torch.uint8)
    assert focus_disparity(disparity, three) == pytest.approx(0.5)


def test_focus_disparity_rejects_an_empty_mask_and_non_finite_values_under_it():
    disparity = torch.tensor([[1.0, math.nan]])
    assert focus_disparity(disparity, torch.tensor([[True, False]])) == 1.0
    with pytest.raises(Rejected) as caught:
        focus_disparity(disparity, torch.zeros(1, 2, dtype=torch.bool))
    assert (caught.value.reason, caught.value.value) == (Reason.EMPTY_MASK, 0)
    with pytest.raises(Rejected, match="non_finite"):
        focus_disparity(disparity, torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="sizes must agree"):
        focus_disparity(disparity, torch.ones(2, 2))


def test_radius_sign_and_clipping_in_closed_form():
    disparity = torch.tensor([[2.0, 0.5, 0.25, 30.0]])
    strength = BlurStrength(20.0, 1, 4)
    signed = signed_defocus(disparity, 0.5, strength)
    torch.testing.assert_close(signed, torch.tensor([[30.0, 0.0, -5.0, 590.0]]))
    torch.testing.assert_close(blur_radius(disparity, 0.5, strength), signed.abs())
    expected = torch.tensor([[30.0, 0.0, 5.0, MAX_COC]]) / MAX_COC
    torch.testing.assert_close(defocus_map(disparity, 0.5, strength), expected)


def test_the_sweep_0_5_10_15_is_linear_and_starts_with_an_empty_map():
    disparity = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    maps = [defocus_map(disparity, 0.4, BlurStrength(k, 5, 6)) for k in (0.0, 5.0, 10.0, 15.0)]
    assert not maps[0].any()
    torch.testing.assert_close(maps[2], 2 * maps[1])
    torch.testing.assert_close(maps[3], 3 * maps[1])


@pytest.mark.parametrize("k", [-1.0, math.nan, math.inf])
def test_k_below_zero_or_not_finite_is_rejected(k):
    with pytest.raises(Rejected):
        BlurStrength(k, 4, 4)


def test_zero_k_is_rejected_where_blur_is_required():
    assert BlurStrength(2.0, 4, 4).require_positive().k == 2.0
    with pytest.raises(Rejected) as caught:
        BlurStrength(0.0, 4, 4).require_positive()
    assert (caught.value.reason, caught.value.value) == (Reason.K_NOT_POSITIVE, 0.0)


def test_k_follows_a_resize_and_not_a_crop():
    strength = BlurStrength(12.0, 600, 800)
    assert strength.resized(300, 400) == BlurStrength(6.0, 300, 400)
    assert strength.resized(800, 600).k == 12.0  # the long edge counts
    assert strength.cropped(100, 50) == BlurStrength(12.0, 100, 50)
    assert strength.cropped(400, 400).resized(800, 800).k == 24.0
    with pytest.raises(ValueError, match="exceeds"):
        strength.cropped(601, 800)


def test_a_map_of_another_size_than_k_is_stated_for_is_an_error():
    with pytest.raises(ValueError, match="K is stated for 8x8"):
        defocus_map(torch.rand(4, 4), 0.5, BlurStrength(1.0, 8, 8))


@pytest.mark.parametrize(
    ("focus", "reason"),
    [(-0.1, Reason.FOCUS_DISPARITY_NEGATIVE), (math.nan, Reason.NON_FINITE)],
)
def test_impossible_focus_is_rejected(focus, reason):
    strength = BlurStrength(1.0, 1, 2)
    for attempt in (
        lambda: defocus_map(torch.rand(1, 2), focus, strength),
        lambda: blur_strength_from_exif(lens(), focus, 10, 10),
    ):
        with pytest.raises(Rejected) as caught:
            attempt()
        assert caught.value.reason is reason


@pytest.mark.parametrize("f_mm", [4.2, 35.0, 200.0])
@pytest.mark.parametrize("z_f", [0.5, 3.0, 40.0])
def test_eq3_equals_the_circle_of_confusion_of_a_thin_lens(f_mm, z_f):
    """Radius on the sensor by similar triangles behind the lens, in pixels."""
    f_number, width_mm, width_px = 2.8, 23.5, 6000
    strength = blur_strength_from_exif(lens(f_mm, f_number, width_mm), 1 / z_f, 4000, width_px)

    def image_distance(z_mm: float) -> float:
        return f_mm * z_mm / (z_mm - f_mm)

    for z in (0.4, 0.7, 2.0, 9.0, 500.0):
        v, v_f = image_distance(z * 1000), image_distance(z_f * 1000)
        radius_mm = f_mm / f_number * abs(v - v_f) / v / 2
        expected = radius_mm * width_px / width_mm
        assert strength.k * abs(1 / z - 1 / z_f) == pytest.approx(expected, rel=1e-9)


def test_eq3_states_k_for_the_resolution_it_is_asked_for():
    full = blur_strength_from_exif(lens(), 0.5, 4000, 6000)
    small = blur_strength_from_exif(lens(), 0.5, 400, 600)
    assert small.k == pytest.approx(full.resized(400, 600).k)
    upright = blur_strength_from_exif(lens(), 0.5, 6000, 4000)
    assert upright.k == full.k


def test_eq3_holds_for_focus_at_infinity():
    k = blur_strength_from_exif(lens(), 0.0, 683, 1024).k
    assert k == pytest.approx(50**2 / (2 * 1.8) * 1024 / 36 / 1000)


def test_focus_within_the_focal_length_is_rejected_with_the_distance():
    for z_f in (0.05, 0.02):
        with pytest.raises(Rejected) as caught:
            blur_strength_from_exif(lens(), 1 / z_f, 683, 1024)
        assert caught.value.reason is Reason.FOCUS_WITHIN_FOCAL_LENGTH
        assert caught.value.value == pytest.approx(z_f)


@pytest.mark.parametrize("field", ["focal_length_mm", "f_number", "sensor_width_mm"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_impossible_lens_facts_are_rejected(field, value):
    with pytest.raises(Rejected, match=field):
        blur_strength_from_exif(lens(**{field: value}), 0.5, 10, 10)


def test_a_rejection_survives_the_way_between_worker_processes():
    rejected = pickle.loads(pickle.dumps(Rejected(Reason.EMPTY_MASK, 0, "mask.png is black")))
    assert (rejected.reason, rejected.value) == (Reason.EMPTY_MASK, 0)
    assert str(rejected) == "empty_mask (0): mask.png is black"
