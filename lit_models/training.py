"""What all trained modules share: the optimiser, its schedule, and the account of their steps."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from genrefocus.denoiser import Latents
from lit_models.loss_meter import LossMeter
from lit_models.loss_watch import LossWatch
from lit_models.rates import warmup_then_cosine
from lit_models.work import Work

Batch = dict[str, Any]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class TrainingModule(LightningModule):
    """A module whose :meth:`trainable_parameters` learn at the rate of ``warmup_then_cosine``.

    Every optimiser step logs its loss, the mean over micro-batches and ranks, and the norm of its
    gradient before it is clipped; every log has the loss by sigma of the steps since the last.

    Args:
        optimizer: factory over parameters.
        warmup_steps, decay_steps, rate_floor: see :func:`lit_models.rates.warmup_then_cosine`.
        failure_dir: where the keys of a batch with a non-finite loss are written.
        remedy: of a non-finite loss, for the message.

    Attributes:
        work: of this process.
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
        self.watch, self.meter, self.work = LossWatch(failure_dir, remedy), LossMeter(), Work()

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser changes."""
        raise NotImplementedError

    def log_loss(self, losses: Tensor, sigma: Tensor, latents: Latents, batch: Batch) -> Tensor:
        """Enter a micro-batch in the account of its step, and return its mean loss.

        Args:
            losses: (B,).
            sigma: (B,) in (0, 1], on the host.
            latents: that the losses are of.
            batch: whose keys are written if the loss is not finite.
        """
        loss = losses.mean()
        self.watch.see(loss, batch["key"])
        self.meter.see(losses, sigma)
        self.work.see(latents)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self.work.backward():
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.watch.check(self.global_step, self.global_rank)
        over_ranks = partial(self.trainer.strategy.reduce, reduce_op="sum")
        self.log("train/loss", self.meter.end_step(over_ranks), prog_bar=True)
        if logs_at(self.trainer, self.global_step + 1):
            means = self.meter.by_sigma()
            figures = {f"train/loss_sigma_{name}": mean for name, mean in means.items()}
            log_once(self.trainer, figures, self.global_step + 1)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's, which would not return the norm that it computes."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            norm = clip_grad_norm_(parameters, gradient_clip_val)
        else:
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.log("train/grad_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss_by_sigma"] = self.meter.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.meter.load(checkpoint["loss_by_sigma"])

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.trainable_parameters())
        schedule = {"scheduler": LambdaLR(optimizer, self.rate), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def logs_at(trainer: Trainer, step: int) -> bool:
    """Whether loggers are told about optimiser step ``step``, which counts from 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def log_once(trainer: Trainer, figures: dict[str, float], step: int) -> None:
    """Tell loggers about optimiser step ``step``, which counts from 1; Lightning counts from 0.

    ``LightningModule.log`` would repeat a figure in all later rows, until there is a new one.
    """
    for logger in trainer.loggers if figures else ():
        logger.log_metrics(figures, step=step - 1)
