"""Gathering per-image values over batches and ranks, failures counted."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Summary(NamedTuple):
    """Mean over the valid images, with how many there were and how many failed.

    Attributes:
        mean: 0-d float32; NaN when no image was valid, so that nothing passes for a measurement.
        valid: 0-d int64, images in the mean.
        failed: 0-d int64, images whose value was NaN or infinite.
    """

    mean: Tensor
    valid: Tensor
    failed: Tensor


class Tally(Metric):
    """Base of the metrics here: keeps every per-image value and summarises them.

    The state is the list of values itself, concatenated over ranks, and the mean is a correctly
    rounded sum: the same values give the same summary, bit for bit, however they are dealt out to
    batches and ranks. A rank may have seen no image.
    """

    full_state_update = False
    is_differentiable = False
    values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def record(self, values: Tensor) -> None:
        """Add per-image values (B,); NaN or infinite ones count as failed."""
        self.values.append(values.detach().float())

    def compute(self) -> Summary:
        """Summarise everything recorded on all ranks."""
        # After a synchronisation over ranks the state is one tensor instead of a list.
        parts = [self.values] if isinstance(self.values, Tensor) else self.values
        return summarise(torch.cat(parts) if parts else torch.zeros(0, device=self.device))


def summarise(values: Tensor) -> Summary:
    """Summary of per-image values (N,), on their device; N may be 0."""
    numbers = values.tolist()
    valid = [number for number in numbers if math.isfinite(number)]
    mean = math.fsum(valid) / len(valid) if valid else math.nan
    return Summary(
        mean=torch.tensor(mean, dtype=torch.float32, device=values.device),
        valid=torch.tensor(len(valid), device=values.device),
        failed=torch.tensor(len(numbers) - len(valid), device=values.device),
    )
