"""Held-out flow-matching loss, split by sigma and by blur radius."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from genrefocus.metrics.blur_radius import bin_names

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Sigmas at which a validation evaluates the loss by default."""


class HeldOutLoss(Metric):
    """Mean loss over samples, in all, for each sigma and for each bin of mean blur radius.

    The grid is fixed, so that figures are comparable between steps and runs.

    Args:
        sigmas: grid on which the loss is evaluated.
        radius_edges: upper edges in px of all bins but the last.
        prefix: of the names, e.g. ``val/loss``.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    _edges: Tensor

    def __init__(self, sigmas: Sequence[float], radius_edges: Sequence[float], prefix: str) -> None:
        super().__init__()
        self.sigmas, self.prefix = tuple(sigmas), prefix
        self.register_buffer("_edges", torch.tensor(radius_edges), persistent=False)
        # one row more, for samples whose radius is not known
        shape = (len(self.sigmas), len(radius_edges) + 2)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sigma_index: int, loss: Tensor, radius: Tensor | None) -> None:
        """Add losses (B,) at one sigma; radius (B,) is the mean blur radius in px, or None."""
        unknown = self.total.shape[1] - 1
        if radius is None:
            column = torch.full(loss.shape, unknown, device=loss.device)
        else:
            column = torch.bucketize(
                radius.to(loss.device), self._edges.to(loss.device), right=True
            )
        self.total[sigma_index].index_add_(0, column, loss.double())
        self.count[sigma_index].index_add_(0, column, torch.ones_like(loss, dtype=torch.float64))

    def compute(self) -> dict[str, Tensor]:
        """Means by name; what no sample fell into is left out."""
        sums = torch.stack([self.total, self.count])
        found = {self.prefix: sums.sum((1, 2))}
        for row, sigma in enumerate(self.sigmas):
            found[f"{self.prefix}_sigma_{sigma:.2f}"] = sums[:, row].sum(-1)
        for column, name in enumerate(bin_names(self._edges.tolist())):
            found[f"{self.prefix}_radius_{name}"] = sums[:, :, column].sum(-1)
        return {
            name: (total / count).float() for name, (total, count) in found.items() if count > 0
        }
