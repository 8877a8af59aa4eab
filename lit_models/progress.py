"""Progress of a stage: bars on a terminal, lines in a log."""

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from rich.progress import TaskID
from torch import Tensor

from genrefocus.terminal import Bars, counted

_NOTED_EVERY = 5.0  # seconds; reading the loss waits for the device


class Progress(ProgressBar):
    """Steps, time left, loss, learning rate and speed; what each validation has measured.

    The loss is the mean over all ranks and over the steps since it was shown last. See
    :class:`Bars` for where it goes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bars = Bars(visible=False)
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._loss: Tensor | float = 0.0
        self._count, self._noted, self._rate = 0, 0.0, 0.0

    def disable(self) -> None:
        """Lightning asks for it on ranks other than the first."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._bars = Bars(visible=trainer.is_global_zero)
        self._bars.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = self._bars.add_task(
            _stage(trainer), total=trainer.max_steps, completed=trainer.global_step
        )
        self._bars.say(f"{_stage(trainer)}: from step {trainer.global_step} to {trainer.max_steps}")
        validated = trainer.datamodule.validated  # type: ignore[attr-defined]
        sets = zip(validated.sizes, validated.names, strict=True)
        held = ", ".join(f"{counted(size, 'sample')} of {name}" for size, name in sets if size)
        line = f"{_stage(trainer)}: validation on {held or 'no samples'}"
        self._bars.say(line, on_terminal=True)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # afterwards it is the next step's

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._training is not None
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._loss += trainer.callback_metrics["train/loss"]
        self._count += 1
        changed = {}
        if (now := time.monotonic()) - self._noted > _NOTED_EVERY:
            loss = float(self._loss) / self._count
            changed["note"] = f"loss {loss:.4g}, lr {self._rate:.1e}"
            self._loss, self._count, self._noted = 0.0, 0, now
        self._bars.update(self._training, completed=trainer.global_step, **changed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        what = "validation check" if trainer.sanity_checking else "validation"
        batches = (
            trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        )
        self._begin(what, batches)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        assert self._evaluation is not None
        self._bars.advance(self._evaluation)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        if not trainer.sanity_checking:
            self._tell(trainer)

    def on_exception(self, *args: Any) -> None:
        if self._evaluation is not None:  # cut off, and nothing of it is kept
            self._end()
        self._bars.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._bars.stop()

    def _begin(self, description: str, batches: Any) -> None:
        total = batches if isinstance(batches, int) else sum(batches)
        self._evaluation = self._bars.add_task(description, total=total)

    def _end(self) -> None:
        assert self._evaluation is not None
        self._bars.remove_task(self._evaluation)
        self._evaluation = None

    def _tell(self, trainer: Trainer) -> None:
        """A line of figures, without those of single sigmas and radii."""
        figures = [
            f"{name} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and "_sigma_" not in name and "_radius_" not in name
        ]
        self._bars.say(f"{_stage(trainer)} step {trainer.global_step}: {', '.join(figures)}")


class LearningRate(LearningRateMonitor):
    """The learning rate in the logs, if there are any."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)


def _stage(trainer: Trainer) -> str:
    return Path(trainer.default_root_dir).name
