"""Thresholds from reviewed samples against brute force and closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from genrefocus.preparation.gates import Gates
from genrefocus.preparation.thresholds import Proposal, propose_thresholds
from genrefocus.rejection import Rejected


def propose(measures: list[dict], good: list[bool], precision: float) -> list[Proposal]:
    frame, verdicts = pd.DataFrame(measures, dtype=float), pd.Series(good, dtype=bool)
    return propose_thresholds(frame, verdicts, precision=precision)


def drawn(count: int, shift: float, seed: int = 0) -> tuple[list[dict], list[bool]]:
    """Half good with ssim ~ N(shift, 1), half bad with N(0, 1); error is its mirror image."""
    rng = np.random.default_rng(seed)
    good = rng.random(count) < 0.5
    values = rng.normal(size=count) + shift * good
    return [{"ssim": float(x), "error": float(-x), "k": 3.0} for x in values], good.tolist()


def test_thresholds_of_two_normal_distributions() -> None:
    """Good N(2, 1), bad N(0, 1): AUC is Phi(2 / sqrt 2), precision at t is a ratio of tails."""
    measures, good = drawn(8_000, 2.0)
    ssim, error, k = propose(measures, good, 0.9)
    assert ssim.auc == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.01)
    grid = np.linspace(-3, 5, 8001)
    passing = norm.sf(grid - 2) / (norm.sf(grid - 2) + norm.sf(grid))
    expected = grid[np.argmax(passing >= 0.9)]
    assert ssim.threshold == pytest.approx(expected, abs=0.1)
    assert ssim.recall == pytest.approx(norm.sf(expected - 2), abs=0.03)
    assert (ssim.side, error.side) == ("min", "max")
    assert (error.threshold, error.auc) == (-ssim.threshold, pytest.approx(ssim.auc))
    assert k.measure == "k" and k.auc == 0.5 and k.threshold is None and k.recall == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_thresholds_agree_with_brute_force(
    reviewed: list[tuple[int, bool]], precision: float
) -> None:
    values, good = (list(x) for x in zip(*reviewed, strict=True))
    if all(good) or not any(good):
        with pytest.raises(ValueError, match="alike"):
            propose([{"x": v} for v in values], good, precision)
        return
    (found,) = propose([{"x": v} for v in values], good, precision)
    yes, no = ([v for v, g in reviewed if g is side] for side in (True, False))
    area = float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no))
    assert found.auc == pytest.approx(max(area, 1 - area))
    best = 0.0
    for threshold in set(values):
        kept = [g for v, g in reviewed if (v >= threshold if area >= 0.5 else v <= threshold)]
        if sum(kept) / len(kept) >= precision:
            best = max(best, sum(kept) / len(yes))
    assert found.recall == pytest.approx(best)
    if found.threshold is None:
        assert best == 0
        return
    gate = Gates({"k": {found.side: found.threshold}})
    passed = [g for v, g in reviewed if passes(gate, v)]
    assert (len(passed), sum(passed) / len(passed)) == (found.passing, found.precision)


def passes(gates: Gates, value: float) -> bool:
    try:
        gates.check({"k": value})
    except Rejected:
        return False
    return True


def test_a_handful_of_reviews_does_not_look_certain() -> None:
    """Wilson's interval of 4 out of 4 reaches down to 1 / (1 + z^2 / 4)."""
    measures = [{"x": v} for v in (1, 2, 3, 4, 5, 6)]
    (found,) = propose(measures, [False, False, True, True, True, True], 1.0)
    assert (found.threshold, found.precision, found.recall, found.passing) == (3, 1.0, 1.0, 4)
    assert found.interval == (pytest.approx(1 / (1 + norm.ppf(0.975) ** 2 / 4)), 1.0)
    assert (found.reviewed, found.good) == (6, 4)


def test_values_that_are_missing_or_infinite() -> None:
    measures = [
        {"x": 1.0, "y": None},
        {"x": 2.0},
        {"x": math.inf},
        {"y": 0.5},
        {"x": 3.0, "y": 1.0},
    ]
    (found,) = propose(measures, [False, True, True, True, True], 0.9)
    assert found.measure == "x" and found.threshold == 2.0
    assert found.recall == pytest.approx(2 / 3) and found.reviewed == 4


@pytest.mark.parametrize(
    ("good", "precision"), [([True], 0.9), ([True, False], 0.0), ([True, False], 1.1)]
)
def test_wrong_use(good: list[bool], precision: float) -> None:
    with pytest.raises(ValueError, match="verdict|precision"):
        propose([{"x": 1.0}, {"x": 2.0}][: len(good)], good, precision)
