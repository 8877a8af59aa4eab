"""Statistics: against closed forms, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genrefocus.benchmark import statistics
from genrefocus.benchmark.figures import NOT_AVAILABLE, UNDEFINED, figure_table
from genrefocus.benchmark.statistics import MIN_FOR_INTERVAL, interval


def rows(values, method="a") -> list[tuple]:
    """Figures of p00, p01, ...: numbers, failures as texts, nothing for None."""
    return [
        (
            *("deblur", "dpdd", method, f"p{n:02d}", "lpips"),
            *((None, value) if isinstance(value, str) else (float(value), None)),
            "hash",
        )
        for n, value in enumerate(values)
        if value is not None
    ]


def summarise(given, seed=0):
    """The one row of the summary."""
    (row,) = statistics.summarise(figure_table(given), seed=seed).itertuples()
    return row


def compare(first, second, seed=0, **more) -> dict:
    names = (some[0][2] for some in (first, second))
    return statistics.compare(figure_table([*first, *second]), *names, seed=seed, **more)


def test_the_interval_of_many_values_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.1, 400)
    low, high = interval(values, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=half / 10)


def test_skewed_values_have_a_skewed_interval() -> None:
    values = np.random.default_rng(2).exponential(size=40)
    low, high = interval(values, seed=0)
    assert high - values.mean() > 1.1 * (values.mean() - low)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [(lambda rng, n: rng.normal(size=n), 0.0), (lambda rng, n: rng.exponential(size=n), 1.0)],
)
def test_coverage(draw, mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 599)
    rng = np.random.default_rng(3)
    found = [interval(draw(rng, 40), seed=n) for n in range(300)]
    covered = np.mean([low <= mean <= high for low, high in found])
    # 0.95 nominal, some less at n = 40; 300 draws have a standard error of 0.013.
    assert 0.89 < covered < 0.98


def test_no_interval_rather_than_a_wrong_one() -> None:
    few = np.linspace(0, 1, MIN_FOR_INTERVAL - 1)
    for values in (few, np.full(50, 0.3), 0.1 + np.arange(50.0) - np.arange(50.0), few[:1]):
        assert np.isnan(interval(values, seed=0)).all()  # equal but for rounding, or too few
    assert np.isfinite(interval(np.append(few, 2.0), seed=0)).all()
    alone = summarise(rows([0.3]))
    assert (alone.n, alone.mean) == (1, 0.3) and math.isnan(alone.low) and math.isnan(alone.high)
    nothing = summarise(rows(["broken"]))
    assert nothing.n == 0 and math.isnan(nothing.mean)


def test_ties_leave_the_interval_within_the_values() -> None:
    values = np.array([0.0] * 12 + [1.0] * 8)
    low, high = interval(values, seed=0)
    assert 0 < low < 0.4 < high < 1
    exact = stats.binomtest(8, 20).proportion_ci(0.95, method="wilson")
    assert [low, high] == pytest.approx([exact.low, exact.high], abs=0.08)


def test_failures_are_counted_and_not_averaged() -> None:
    summary = summarise(rows([0.2, "black", 0.4, UNDEFINED, 0.6]))
    assert (summary.n, summary.mean) == (3, pytest.approx(0.4))
    assert (summary.failed, summary.undefined, summary.remedy) == (1, 1, None)
    absent = summarise(rows([f"{NOT_AVAILABLE}install pyiqa"] * 3))
    assert (absent.n, absent.failed, absent.remedy) == (0, 0, "install pyiqa")


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    some, others = rows(rng.normal(size=30)), rows(rng.normal(size=30), method="b")
    shuffled = [some[n] for n in rng.permutation(30)]
    assert summarise(shuffled, seed=5)[1:6] == summarise(some, seed=5)[1:6]
    assert summarise(some, seed=6).low != summarise(some, seed=5).low
    assert compare(shuffled, others, higher_is_better=True, seed=5) == compare(
        some, others[::-1], higher_is_better=True, seed=5
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_p_is_that_of_all_sign_flips(differences: list[int]) -> None:
    """Small whole numbers: many ties and zeros."""
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    observed = abs(sum(differences))
    expected = sum(abs(flip) >= observed for flip in flips) / len(flips)
    zeros = rows([0] * len(differences), method="b")
    found = compare(rows(differences), zeros, higher_is_better=True)
    assert found["p"] == pytest.approx(expected)


def test_p_of_many_images_is_near_that_of_a_t_test() -> None:
    differences = np.random.default_rng(6).normal(0.15, 1, 80)
    found = compare(rows(differences), rows([0] * 80, "b"), higher_is_better=True)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert 0.02 < expected < 0.2 and found["p"] == pytest.approx(expected, rel=0.15)


def test_a_pair_is_compared_over_common_images_only() -> None:
    first = rows([0.1, 0.2, "nan", 0.4, 0.5, None])
    second = rows([0.2, 0.2, 0.1, "nan", 0.3, 0.9], method="b")
    lower = compare(first, second, higher_is_better=False)
    assert (lower["n"], lower["excluded"]) == (3, ["p02", "p03", "p05"])
    assert lower["difference"] == pytest.approx((-0.1 + 0 + 0.2) / 3)
    assert (lower["wins"], lower["ties"], lower["losses"]) == (1, 1, 1)
    assert math.isnan(lower["low"])
    assert (lower["first"], lower["second"]) == ("a", "b")
    nothing = compare(rows(["nan"]), rows([1], "b"), higher_is_better=True)
    assert nothing["n"] == 0 and math.isnan(nothing["difference"]) and math.isnan(nothing["p"])


def test_the_sides_of_a_comparison_are_alike() -> None:
    rng = np.random.default_rng(7)
    first, second = rows(rng.normal(1, 1, 60)), rows(rng.normal(0, 1, 60), "b")
    there = compare(first, second, higher_is_better=True)
    back = compare(second, first, higher_is_better=True)
    assert there["low"] > 0 and there["p"] < 0.01 and there["wins"] > there["losses"]
    assert (back["difference"], back["wins"], back["losses"]) == (
        -there["difference"],
        there["losses"],
        there["wins"],
    )
    # The same resamples mirrored: equal but for the resolution of a quantile of 9999 of them.
    assert [-back["high"], -back["low"]] == pytest.approx([there["low"], there["high"]], abs=0.01)
    worse = compare(first, second, higher_is_better=False)
    assert (worse["wins"], worse["losses"]) == (there["losses"], there["wins"])


def test_equal_methods_do_not_differ() -> None:
    found = compare(rows([0.1] * 9), rows([0.1] * 9, "b"), higher_is_better=True)
    assert (found["difference"], found["ties"], found["p"]) == (0.0, 9, 1.0)
    assert math.isnan(found["low"])
