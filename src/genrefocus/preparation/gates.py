"""Thresholds on measures: a sample outside of them is rejected; measures without one are listed.

The thresholds come from people who looked at samples, see ``thresholds``.
"""

import math
from collections.abc import Mapping

from genrefocus.rejection import Reason, Rejected

KNOWN_MEASURES: tuple[str, ...] = tuple(
    reason.value.removeprefix("gate_") for reason in Reason if reason.value.startswith("gate_")
)
"""What can be gated: every measure that has a reason ``gate_<measure>``."""

Bounds = Mapping[str, float | None]
"""``min`` and ``max``, both inclusive; None where there is none."""


class Gates:
    """The gates of a preparation.

    Args:
        thresholds: measure -> bounds; a missing bound is None.

    Raises:
        ValueError: a measure that is not known, a bound of another name, one that is no finite
            number, or min above max.
    """

    def __init__(self, thresholds: Mapping[str, Bounds]) -> None:
        if unknown := [name for name in thresholds if name not in KNOWN_MEASURES]:
            raise ValueError(
                f"gates: no {', '.join(unknown)} here; there are {', '.join(KNOWN_MEASURES)}"
            )
        checked = {name: _checked(name, thresholds.get(name, {})) for name in KNOWN_MEASURES}
        self._bounds = {
            name: bounds for name, bounds in checked.items() if set(bounds.values()) != {None}
        }

    def as_mapping(self) -> dict[str, Bounds]:
        """The thresholds that are set, as plain data."""
        return dict(self._bounds)

    def unset(self) -> list[str]:
        """Measures without a threshold: they are recorded, and turn nothing away."""
        return [measure for measure in KNOWN_MEASURES if measure not in self._bounds]

    def check(self, measures: Mapping[str, float | None]) -> None:
        """Turn a sample away at the first gate, in the order of ``KNOWN_MEASURES``.

        Args:
            measures: measure -> value; may hold others.

        Raises:
            Rejected: ``gate_<measure>`` with a value that lies outside, or is not finite.
            ValueError: a gated measure that is missing or None, which is never a pass.
        """
        if missing := [name for name in self._bounds if measures.get(name) is None]:
            raise ValueError(
                f"gates are set for {', '.join(missing)}, which this sample has no measure of; "
                "measure it, or take the gate away"
            )
        for measure, bounds in self._bounds.items():
            value, low, high = measures[measure], bounds["min"], bounds["max"]
            assert value is not None
            below = low is not None and value < low
            above = high is not None and value > high
            if below or above or not math.isfinite(value):
                limits = [("at least", low), ("at most", high)]
                words = " and ".join(f"{word} {x:g}" for word, x in limits if x is not None)
                raise Rejected(
                    Reason(f"gate_{measure}"),
                    value if math.isfinite(value) else str(value),
                    f"{measure} must be {words}",
                )


def _checked(measure: str, bounds: Bounds) -> Bounds:
    if unknown := set(bounds) - {"min", "max"}:
        raise ValueError(f"gate {measure} has {', '.join(sorted(unknown))}; give min and max")
    for name, bound in bounds.items():
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if bound is not None and not (is_number and math.isfinite(bound)):
            raise ValueError(f"gate {measure}: {name} is {bound!r}; give a finite number or null")
    low, high = bounds.get("min"), bounds.get("max")
    if low is not None and high is not None and low > high:
        raise ValueError(f"gate {measure}: min {low} is above max {high}, so nothing passes")
    return {"min": low, "max": high}
