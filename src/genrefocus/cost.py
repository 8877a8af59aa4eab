"""What training and validation cost, counted in passes through the frozen networks."""

from dataclasses import dataclass
from typing import Literal

from genrefocus.metrics.lvcorr import PROTOCOL_K

Evaluated = Literal["photographs", "pairs", "sweep"]


@dataclass(frozen=True)
class Cost:
    """Passes over all ranks.

    Attributes:
        forwards: of the transformer.
        codings: pictures or maps that the autoencoder encodes or decodes.
    """

    forwards: float = 0
    codings: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forwards + other.forwards, self.codings + other.codings)

    def __mul__(self, count: float) -> "Cost":
        return Cost(self.forwards * count, self.codings * count)

    def share_of(self, other: "Cost") -> float:
        """The larger of both shares in another cost, which has some of each."""
        return max(self.forwards / other.forwards, self.codings / other.codings)


def training_sample(conditions: int) -> Cost:
    """A sample in an optimiser step, at the least.

    Through a frozen network backward costs as much as forward; what gradient checkpointing computes
    again is left out.

    Args:
        conditions: images and maps that the network is given.
    """
    return Cost(2, conditions + 1)


def validation_sample(kind: Evaluated, *, conditions: int, sigmas: int, steps: int) -> Cost:
    """A sample at a validation; see ``FlowMatching.validation_step``.

    Args:
        kind: photographs, whose truth is estimated, have a loss alone; pairs a picture too; the
            scenes of a sweep a picture at each of the protocol's K.
        conditions: images and maps that the network is given.
        sigmas: of the held-out loss.
        steps: of a generated picture.
    """
    loss = Cost(sigmas, conditions + 1)
    if kind == "photographs":
        return loss
    others = len(PROTOCOL_K) - 1 if kind == "sweep" else 0  # each with a map of its own
    return loss + Cost(steps, 1) + Cost(steps, 2) * others
