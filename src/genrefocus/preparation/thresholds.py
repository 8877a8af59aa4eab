"""Thresholds of gates from samples that a person has reviewed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest, mannwhitneyu

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proposal:
    """A threshold for one measure, drawn from reviewed samples.

    Attributes:
        measure: its name.
        side: ``min`` where good samples have higher values, else ``max``.
        threshold: the least (``min``) or greatest (``max``) value that passes; None where no
            threshold reaches the precision that was asked for.
        precision: part of the passing samples that are good; NaN without threshold.
        interval: 95 % Wilson score interval of that; None without threshold.
        recall: part of the good samples that pass; 0 without threshold.
        auc: probability that a good sample has the better value, 0.5 to 1; a measure near 0.5
            says nothing about quality, whatever the threshold.
        passing, reviewed, good: counts of samples: that pass, in all, and good ones.
    """

    measure: str
    side: Literal["min", "max"]
    threshold: float | None
    precision: float
    interval: tuple[float, float] | None
    recall: float
    auc: float
    passing: int
    reviewed: int
    good: int

    def passes(self, values: pd.Series) -> pd.Series:
        """Which values pass: none without a threshold, and no missing or infinite ones."""
        threshold = np.nan if self.threshold is None else self.threshold
        inside = values >= threshold if self.side == "min" else values <= threshold
        return inside & np.isfinite(values)


def propose_thresholds(
    measured: pd.DataFrame, good: pd.Series, *, precision: float
) -> list[Proposal]:
    """Thresholds that keep most good samples while few bad ones pass, one measure at a time.

    The side is the one that the area under the ROC curve speaks for. Among the values that occur,
    the threshold is the one with most recall whose passing samples are good to the part asked for,
    and the strictest of those. Precision is that of the reviewed list: where good samples were
    looked for, it is higher than it will be.

    Args:
        measured: a row a sample, a column a measure. Samples without a value (NaN) are left out
            for that measure; infinite values never pass, as in a gate.
        good: the verdict on each, bool, with the index of ``measured``.
        precision: part of passing samples that must be good, in (0, 1].

    Returns:
        One for each measure that good and bad samples have, in order of AUC, best first.

    Raises:
        ValueError: precision outside (0, 1], or verdicts all alike.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision must lie in (0, 1], got {precision}")
    if good.nunique() < 2:
        raise ValueError(
            f"all {len(good)} verdicts are alike; thresholds need good and bad samples"
        )
    known = [(column.dropna(), good[column.notna()]) for _, column in measured.items()]
    proposals = [_propose(*one, precision) for one in known if one[1].nunique() == 2]
    return sorted(proposals, key=lambda proposal: -proposal.auc)


def keep_most(
    proposals: Sequence[Proposal], recall: float
) -> tuple[list[Proposal], list[Proposal]]:
    """Proposals worth setting, and the others.

    Worth it is a gate that turns some of the reviewed samples away and keeps the part ``recall`` of
    the good ones. A measure that says little can reach any precision by passing next to nothing.
    """

    def worth(one: Proposal) -> bool:
        return one.threshold is not None and one.passing < one.reviewed and one.recall >= recall

    return [x for x in proposals if worth(x)], [x for x in proposals if not worth(x)]


def pass_all(measured: pd.DataFrame, proposals: Iterable[Proposal]) -> pd.Series:
    """Which samples pass all of the gates; without a value a sample passes none."""
    passing = pd.Series(True, measured.index)
    for one in proposals:
        passing &= one.passes(measured[one.measure])
    return passing


def _propose(values: pd.Series, good: pd.Series, precision: float) -> Proposal:
    finite = np.isfinite(values)
    yes, no = values[finite & good], values[finite & ~good]
    auc = 0.5
    if len(yes) and len(no):
        auc = float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no))
    side: Literal["min", "max"] = "min" if auc >= 0.5 else "max"
    direction = 1.0 if side == "min" else -1.0
    threshold, best, passed = None, (0, np.nan), 0
    for candidate in np.unique(values[finite]):
        passes = finite & (direction * values >= direction * candidate)
        hits = int((passes & good).sum())
        reached = (hits, hits / int(passes.sum()))
        if hits and reached[1] >= precision and (threshold is None or reached > best):
            threshold, best, passed = float(candidate), reached, int(passes.sum())
    interval = None
    if threshold is not None:
        found = binomtest(best[0], passed).proportion_ci(CONFIDENCE, method="wilson")
        interval = (float(found.low), float(found.high))
    return Proposal(
        measure=str(values.name),
        side=side,
        threshold=threshold,
        precision=best[1],
        interval=interval,
        recall=best[0] / int(good.sum()),
        auc=max(auc, 1 - auc),
        passing=passed,
        reviewed=len(values),
        good=int(good.sum()),
    )
