"""Short runs of Lightning over shards, for tests of the order of samples."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import RefocusDataModule

COUNTS = {"synthetic": 17, "in_the_wild": 5}
WEIGHTS = {"synthetic": 0.7, "in_the_wild": 0.3}
SIZE = 8


def data(folders: dict[str, Path], **changes) -> RefocusDataModule:
    arguments = {
        "train": {name: folders[name] for name in COUNTS},
        "weights": WEIGHTS,
        "val": [folders["deblur"]],
        "crop": SIZE,
        "batch_size": 2,
        "eval_batch_size": 2,
        "num_workers": 0,
        "seed": 5,
    }
    return RefocusDataModule(**{**arguments, **changes})


class Recorder(LightningModule):
    """A few weights whose updates depend on every batch, and the draws that it was given."""

    def __init__(self, thrown_in: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.thrown_in = thrown_in
        self.mix = torch.nn.Conv2d(3, 3, 3)
        self.draws: list[tuple[int, list[int]]] = []
        self.validations: list[int] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.draws.append((batch_idx, batch["draw"]))
        if batch_idx + 1 == self.thrown_in:
            raise Killed
        return (self.mix(batch["aif"]) - batch["bokeh"][..., 1:-1, 1:-1]).square().mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        if batch_idx == 0:
            self.validations.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Killed(RuntimeError):
    """Stands for whatever ends a run."""


class KillAfter(Callback):
    """Ends the run behind micro-batch ``number``, after the checkpoints of that batch."""

    def __init__(self, number: int, save_to: Path | None = None) -> None:
        self.number, self.save_to = number, save_to

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == self.number - 1:
            if self.save_to:
                trainer.save_checkpoint(self.save_to)
            raise Killed


def fit(
    module: RefocusDataModule,
    folder: Path,
    *callbacks: Callback,
    resume: Path | None = None,
    steps: int = 9,
    accumulate: int = 2,
    thrown_in: int | None = None,
) -> Recorder:
    model = Recorder(thrown_in)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        val_check_interval=6,
        check_val_every_n_epoch=None,
        callbacks=list(callbacks),
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    try:
        trainer.fit(model, datamodule=module, ckpt_path=resume)
    except Killed:
        return model
    assert trainer.global_step == steps
    return model


def checkpoints_every_two_steps(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
