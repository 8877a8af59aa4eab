"""Gates on measures: what passes, what is turned away, and thresholds that cannot be right."""

import math

import pytest

from genrefocus.preparation.gates import KNOWN_MEASURES, Gates
from genrefocus.rejection import Reason, Rejected

SET = {"ssim": {"min": 0.8, "max": None}, "k": {"min": 1, "max": 40}, "colour_shift": {"max": 0.5}}
GOOD = {"ssim": 0.9, "k": 8.0, "colour_shift": 0.1}


def turned_away(measures: dict) -> Rejected:
    with pytest.raises(Rejected) as caught:
        Gates(SET).check(measures)
    return caught.value


def test_what_lies_within_passes_and_the_limits_belong_to_it() -> None:
    Gates(SET).check(GOOD)
    Gates(SET).check({"ssim": 0.8, "k": 40, "colour_shift": 0.5, "another": math.nan})


@pytest.mark.parametrize(
    ("measure", "value"),
    [("ssim", 0.799), ("k", 0.9), ("k", 40.1), ("colour_shift", 0.6), ("colour_shift", math.inf)],
)
def test_what_lies_outside_has_its_reason_value_and_threshold(measure: str, value: float) -> None:
    error = turned_away({**GOOD, measure: value})
    assert error.reason is Reason(f"gate_{measure}")
    assert error.value == (value if math.isfinite(value) else "inf")
    words = {
        "ssim": "at least 0.8",
        "k": "at least 1 and at most 40",
        "colour_shift": "at most 0.5",
    }
    assert f"{measure} must be {words[measure]}" in str(error)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", list(SET))
def test_what_is_not_finite_never_passes(measure: str, value: float) -> None:
    assert turned_away({**GOOD, measure: value}).value == str(value)


@pytest.mark.parametrize("measures", [{"ssim": 0.9, "k": 8.0}, {**GOOD, "colour_shift": None}])
def test_a_missing_measure_is_an_error_and_no_pass(measures: dict) -> None:
    with pytest.raises(ValueError, match="colour_shift") as caught:
        Gates(SET).check(measures)
    assert not isinstance(caught.value, Rejected)


def test_what_has_no_threshold_is_reported() -> None:
    gates = Gates({**SET, "pixel_ratio": {"min": None, "max": None}})
    assert gates.unset() == [x for x in KNOWN_MEASURES if x not in SET]
    assert Gates({}).unset() == list(KNOWN_MEASURES)
    assert set(KNOWN_MEASURES) >= {"ssim", "mask_agreement", "registration_error", "largest_radius"}


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [
        ({"sism": {"min": 0.8}}, "sism.*ssim"),
        ({"ssim": {"minimum": 0.8}}, "minimum"),
        ({"ssim": {"min": "0.8"}}, "'0.8'"),
        ({"ssim": {"min": math.nan}}, "finite"),
        ({"ssim": {"min": True}}, "True"),
        ({"k": {"min": 5, "max": 1}}, "nothing passes"),
    ],
)
def test_wrong_thresholds(thresholds: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Gates(thresholds)
