"""Thresholds on measures: what does not pass is rejected, what has no threshold is said aloud.

A gate's threshold comes from people who looked at samples: :func:`propose_thresholds` turns their
verdicts and the measures of what they saw into thresholds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest, rankdata

from genrefocus.rejection import Reason, Rejected

KNOWN_MEASURES: tuple[str, ...] = tuple(
    reason.value.removeprefix("gate_") for reason in Reason if reason.value.startswith("gate_")
)
"""What can be gated: every measure that has a reason ``gate_<measure>``."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gate:
    """Limits of one measure, both inclusive; None where there is none."""

    measure: str
    low: float | None
    high: float | None

    def check(self, value: float) -> None:
        """Turn a measure away that lies outside, or is not finite.

        Raises:
            Rejected: ``gate_<measure>``.
        """
        below = self.low is not None and not value >= self.low
        above = self.high is not None and not value <= self.high
        if below or above or not math.isfinite(value):
            raise Rejected(
                Reason(f"gate_{self.measure}"),
                value if math.isfinite(value) else str(value),
                f"{self.measure} must be {self}",
            )

    def __str__(self) -> str:
        limits = [("at least", self.low), ("at most", self.high)]
        return " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


class Gates:
    """The gates of a route.

    Args:
        thresholds: measure -> ``{"min": number or None, "max": number or None}``; a missing bound
            is None.
        measures: those that the route takes, out of ``KNOWN_MEASURES``.

    Raises:
        ValueError: a measure that is not known or that the route does not take, a bound of another
            name, one that is no finite number, or min above max.
    """

    def __init__(
        self,
        thresholds: Mapping[str, Mapping[str, float | None]],
        *,
        measures: Sequence[str] = KNOWN_MEASURES,
    ) -> None:
        _require_known("measures of a route", measures, KNOWN_MEASURES)
        _require_known("gates", thresholds, measures)
        gates = [_gate(measure, thresholds.get(measure, {})) for measure in measures]
        self.gates = [gate for gate in gates if gate.low is not None or gate.high is not None]
        self.measures = tuple(measures)

    def as_mapping(self) -> dict[str, dict[str, float | None]]:
        """The thresholds that are set, as plain data."""
        return {gate.measure: {"min": gate.low, "max": gate.high} for gate in self.gates}

    def unset(self) -> list[str]:
        """Measures without a threshold: they are recorded, and nothing is turned away by them."""
        gated = {gate.measure for gate in self.gates}
        return [measure for measure in self.measures if measure not in gated]

    def check(self, measures: Mapping[str, float | None]) -> None:
        """Turn a sample away at the first gate, in the order of the route's measures.

        Args:
            measures: measure -> value; may hold others.

        Raises:
            Rejected: ``gate_<measure>`` with the value.
            ValueError: a gated measure that is missing or None, which is never a pass.
        """
        values = {gate.measure: measures.get(gate.measure) for gate in self.gates}
        if missing := [measure for measure, value in values.items() if value is None]:
            raise ValueError(
                f"gates are set for {', '.join(missing)}, which this sample has no measure of; "
                "measure it, or take the gate away"
            )
        for gate in self.gates:
            gate.check(float(values[gate.measure]))  # type: ignore[arg-type]

    def summary(self) -> list[str]:
        """One line per gate, and one on what has none."""
        lines = [f"{gate.measure}: {gate}" for gate in self.gates]
        if unset := self.unset():
            lines.append(f"measured only, no threshold set: {', '.join(unset)}")
        return lines


@dataclass(frozen=True)
class Proposal:
    """A threshold for one measure, drawn from reviewed samples.

    Attributes:
        measure: its name.
        side: ``min`` where good samples have higher values, else ``max``.
        threshold: the least (``min``) or greatest (``max``) value that passes; None where no
            threshold reaches the precision that was asked for.
        precision: part of the passing samples that are good; None without threshold.
        interval: 95 % Wilson score interval of that; None without threshold.
        recall: part of the good samples that pass; 0 without threshold.
        auc: probability that a good sample has the better value, 0.5 to 1; near 0.5 the measure
            tells nothing, whatever the threshold.
        passing, reviewed, good: counts of samples: that pass, in all, and good ones.
    """

    measure: str
    side: Literal["min", "max"]
    threshold: float | None
    precision: float | None
    interval: tuple[float, float] | None
    recall: float
    auc: float
    passing: int
    reviewed: int
    good: int


def propose_thresholds(
    measures: Sequence[Mapping[str, float | None]], good: Sequence[bool], *, precision: float
) -> list[Proposal]:
    """Thresholds that keep most good samples while few bad ones pass, one measure at a time.

    The side is the one that the area under the ROC curve speaks for. Among the values that occur,
    the threshold is the one with most recall whose passing samples are good to the part asked for,
    and the strictest of those. Precision is that of the reviewed list: where good samples were
    looked for, it is higher than it will be.

    Args:
        measures: per sample, measure -> value. Samples without a value (None or not there) are
            left out for that measure; values that are not finite never pass, as in a gate.
        good: the verdict on each.
        precision: part of passing samples that must be good, in (0, 1].

    Returns:
        One per measure that occurs, in order of AUC, best first.

    Raises:
        ValueError: lengths differ, precision outside (0, 1], or verdicts all alike.
    """
    if len(measures) != len(good):
        raise ValueError(f"{len(measures)} samples have measures and {len(good)} a verdict")
    if not 0 < precision <= 1:
        raise ValueError(f"precision must lie in (0, 1], got {precision}")
    if all(good) or not any(good):
        raise ValueError(
            f"all {len(good)} verdicts are alike; thresholds need good and bad samples"
        )
    names = dict.fromkeys(name for one in measures for name in one)
    proposals = []
    for name in names:
        pairs = [(one.get(name), bool(g)) for one, g in zip(measures, good, strict=True)]
        values = np.array([value for value, _ in pairs if value is not None], dtype=float)
        verdicts = np.array([g for value, g in pairs if value is not None], dtype=bool)
        if verdicts.any() and not verdicts.all():
            proposals.append(_propose(name, values, verdicts, precision))
    return sorted(proposals, key=lambda proposal: -proposal.auc)


def _require_known(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what}: no {', '.join(unknown)} here; there are {', '.join(known)}")


def _gate(measure: str, bounds: Mapping[str, float | None]) -> Gate:
    if unknown := set(bounds) - {"min", "max"}:
        raise ValueError(f"gate {measure} has {', '.join(sorted(unknown))}; give min and max")
    for name, bound in bounds.items():
        if bound is not None and not (
            isinstance(bound, (int, float)) and not isinstance(bound, bool) and math.isfinite(bound)
        ):
            raise ValueError(f"gate {measure}: {name} is {bound!r}; give a finite number or null")
    low, high = bounds.get("min"), bounds.get("max")
    if low is not None and high is not None and low > high:
        raise ValueError(f"gate {measure}: min {low} is above max {high}, so nothing passes")
    return Gate(measure, low, high)


def _propose(measure: str, values: np.ndarray, good: np.ndarray, precision: float) -> Proposal:
    finite = np.isfinite(values)
    auc = _auc(values[finite], good[finite])
    side: Literal["min", "max"] = "min" if auc >= 0.5 else "max"
    direction = 1.0 if side == "min" else -1.0
    threshold, best, passed = None, (0, 0.0), 0
    for candidate in np.unique(values[finite]):
        passes = finite & (direction * values >= direction * candidate)
        count, hits = int(passes.sum()), int((passes & good).sum())
        reached = (hits, hits / count)
        if hits and reached[1] >= precision and reached > best:
            threshold, best, passed = float(candidate), reached, count
    interval = None
    if threshold is not None:
        found = binomtest(best[0], passed).proportion_ci(CONFIDENCE, method="wilson")
        interval = (float(found.low), float(found.high))
    return Proposal(
        measure=measure,
        side=side,
        threshold=threshold,
        precision=best[1] if threshold is not None else None,
        interval=interval,
        recall=best[0] / int(good.sum()),
        auc=max(auc, 1 - auc),
        passing=passed,
        reviewed=len(values),
        good=int(good.sum()),
    )


def _auc(values: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good sample has the higher value, ties counting half."""
    inside, outside = int(good.sum()), int((~good).sum())
    if not inside or not outside:
        return 0.5
    ranks = rankdata(values)
    return float((ranks[good].sum() - inside * (inside + 1) / 2) / (inside * outside))
