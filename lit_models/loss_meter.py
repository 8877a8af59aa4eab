"""The training loss: means over micro-batches and ranks, taken on the device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from genrefocus.noise import to_device

BINS = 4
"""Bins of sigma, of equal width on (0, 1]."""


class LossMeter:
    """Mean loss of an optimiser step, and mean loss by sigma over the steps since it was read.

    All sums stay on the device of the losses; only :meth:`by_sigma` and :meth:`state` wait for it.
    A loss of sigma ``s`` counts in bin ``floor(s * BINS)``, that of sigma 1 in the last one.
    """

    def __init__(self) -> None:
        self._step: Tensor | None = None  # (2, BINS): sums and counts, of this process
        self._since: Tensor | None = None  # the same of the steps since the reading, all ranks

    def see(self, losses: Tensor, sigma: Tensor) -> None:
        """Add a micro-batch: its losses (B,), and its sigmas (B,) in (0, 1] on the host."""
        index = (sigma * BINS).long().clamp(max=BINS - 1)
        member = to_device(one_hot(index, BINS).float(), losses.device)
        sums = (losses.detach().float()[:, None] * member).sum(0)
        added = torch.stack([sums, member.sum(0)])
        self._step = added if self._step is None else self._step + added

    def end_step(self, over_ranks: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean loss, a number on the device, over the samples seen since the last step.

        Args:
            over_ranks: sums a tensor over all ranks.
        """
        assert self._step is not None, "no micro-batch was seen"
        sums, self._step = over_ranks(self._step), None
        if self._since is not None:
            self._since = to_device(self._since, sums.device) + sums
        else:
            self._since = sums
        return sums[0].sum() / sums[1].sum()

    def by_sigma(self) -> dict[str, float]:
        """Means by bin, such as ``0.25_0.5``, since the last reading; empty bins are left out."""
        if self._since is None:
            return {}
        (sums, counts), self._since = self._since.tolist(), None
        bins = zip(range(BINS), sums, counts, strict=True)
        return {f"{n / BINS:g}_{(n + 1) / BINS:g}": s / count for n, s, count in bins if count}

    def state(self) -> list[list[float]] | None:
        """Sums over all ranks since the last reading, for a checkpoint between two steps."""
        return None if self._since is None else self._since.tolist()

    def load(self, state: list[list[float]] | None) -> None:
        """Go on from :meth:`state`."""
        self._since = None if state is None else torch.tensor(state)
