"""What a depth network answers, and metres made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

DepthKind = Literal["metric", "relative_disparity", "relative_depth"]
"""Depth in metres; or, of unknown scale and offset, inverse depth (nearer is larger), or depth."""

_ASSUME = (
    "assume the depth of the nearest and of the farthest pixel "
    "(--depth-range NEAR,FAR, depth.range=[NEAR,FAR])"
)


@dataclass(frozen=True)
class DepthScale:
    """How metres follow from the answers of a network.

    Attributes:
        kind: of the answers.
        range: depth in metres that is assumed for the nearest and for the farthest pixel of every
            image, for relative answers: no image tells it.

    Raises:
        ValueError: an unknown kind; a relative one without a range, or metric with one; a range
            that is not 0 < near < far.
    """

    kind: DepthKind
    range: tuple[float, float] | None = None

    @classmethod
    def stated(
        cls, name: str, kind: DepthKind | None, range: Sequence[float] | None
    ) -> "DepthScale":
        """The scale that a user states for the network ``name``, which messages begin with.

        Raises:
            ValueError: as for the class, or there is no kind.
        """
        try:
            if kind is None:
                more = "" if range else f"; for a relative one {_ASSUME}"
                raise ValueError(
                    "does not say what it answers: state its kind, "
                    f"{' or '.join(get_args(DepthKind))} (--depth-kind, depth.kind){more}"
                )
            return cls(kind, None if range is None else tuple(range))  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    def __post_init__(self) -> None:
        if self.kind not in get_args(DepthKind):
            known = ", ".join(get_args(DepthKind))
            raise ValueError(f"cannot answer {self.kind!r}: choose a kind from {known}")
        if self.range is None and self.kind != "metric":
            raise ValueError(f"answers {self.kind}, which has no metres: {_ASSUME}")
        if self.range is not None and self.kind == "metric":
            raise ValueError("answers metres: leave the range of depth out")
        if self.range is not None and not 0 < self.range[0] < self.range[-1] < float("inf"):
            raise ValueError(f"has depth range {list(self.range)}: give metres, 0 < NEAR < FAR")

    def __str__(self) -> str:
        if self.range is None:
            return self.kind
        return f"{self.kind}, assumed from {self.range[0]:g} to {self.range[1]:g} m"

    def metres(self, answer: Tensor) -> Tensor:
        """Depth in metres from an answer (H, W): linear in disparity, or in depth, over the range.

        An answer without spread has one depth everywhere.
        """
        if self.range is None:
            return answer
        near, far = self.range
        low, high = answer.aminmax()
        part = (answer - low) / (high - low).clamp_min(1e-12)
        if self.kind == "relative_depth":
            return near + part * (far - near)
        return 1 / (1 / far + part * (1 / near - 1 / far))
