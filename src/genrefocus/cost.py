"""What training and validation cost, counted in passes through the frozen networks.

A cost is [forwards of the transformer, images or maps that the autoencoder encodes or decodes].
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrefocus.metrics.lvcorr import PROTOCOL_K

Cost = NDArray[np.float64]
Evaluated = Literal["photographs", "pairs", "sweep"]


def training_sample(conditions: int) -> Cost:
    """A sample in an optimiser step, at the least.

    Through a frozen network backward costs as much as forward; what gradient checkpointing computes
    again is left out.

    Args:
        conditions: images and maps that the network is given.
    """
    return np.array([2.0, conditions + 1])


def validation_sample(kind: Evaluated, *, conditions: int, sigmas: int, steps: int) -> Cost:
    """A sample at a validation; see ``FlowMatching.validation_step``.

    Args:
        kind: photographs, whose truth is estimated, have a loss alone; pairs an image too; the
            scenes of a sweep an image at each of the protocol's K.
        conditions: images and maps that the network is given.
        sigmas: of the held-out loss.
        steps: of a generated image.
    """
    loss = np.array([float(sigmas), conditions + 1])
    if kind == "photographs":
        return loss
    others = len(PROTOCOL_K) - 1 if kind == "sweep" else 0  # each with a map of its own
    return loss + [steps * (1 + others), 1 + 2 * others]


def share(part: Cost, whole: Cost) -> float:
    """The larger of the shares of both counts."""
    return float((part / whole).max())
