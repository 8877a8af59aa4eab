"""The blur strength that makes a rendering look most like a photograph.

A paired photograph tells how strong its blur is, but not as a number: K is found as the maximum of
a score (SSIM in the paper, arXiv 2512.16923) of renderings at many K. A coarse grid finds where
the maximum is, and a search within its neighbours sharpens it. A curve that does not determine K
is rejected, since a K at the bound of a search says where the search ended and nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from genrefocus.optics import BlurStrength, visible_blur
from genrefocus.rejection import Reason, Rejected

if TYPE_CHECKING:
    from genrefocus.render.apertures import Aperture

LEAST_BUDGET = 8

FLAT = 0.002
"""Differences of the score below this mean nothing."""

_RIVAL = 0.01  # a maximum that comes this near to the best one leaves K undecided
_TOLERANCE = 0.005  # part of K to which it is searched
_GOLDEN = (3 - math.sqrt(5)) / 2
_BOUND_MARGIN = 0.02


@validated(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class KRange:
    """Where K is searched for, relative to the size of the image.

    Attributes:
        min_radius, max_radius: bounds of K: 99 % of the pixels have a blur radius of at most this,
            in parts of the long edge.
        budget: renderings of a search at most.

    Raises:
        ValueError: a value of another type or outside its range.
    """

    min_radius: Annotated[float, Field(gt=0, lt=1)]
    max_radius: Annotated[float, Field(gt=0, lt=1)]
    budget: Annotated[int, Field(ge=LEAST_BUDGET)]

    def __post_init__(self) -> None:
        if self.min_radius >= self.max_radius:
            raise ValueError(f"min_radius {self.min_radius} must be below {self.max_radius}")

    def bounds(self, disparity: Tensor, focus_disparity: float) -> tuple[float, float]:
        """Lower and upper bound of K, px at 1/m, for an image of the size of its disparity.

        Args:
            disparity: (H, W), 1/m.
            focus_disparity: d_f in 1/m.

        Raises:
            Rejected: ``depth_without_spread`` where 99 % of the pixels are in the plane of focus,
                and what ``optics.signed_defocus`` rejects.
        """
        height, width = disparity.shape
        unit = BlurStrength(1.0, height, width)
        radius = visible_blur(disparity, focus_disparity, unit)
        if radius <= 0:
            raise Rejected(
                Reason.DEPTH_WITHOUT_SPREAD, radius, "99 % of the pixels are in the plane of focus"
            )
        edge = max(height, width)
        return self.min_radius * edge / radius, self.max_radius * edge / radius


@dataclass(frozen=True)
class KSearch:
    """What a search found.

    Attributes:
        k: the best K that was evaluated, px at 1/m.
        score: its score.
        curve: every (k, score) that was evaluated, in the order of k.
    """

    k: float
    score: float
    curve: tuple[tuple[float, float], ...]


def search_k(
    score: Callable[[float], float],
    *,
    low: float,
    high: float,
    budget: int,
) -> KSearch:
    """Maximise a score over K.

    Three fifths of the budget go to a grid that is even in log K. Within the neighbours of its
    best point, steps go to the vertex of the parabola through the bracket in log K, and by the
    golden section where that does not shorten the bracket (Brent 1973, ch. 5).

    Args:
        score: of a K in px at 1/m; larger is better. Called at most once for a K.
        low, high: bounds of K, 0 < low < high; see :meth:`KRange.bounds`.
        budget: most evaluations, at least 8.

    Raises:
        Rejected: ``score_flat`` where the score varies by less than ``FLAT``, or the best one is
            less than that above the score of a bound; ``k_at_bound`` for a maximum within 2 % of a
            bound; ``score_multimodal`` for a second maximum as good; ``non_finite`` for a score.
            The value is a dict of plain data with ``k``, ``score`` and ``curve``, and for several
            maxima ``rival``, their K.
        ValueError: bounds or budget.
    """
    if not (0 < low < high < math.inf):
        raise ValueError(f"bounds of K must satisfy 0 < low < high, got {low} and {high}")
    if budget < LEAST_BUDGET:
        raise ValueError(f"a search of K needs {LEAST_BUDGET} evaluations or more, got {budget}")
    curve = _Curve(score, low, high, budget)
    points = 3 * budget // 5
    step = math.log(high / low) / (points - 1)
    margin = min(_BOUND_MARGIN, 0.5 * step)
    grid = [math.log(low) + step * n for n in range(points)]
    scores = [curve(x) for x in grid]
    if max(scores) - min(scores) < FLAT:
        raise curve.rejected(Reason.SCORE_FLAT, f"the score varies by less than {FLAT} over K")
    best = max(range(points), key=scores.__getitem__)
    if rivals := [grid[n] for n in _rivals(scores, best)]:
        raise curve.rejected(
            Reason.SCORE_MULTIMODAL,
            "several separated maxima are as good; K is not determined",
            rival=[curve.k(x) for x in rivals],
        )
    if best in (0, points - 1):
        # The maximum may lie between the bound and its neighbour, and then the score rises inward.
        neighbour = 1 if best == 0 else points - 2
        inward = grid[best] + math.copysign(margin, grid[neighbour] - grid[best])
        bracket = sorted([grid[best], inward, grid[neighbour]])
        searched = curve(inward) > scores[best]
    else:
        bracket, searched = grid[best - 1 : best + 2], True
    if searched:
        _narrow(curve, bracket)
    x, top = curve.best()
    if min(x - grid[0], grid[-1] - x) < margin:
        raise curve.rejected(Reason.K_AT_BOUND, f"the score is best at a bound, {low} to {high}")
    if top - max(scores[0], scores[-1]) < FLAT:
        raise curve.rejected(
            Reason.SCORE_FLAT, f"the best score is less than {FLAT} above that of a bound"
        )
    return KSearch(curve.k(x), top, curve.points())


def search_k_of_photograph(
    photograph: Tensor,
    sharp: Tensor,
    disparity: Tensor,
    focus_disparity: float,
    *,
    aperture: "Aperture",
    k_range: KRange,
    edge_width: int,
) -> KSearch:
    """The K at which a sharp image, rendered with its disparity, is most like the photograph.

    Args:
        photograph, sharp: (3, H, W) in [0, 1] sRGB; compared by SSIM.
        disparity: (H, W), 1/m.
        focus_disparity: of the photograph's plane of focus, 1/m.
        aperture, edge_width: see :func:`genrefocus.render.layered.render_layered`.
        k_range: where K is searched for.

    Raises:
        Rejected: as :func:`search_k` and :meth:`KRange.bounds`.
    """
    from genrefocus.metrics.ssim import ssim  # seconds, which only this waits for
    from genrefocus.render.layered import render_layered
    from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

    height, width = disparity.shape
    low, high = k_range.bounds(disparity, focus_disparity)
    light = srgb_to_linear(sharp)

    def score(k: float) -> float:
        rendered = render_layered(
            light,
            disparity,
            focus_disparity=focus_disparity,
            strength=BlurStrength(k, height, width),
            aperture=aperture,
            edge_width=edge_width,
        )
        return float(ssim(linear_to_srgb(rendered)[None], photograph[None])[0])

    with torch.inference_mode():
        return search_k(score, low=low, high=high, budget=k_range.budget)


class _Curve:
    """The score over log K: every point is evaluated once, and no more than the budget."""

    def __init__(
        self, score: Callable[[float], float], low: float, high: float, budget: int
    ) -> None:
        self.score, self.low, self.high, self.budget = score, low, high, budget
        self.seen: dict[float, float] = {}

    def k(self, x: float) -> float:
        # Rounding must not carry K beyond its bounds.
        return min(max(math.exp(x), self.low), self.high)

    @property
    def left(self) -> int:
        return self.budget - len(self.seen)

    def __call__(self, x: float) -> float:
        if x not in self.seen:
            assert self.left > 0
            value = float(self.score(self.k(x)))
            if not math.isfinite(value):
                raise Rejected(
                    Reason.NON_FINITE,
                    {"k": self.k(x), "score": str(value), "curve": self._plain()},
                    "the score of a rendering must be a finite number",
                )
            self.seen[x] = value
        return self.seen[x]

    def best(self) -> tuple[float, float]:
        x = max(sorted(self.seen), key=self.seen.__getitem__)
        return x, self.seen[x]

    def points(self) -> tuple[tuple[float, float], ...]:
        return tuple((self.k(x), self.seen[x]) for x in sorted(self.seen))

    def rejected(self, reason: Reason, detail: str, **more: object) -> Rejected:
        x, score = self.best()
        value = {"k": self.k(x), "score": score, **more, "curve": self._plain()}
        return Rejected(reason, value, detail)

    def _plain(self) -> list[list[float]]:
        return list(map(list, self.points()))


def _rivals(scores: list[float], best: int) -> list[int]:
    """Other local maxima, ends included, that are nearly as good and stand apart from the best."""
    found = []
    for n, score in enumerate(scores):
        low, high = sorted((n, best))
        valley = min(scores[low : high + 1])
        is_top = score >= max(scores[max(n - 1, 0) : n + 2])
        near = _height(scores, best) - _height(scores, n) <= _RIVAL
        if n != best and is_top and near and score - valley > FLAT:
            found.append(n)
    return found


def _height(scores: list[float], n: int) -> float:
    """Height of a local maximum of an even grid, by the parabola through its neighbours."""
    if n in (0, len(scores) - 1):
        return scores[n]
    before, top, after = scores[n - 1 : n + 2]
    bend = 2 * top - before - after
    return top + (after - before) ** 2 / (8 * bend) if bend > 0 else top


def _narrow(curve: _Curve, bracket: list[float]) -> None:
    """Evaluate within a bracket whose middle is best until it, or the budget, is used up."""
    a, m, b = bracket
    before = last = math.inf
    while curve.left > 0 and b - a > 2 * _TOLERANCE:
        # Two steps that did not halve the bracket: the parabola misleads.
        misled = b - a > 0.5 * before
        before, last = last, b - a
        x = _golden(a, m, b) if misled else _vertex(curve, a, m, b)
        if curve(x) > curve(m):
            a, m, b = (m, x, b) if x > m else (a, x, m)
        else:
            a, b = (a, x) if x > m else (x, b)


def _golden(a: float, m: float, b: float) -> float:
    """The golden section of the longer side, seen from the middle."""
    return m + _GOLDEN * ((b - m) if b - m > m - a else (a - m))


def _vertex(curve: _Curve, a: float, m: float, b: float) -> float:
    """Vertex of the parabola through the bracket; near the middle a step to its longer side."""
    left = (m - a) * (curve(m) - curve(b))
    right = (b - m) * (curve(m) - curve(a))
    x = m if left + right <= 0 else m + 0.5 * ((b - m) * right - (m - a) * left) / (left + right)
    # Renderings at nearly equal K differ by their rounding, so that shorter steps tell nothing.
    longer = max(b - m, m - a)
    step = max(min(_TOLERANCE, 0.5 * longer), 0.1 * longer)
    if abs(x - m) < step:
        x = m + math.copysign(step, (b - m) - (m - a))
    return x
