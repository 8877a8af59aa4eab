"""What all trained modules share: the optimiser, its schedule, and the watch on their losses."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_models.loss_watch import LossWatch
from lit_models.rates import warmup_then_cosine

Batch = dict[str, Any]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class TrainingModule(LightningModule):
    """A module whose :meth:`trainable_parameters` learn at the rate of ``warmup_then_cosine``.

    Args:
        optimizer: factory over parameters.
        warmup_steps, decay_steps, rate_floor: see :func:`lit_models.rates.warmup_then_cosine`.
        failure_dir: where the keys of a batch with a non-finite loss are written.
        remedy: of a non-finite loss, for the message.
    """

    def __init__(
        self,
        *,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        decay_steps: int | None,
        rate_floor: float = 0.0,
        failure_dir: str | Path,
        remedy: str,
    ) -> None:
        super().__init__()
        self.optimizer_factory = optimizer
        self.rate = partial(
            warmup_then_cosine,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            floor=rate_floor,
        )
        self.watch = LossWatch(failure_dir, remedy)

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser changes."""
        raise NotImplementedError

    def log_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        """Log the loss of a micro-batch, tell the watch about it, and return it."""
        self.watch.see(loss, batch["key"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.watch.check(self.global_step, self.global_rank)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.trainable_parameters())
        schedule = {"scheduler": LambdaLR(optimizer, self.rate), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
