"""Losses that became NaN or infinite, found without a wait for the device at every micro-batch."""

from pathlib import Path

import torch
from torch import Tensor


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the file named in the message holds the batch's keys."""


class LossWatch:
    """Keeps the losses of micro-batches on their device, and reads them all together.

    Read before every optimiser step, it keeps a loss that is not finite out of the weights.

    Args:
        folder: where the keys of a batch with a non-finite loss are written.
        remedy: what to do then, for the message.
    """

    def __init__(self, folder: str | Path, remedy: str) -> None:
        self.folder, self.remedy = Path(folder), remedy
        self._unread: list[tuple[Tensor, list[str]]] = []

    def see(self, loss: Tensor, keys: list[str]) -> None:
        """Remember the loss (a number) of a micro-batch; the device is not waited for."""
        self._unread.append((loss.detach(), keys))

    def check(self, step: int, rank: int) -> None:
        """Read what was seen since the last time.

        Args:
            step, rank: of this process, for the report.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; the keys of its batch are in a file.
        """
        unread, self._unread = self._unread, []
        if not unread or bool((losses := torch.stack([one for one, _ in unread])).isfinite().all()):
            return
        for loss, (_, keys) in zip(losses.tolist(), unread, strict=True):
            if abs(loss) < float("inf"):
                continue
            path = self.folder / f"non_finite_loss_step{step}_rank{rank}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([f"loss {loss} at step {step}", *keys]) + "\n")
            raise NonFiniteLossError(
                f"loss is {loss} at step {step}; the keys of its batch are in {path}. {self.remedy}"
            )
