"""What an estimator is asked and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Photo:
    """A photograph to be measured.

    Attributes:
        name: path within the folder of photographs, with forward slashes.
        image: (3, H, W) float in [0, 1], upright.
        aif: the same scene in focus everywhere, (3, H, W) float in [0, 1].
    """

    name: str
    image: Tensor
    aif: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[-2], self.image.shape[-1]


class InFocus(NamedTuple):
    """The region in focus, (H, W) bool, which may be empty, and what said so, for provenance."""

    region: Tensor
    origin: str


class Estimator(Protocol):
    """What all estimators have."""

    @property
    def name(self) -> str:
        """For provenance: what estimated, in which revision."""

    @property
    def holds_network(self) -> bool:
        """Whether it holds a network, which should not be copied to other processes."""


class DepthEstimator(Estimator, Protocol):
    """Estimates metric depth."""

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        """(H, W) float32 in metres per photograph; 0 or below where there is no measurement."""


class MaskEstimator(Estimator, Protocol):
    """Estimates the region in focus."""

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        """The region in focus of each photograph."""
