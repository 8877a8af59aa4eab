"""K by search: against closed-form curves and dense sweeps of renderings, and what is rejected."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrefocus.k_search import KRange, KSearch, search_k
from genrefocus.metrics.ssim import ssim
from genrefocus.optics import BlurStrength
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene

LOW, HIGH = 0.5, 50.0
Score = Callable[[float], float]


def peak(at: float, width: float = 0.8, skew: float = 0.0) -> Score:
    """A bump in log K with its maximum at `at`, steeper to one side."""

    def score(k: float) -> float:
        x = math.log(k / at) / width
        return 0.5 + 0.4 * math.exp(-(x**2) * (1 + skew * math.tanh(x)))

    return score


def rejected(score: Score, budget: int = 24) -> Rejected:
    with pytest.raises(Rejected) as caught:
        search_k(score, low=LOW, high=HIGH, budget=budget)
    return caught.value


@settings(max_examples=60, deadline=None)
@given(
    st.floats(math.log(LOW) + 0.3, math.log(HIGH) - 0.3),
    st.floats(0.5, 1.5),
    st.floats(-0.5, 0.5),
    st.integers(12, 24),
)
def test_it_finds_the_maximum_of_a_curve_with_one(
    place: float, width: float, skew: float, budget: int
) -> None:
    calls: list[float] = []

    def score(k: float) -> float:
        calls.append(k)
        return peak(math.exp(place), width, skew)(k)

    found = search_k(score, low=LOW, high=HIGH, budget=budget)
    assert found.k == pytest.approx(math.exp(place), rel=0.02)
    assert len(calls) == len(set(calls)) == len(found.curve) <= budget
    assert [k for k, _ in found.curve] == sorted(calls)
    assert (found.k, found.score) == max(found.curve, key=lambda point: point[1])


def test_a_kink_is_no_parabola() -> None:
    found = search_k(lambda k: 1 - abs(math.log(k / 7.0)) ** 0.5, low=LOW, high=HIGH, budget=30)
    assert found.k == pytest.approx(7.0, rel=0.02)


def photograph(seed: int, size: int = 96) -> tuple[Score, float, float]:
    """Score of K against a photograph by the reference renderer, and the bounds of K."""
    scene = procedural_scene(seed, size, size, lights=0.0, margin=16)
    rng = np.random.default_rng(seed)
    focus = draw_focus(scene, rng)
    strength = draw_strength(scene, focus, rng, low=2.0, high=6.0)
    positions = disk().positions(64)
    target = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
    sharp, disparity = scene_aif(scene), scene_disparity(scene)

    def score(k: float) -> float:
        rendering = render_scatter(
            sharp,
            disparity,
            focus_disparity=focus,
            strength=BlurStrength(k, size, size),
            aperture=disk(),
        )
        return float(ssim(linear_to_srgb(rendering)[None], linear_to_srgb(target)[None]))

    low, high = KRange(0.5 / size, 25 / size, 24).bounds(disparity, focus)
    return score, low, high


@pytest.mark.parametrize("seed", [4, 5, 7])
def test_it_agrees_with_a_dense_sweep_of_renderings(seed: int) -> None:
    score, low, high = photograph(seed)
    found = [search_k(score, low=low, high=high, budget=budget) for budget in (12, 24)]
    around = np.geomspace(max(low, found[1].k / 1.2), min(high, found[1].k * 1.2), 61)
    sweep = [*np.geomspace(low, high, 40), *around]
    values = [score(float(k)) for k in sweep]
    for one in found:
        assert one.k == pytest.approx(sweep[int(np.argmax(values))], rel=0.02)
        assert one.score >= max(values) - 5e-4


@pytest.mark.parametrize("rising", [True, False])
def test_a_maximum_at_a_bound_is_rejected(rising: bool) -> None:
    error = rejected(lambda k: math.tanh(math.log(k) * (0.3 if rising else -0.3)))
    assert error.reason is Reason.K_AT_BOUND
    assert error.value["k"] == pytest.approx(HIGH if rising else LOW, rel=0.02)


@pytest.mark.parametrize("at", [1.06 * LOW, HIGH / 1.06])
def test_a_maximum_between_the_bound_and_the_first_point_is_found(at: float) -> None:
    found = search_k(peak(at, 0.3), low=LOW, high=HIGH, budget=24)
    assert found.k == pytest.approx(at, rel=0.02)


@pytest.mark.parametrize("budget", [8, 60])
def test_bounds_hold_also_where_they_are_near(budget: int) -> None:
    def score(k: float) -> float:
        assert 3.0 <= k <= 3.3
        return 1 - 100 * math.log(k / 3.1) ** 2

    found = search_k(score, low=3.0, high=3.3, budget=budget)
    assert found.k == pytest.approx(3.1, rel=0.005)
    with pytest.raises(Rejected, match="k_at_bound"):
        search_k(lambda k: k, low=3.0, high=3.3, budget=budget)


def test_a_flat_curve_is_rejected() -> None:
    assert rejected(lambda k: 0.9 + 0.002 * peak(5.0)(k)).reason is Reason.SCORE_FLAT


def test_a_curve_that_is_flat_down_to_a_bound_is_rejected() -> None:
    """A photograph without visible blur: all small K are as good."""
    error = rejected(lambda k: 0.9 - 0.1 * max(0.0, math.log(k / 4.0)) ** 2 + 1e-5 * math.log(k))
    assert error.reason is Reason.SCORE_FLAT


def two_peaks(second: float) -> Score:
    return lambda k: max(peak(1.5)(k), second * peak(20.0)(k))


def test_two_separated_maxima_are_rejected() -> None:
    error = rejected(two_peaks(0.995))
    assert error.reason is Reason.SCORE_MULTIMODAL
    assert error.value["k"] == pytest.approx(1.5, rel=0.2)
    assert error.value["rival"] == [pytest.approx(20.0, rel=0.2)]


def test_a_second_maximum_that_is_lower_or_not_separated_is_none() -> None:
    assert search_k(two_peaks(0.9), low=LOW, high=HIGH, budget=24).k == pytest.approx(1.5, rel=0.02)
    rough: Score = lambda k: peak(5.0, 1.5)(k) + 0.001 * math.sin(40 * math.log(k))  # noqa: E731
    assert isinstance(search_k(rough, low=LOW, high=HIGH, budget=24), KSearch)


def test_a_rejection_keeps_the_curve_as_plain_data() -> None:
    for score in (two_peaks(0.995), math.log):
        value = rejected(score).value
        assert json.loads(json.dumps(value)) == value
        ks, scores = zip(*value["curve"], strict=True)
        assert list(ks) == sorted(ks) and len(ks) >= 8
        assert value["score"] == max(scores)
    assert rejected(lambda k: math.nan if k > 10 else k).reason is Reason.NON_FINITE


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 0.0},
        {"high": 0.4},
        {"high": math.inf},
        {"low": math.nan},
        {"budget": 7},
    ],
)
def test_wrong_use(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="K"):
        search_k(peak(5.0), **{"low": LOW, "high": HIGH, "budget": 12, **wrong})


def test_bounds_are_blur_radii() -> None:
    """Disparity 0 to 2 in even steps about a focus at 0: 99 % lie within 1.98."""
    disparity = torch.linspace(0, 2, 10_001)[1:].reshape(100, 100)
    k_range = KRange(0.005, 0.2, 12)
    low, high = k_range.bounds(disparity, 0.0)
    assert (low, high) == (pytest.approx(0.5 / 1.98, rel=1e-3), pytest.approx(20 / 1.98, rel=1e-3))
    wild = disparity.clone()
    wild[0, :50] = 500.0
    assert k_range.bounds(wild, 0.0)[1] == pytest.approx(high, rel=0.02)
    with pytest.raises(Rejected) as caught:
        k_range.bounds(torch.ones(100, 100), 1.0)
    assert caught.value.reason is Reason.DEPTH_WITHOUT_SPREAD
    with pytest.raises(ValueError, match="min_radius 0.2 must be below 0.1"):
        KRange(0.2, 0.1, 12)
