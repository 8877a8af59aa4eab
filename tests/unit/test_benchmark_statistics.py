"""Statistics: against closed forms, brute force and simulation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genrefocus.benchmark import statistics
from genrefocus.benchmark.rows import Row
from genrefocus.benchmark.statistics import (
    LEAST_FOR_INTERVAL,
    NOT_AVAILABLE,
    compare,
    interval,
    summarise,
)


def rows(values, method="a", metric="lpips") -> list[Row]:
    """Rows of p00, p01, ...: numbers, failures as texts, nothing for None."""
    return [
        Row(
            "deblur",
            "dpdd",
            method,
            f"p{n:02d}",
            metric,
            None if isinstance(value, str) else float(value),
            value if isinstance(value, str) else None,
            "hash",
        )
        for n, value in enumerate(values)
        if value is not None
    ]


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
    few = np.linspace(0, 1, LEAST_FOR_INTERVAL - 1)
    assert interval(few, seed=0) is None
    assert interval(np.full(50, 0.3), seed=0) is None
    assert interval(0.1 + np.arange(50.0) - np.arange(50.0), seed=0) is None  # but for rounding
    assert interval(np.array([0.3]), seed=0) is None
    assert interval(np.append(few, 2.0), seed=0) is not None
    alone = summarise(rows([0.3]), seed=0)
    assert (alone.n, alone.mean, alone.low, alone.high) == (1, 0.3, None, None)
    nothing = summarise(rows(["broken"]), seed=0)
    assert (nothing.n, nothing.mean, nothing.low) == (0, None, None)


def test_ties_leave_the_interval_within_the_values() -> None:
    values = np.array([0.0] * 12 + [1.0] * 8)
    low, high = interval(values, seed=0)
    assert 0 < low < 0.4 < high < 1
    exact = stats.binomtest(8, 20).proportion_ci(0.95, method="wilson")
    assert [low, high] == pytest.approx([exact.low, exact.high], abs=0.08)


def test_failures_are_counted_and_not_averaged() -> None:
    summary = summarise(rows([0.2, "black", 0.4, "shapes differ", 0.6]), seed=0)
    assert (summary.n, summary.mean) == (3, pytest.approx(0.4))
    assert summary.failures == {"p01": "black", "p03": "shapes differ"}
    assert summary.remedy is None
    absent = summarise(rows([f"{NOT_AVAILABLE}install pyiqa"] * 3), seed=0)
    assert (absent.n, absent.mean, absent.failures) == (0, None, {})
    assert absent.remedy == "install pyiqa"


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    some, others = rows(rng.normal(size=30)), rows(rng.normal(size=30), method="b")
    shuffled = [some[n] for n in rng.permutation(30)]
    assert summarise(shuffled, seed=5) == summarise(some, seed=5)
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
    found = compare(rows(differences), zeros, higher_is_better=True, seed=0)
    assert found.p == pytest.approx(expected)


def test_p_of_many_pictures_is_near_that_of_a_t_test() -> None:
    differences = np.random.default_rng(6).normal(0.15, 1, 80)
    found = compare(rows(differences), rows([0] * 80, "b"), higher_is_better=True, seed=0)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert 0.02 < expected < 0.2 and found.p == pytest.approx(expected, rel=0.15)


def test_a_pair_is_compared_over_common_pictures_only() -> None:
    first = rows([0.1, 0.2, "nan", 0.4, 0.5, None])
    second = rows([0.2, 0.2, 0.1, "nan", 0.3, 0.9], method="b")
    lower = compare(first, second, higher_is_better=False, seed=0)
    assert (lower.n, lower.excluded) == (3, ("p02", "p03", "p05"))
    assert lower.difference == pytest.approx((-0.1 + 0 + 0.2) / 3)
    assert (lower.wins, lower.ties, lower.losses) == (1, 1, 1)
    assert lower.low is None
    assert (lower.first, lower.second) == ("a", "b")
    nothing = compare(rows(["nan"]), rows([1], "b"), higher_is_better=True, seed=0)
    assert (nothing.n, nothing.difference, nothing.p) == (0, None, None)


def test_the_sides_of_a_comparison_are_alike() -> None:
    rng = np.random.default_rng(7)
    first, second = rows(rng.normal(1, 1, 60)), rows(rng.normal(0, 1, 60), "b")
    there = compare(first, second, higher_is_better=True, seed=0)
    back = compare(second, first, higher_is_better=True, seed=0)
    assert there.low > 0 and there.p < 0.01 and there.wins > there.losses
    assert (back.difference, back.wins, back.losses) == (
        -there.difference,
        there.losses,
        there.wins,
    )
    # The same resamples mirrored: equal but for the resolution of a quantile of 9999 of them.
    assert [-back.high, -back.low] == pytest.approx([there.low, there.high], abs=0.01)
    worse = compare(first, second, higher_is_better=False, seed=0)
    assert (worse.wins, worse.losses) == (there.losses, there.wins)


def test_equal_methods_do_not_differ() -> None:
    found = compare(rows([0.1] * 9), rows([0.1] * 9, "b"), higher_is_better=True, seed=0)
    assert (found.difference, found.low, found.ties, found.p) == (0.0, None, 9, 1.0)


def test_what_cannot_be_compared_is_refused() -> None:
    some = rows([0.1, 0.2])
    for field in ("task", "dataset", "metric", "protocol"):
        other = [replace(row, method="b", **{field: "other"}) for row in some]
        with pytest.raises(ValueError, match=f"a and b differ in {field}: .* and other"):
            compare(some, other, higher_is_better=True, seed=0)
    with pytest.raises(ValueError, match="two rows of lpips for p00"):
        summarise([*some, some[0]], seed=0)
    with pytest.raises(ValueError, match="several kinds"):
        summarise([*some, *rows([None, None, 1], metric="ssim")], seed=0)
    with pytest.raises(ValueError, match="p00: lpips is nan; write it as a failure"):
        summarise([replace(some[0], value=float("nan"))], seed=0)
    with pytest.raises(ValueError, match="needs rows of both"):
        compare(some, [], higher_is_better=True, seed=0)
