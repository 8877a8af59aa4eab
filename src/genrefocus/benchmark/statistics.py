"""Means with intervals and paired comparisons, over images.

Intervals are bias-corrected and accelerated bootstrap intervals of the mean (Efron 1987), 95 %.
Two methods are compared over the images that both have a value of: the mean difference with its
interval, how often each is better, and a sign-flip test of "the differences are symmetric about 0"
(Fisher 1935). p is two-sided, and not corrected for the number of comparisons.
"""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from genrefocus.benchmark.figures import NOT_AVAILABLE, UNDEFINED

CONFIDENCE = 0.95
MIN_FOR_INTERVAL = 8
"""Below this many images the interval would be far too short, so there is none."""

RESAMPLES = 9999

_ROUNDING = 1e-12  # of the largest value; values that are nearer to each other are equal


def interval(values: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """95 % interval of the mean.

    Args:
        values: (n,) finite values, in an order that does not depend on chance.
        seed: of the resampling.

    Returns:
        Lower and upper bound; NaN for fewer than 8 values, or where all are equal.
    """
    if len(values) < MIN_FOR_INTERVAL or np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return math.nan, math.nan
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
        return math.nan, math.nan
    return float(found.low), float(found.high)


def summarise(figures: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """One row for each method and metric, in the order of their first figure.

    Args:
        figures: the long table of a task and data set.
        seed: of the resampling.

    Returns:
        Columns ``method``, ``metric``, ``mean``, ``low`` and ``high`` (NaN where there is none),
        ``n`` (images with a value), ``failed``, ``undefined`` (images that the metric does not
        apply to) and ``remedy`` (what makes the metric available; missing where it is).
    """
    rows = []
    for (method, metric), some in figures.groupby(["method", "metric"], sort=False):
        values = some.sort_values("key")["value"].dropna().to_numpy()
        failures = some["failure"].dropna()
        missing = failures[failures.str.startswith(NOT_AVAILABLE)]
        undefined = int((failures == UNDEFINED).sum())
        low, high = interval(values, seed=seed)
        rows.append(
            {
                "method": method,
                "metric": metric,
                "mean": _mean(values),
                "low": low,
                "high": high,
                "n": len(values),
                "failed": len(failures) - len(missing) - undefined,
                "undefined": undefined,
                "remedy": missing.iloc[0].removeprefix(NOT_AVAILABLE) if len(missing) else None,
            }
        )
    return pd.DataFrame(rows)


def compare(
    figures: pd.DataFrame, first: str, second: str, *, higher_is_better: bool, seed: int
) -> dict[str, Any]:
    """Two methods in one metric, image by image.

    Args:
        figures: the long table of one task, data set and metric.
        first, second: names of the methods.
        higher_is_better: direction of the metric.
        seed: of resampling and sign flips.

    Returns:
        ``first`` and ``second``; ``n`` images in common; ``difference``, the mean of first minus
        second, with ``low`` and ``high`` of its interval; ``wins``, ``ties`` and ``losses`` of the
        first; ``p`` of the sign-flip test; ``excluded``, the keys that one of the two, or both,
        have no value of. Figures that do not exist are NaN.
    """
    chosen = figures[figures["method"].isin([first, second])]
    values = chosen.pivot(index="key", columns="method", values="value").sort_index()
    values = values.reindex(columns=[first, second])
    both = values.dropna()
    differences = (both[first] - both[second]).to_numpy()
    low, high = interval(differences, seed=seed)
    better = differences if higher_is_better else -differences
    return {
        "first": first,
        "second": second,
        "n": len(both),
        "difference": _mean(differences),
        "low": low,
        "high": high,
        "wins": int((better > 0).sum()),
        "ties": int((better == 0).sum()),
        "losses": int((better < 0).sum()),
        "p": _sign_flip_p(differences, seed) if len(both) else math.nan,
        "excluded": sorted(values.index.difference(both.index)),
    }


def _sign_flip_p(differences: NDArray[np.float64], seed: int) -> float:
    """Exact up to 13 images, from random flips beyond."""
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


def _mean(values: NDArray[np.float64]) -> float:
    return math.fsum(values) / len(values) if len(values) else math.nan
