"""Per-image values of a metric over batches and ranks, with failures counted."""

import math
from collections.abc import Callable
from typing import NamedTuple

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
    """Keeps every value of a per-image metric and summarises them.

    The state is the list of values itself, concatenated over ranks, and the mean is a correctly
    rounded sum: the same values give the same summary, bit for bit, however they are dealt out to
    batches and ranks. A rank may have seen no image. Networks of a metric enter no checkpoint.

    Args:
        measure: batches of images to values (B,), e.g. :func:`genrefocus.metrics.psnr.psnr`; NaN
            or infinite values count as failed.
    """

    full_state_update = False
    is_differentiable = False
    values: list[Tensor]

    def __init__(self, measure: Callable[..., Tensor]) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, *batches: Tensor) -> None:
        """Measure the images of a batch; shapes and ranges as for ``measure``."""
        self.values.append(self.measure(*batches))

    def compute(self) -> Summary:
        """Summarise the values of all ranks."""
        # After a synchronisation over ranks the state is one tensor instead of a list.
        parts = [self.values] if isinstance(self.values, Tensor) else self.values
        values = [value for part in parts for value in part.tolist()]
        valid = [value for value in values if math.isfinite(value)]
        mean = math.fsum(valid) / len(valid) if valid else math.nan
        return Summary(
            mean=torch.tensor(mean, dtype=torch.float32, device=self.device),
            valid=torch.tensor(len(valid), device=self.device),
            failed=torch.tensor(len(values) - len(valid), device=self.device),
        )
