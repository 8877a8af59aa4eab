"""Means with intervals and paired comparisons, over pictures.

Intervals are bias-corrected and accelerated bootstrap intervals of the mean (Efron 1987), 95 %.
Two methods are compared over the pictures that both have a value of: the mean difference with its
interval, how often each is better, and a sign-flip test of "the differences are symmetric about 0"
(Fisher 1935). p is two-sided, and not corrected for the number of comparisons.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genrefocus.benchmark.rows import Row

CONFIDENCE = 0.95
LEAST_FOR_INTERVAL = 8
"""Below this many pictures the interval would be far too short, so there is none."""

RESAMPLES = 9999

_ROUNDING = 1e-12  # of the largest value; values that are nearer to each other are equal

NOT_AVAILABLE = "not available: "
UNTOLD = "it cannot be told from this picture"
"""Begins the failure of a metric that cannot be computed on a machine; the remedy follows. Such
rows are no failures of the method."""


@dataclass(frozen=True)
class Summary:
    """A metric of a method over the pictures of a data set.

    Attributes:
        n: pictures with a value.
        mean: over these; None without any.
        low, high: bounds of the mean's interval; None where there is none, see :func:`interval`.
        values: key -> value.
        failures: key -> why there is no value.
        untold: keys of pictures that the metric says nothing about, such as bleeding of one
            without a depth edge.
        remedy: what makes the metric available; None where it is.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    values: Mapping[str, float]
    failures: Mapping[str, str]
    untold: tuple[str, ...]
    remedy: str | None


@dataclass(frozen=True)
class Comparison:
    """Two methods over the pictures that both have a value of.

    Attributes:
        first, second: names of the methods.
        n: pictures in common.
        difference: mean of first minus second; None without pictures in common.
        low, high: bounds of its interval; None where there is none.
        wins, ties, losses: pictures on which the first is better, equal, worse.
        p: of the sign-flip test; None without pictures in common.
        excluded: keys that one of the two, or both, have no value of.
    """

    first: str
    second: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    p: float | None
    excluded: tuple[str, ...]


def interval(values: NDArray[np.float64], *, seed: int) -> tuple[float, float] | None:
    """95 % interval of the mean.

    Args:
        values: (n,) finite values, in an order that does not depend on chance.
        seed: of the resampling.

    Returns:
        Lower and upper bound; None for fewer than 8 values, or where all are equal.
    """
    if len(values) < LEAST_FOR_INTERVAL or np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=CONFIDENCE,
            method="BCa",
            n_resamples=RESAMPLES,
            batch=max(1, 2**20 // len(values)),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return None
    return float(found.low), float(found.high)


def summarise(rows: Iterable[Row], *, seed: int) -> Summary:
    """The rows of one metric of one method.

    Args:
        rows: of one task, data set, method and metric.
        seed: of the resampling.

    Raises:
        ValueError: rows of several metrics or methods, two rows of one picture, or a value that is
            not finite.
    """
    by_key = _by_key(rows)
    values = {key: row.value for key, row in by_key.items() if row.value is not None}
    failed = {key: row.failure for key, row in by_key.items() if row.failure is not None}
    unavailable = [text for text in failed.values() if text.startswith(NOT_AVAILABLE)]
    bounds = interval(_array(values.values()), seed=seed) or (None, None)
    return Summary(
        n=len(values),
        mean=_mean(values.values()),
        low=bounds[0],
        high=bounds[1],
        values=values,
        failures={
            key: text
            for key, text in failed.items()
            if text != UNTOLD and not text.startswith(NOT_AVAILABLE)
        },
        untold=tuple(key for key, text in failed.items() if text == UNTOLD),
        remedy=unavailable[0].removeprefix(NOT_AVAILABLE) if unavailable else None,
    )


def compare(
    first: Iterable[Row], second: Iterable[Row], *, higher_is_better: bool, seed: int
) -> Comparison:
    """Two methods in one metric, picture by picture.

    Args:
        first, second: rows of one metric of one method each, on the same data set.
        higher_is_better: direction of the metric.
        seed: of resampling and sign flips.

    Raises:
        ValueError: as :func:`summarise`, or rows that differ in task, data set, metric or protocol.
    """
    a, b = _by_key(first), _by_key(second)
    if not a or not b:
        raise ValueError("a comparison needs rows of both methods")
    one, other = next(iter(a.values())), next(iter(b.values()))
    for name in ("task", "dataset", "metric", "protocol"):
        if getattr(one, name) != getattr(other, name):
            raise ValueError(
                f"{one.method} and {other.method} differ in {name}: "
                f"{getattr(one, name)} and {getattr(other, name)}"
            )
    pairs = {
        key: (x, y)
        for key in a
        if key in b and (x := a[key].value) is not None and (y := b[key].value) is not None
    }
    differences = _array(x - y for x, y in pairs.values())
    bounds = interval(differences, seed=seed) or (None, None)
    sign = 1 if higher_is_better else -1
    return Comparison(
        first=one.method,
        second=other.method,
        n=len(pairs),
        difference=_mean(differences.tolist()),
        low=bounds[0],
        high=bounds[1],
        wins=int((sign * differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((sign * differences < 0).sum()),
        p=_sign_flip_p(differences, seed) if pairs else None,
        excluded=tuple(sorted((a.keys() | b.keys()) - pairs.keys())),
    )


def _sign_flip_p(differences: NDArray[np.float64], seed: int) -> float:
    """Exact up to 13 pictures, from random flips beyond."""
    moved = differences[differences != 0]  # flipping a zero changes nothing
    if len(moved) < 2:
        return 1.0
    found = stats.permutation_test(
        (moved,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2**20 // len(moved)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _by_key(rows: Iterable[Row]) -> dict[str, Row]:
    """Key -> row in the order of the keys, so that nothing depends on the order of a file."""
    by_key: dict[str, Row] = {}
    kinds = set()
    for row in sorted(rows, key=lambda row: row.key):
        kinds.add((row.task, row.dataset, row.method, row.metric, row.protocol))
        if row.key in by_key:
            raise ValueError(f"{row.method} has two rows of {row.metric} for {row.key}")
        if row.value is not None and not math.isfinite(row.value):
            raise ValueError(
                f"{row.method}, {row.key}: {row.metric} is {row.value}; write it as a failure"
            )
        by_key[row.key] = row
    if len(kinds) > 1:
        raise ValueError(f"rows of several kinds: {sorted(kinds)}")
    return by_key


def _array(values: Iterable[float]) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None
