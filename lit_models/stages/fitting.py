"""Fit a module by the trainer of a run, from its last checkpoint if there is one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf

from genrefocus.runs import git_commit
from lit_models.callbacks import BlurRange, Interruption
from lit_models.checkpoints import read_checkpoint
from lit_models.stages.stage import Stage
from lit_models.throughput import Throughput
from lit_models.trackers import FaultTolerantLogger


@dataclass(frozen=True)
class TrainingResult:
    """Results of a training, in addition to the module with its averaged weights.

    Attributes:
        trainer: at its last step.
        loggers: still open.
        largest_radius: in the defocus maps of the training, px; None where there were none.
        summary: steps and speed of the training, and where they come from.
    """

    trainer: Trainer
    loggers: list[FaultTolerantLogger]
    largest_radius: float | None
    summary: dict[str, Any]


@contextmanager
def fitted(
    stage: Stage, module: LightningModule, data: Any, *, fit: Mapping[str, Any], global_batch: int
) -> Iterator[TrainingResult]:
    """Train to the last step; the loggers are open until the block ends.

    Args:
        stage: that is trained.
        module, data: what is trained, and on what.
        fit: further arguments of the trainer.
        global_batch: samples of a step over all processes.
    """
    speed, blur = Throughput(stage.config.peak_flops), BlurRange()
    loggers = [
        FaultTolerantLogger(instantiate(logger))
        for logger in (stage.config.get("logger") or {}).values()
    ]
    trainer: Trainer = instantiate(
        stage.config.trainer,
        callbacks=[
            speed,
            *(instantiate(callback) for callback in stage.config.callbacks.values()),
            blur,
            Interruption(stage.folder),
        ],
        logger=loggers,
        default_root_dir=str(stage.folder),
        check_val_every_n_epoch=None,
        **fit,
    )
    accumulate = data.deal_out(global_batch, world=trainer.num_devices * trainer.num_nodes)
    if not stage.config.trainer.fast_dev_run:  # which trains on one micro-batch
        trainer.accumulate_grad_batches = accumulate
        if isinstance(trainer.val_check_interval, int):  # steps here, micro-batches in Lightning
            trainer.val_check_interval *= accumulate
    data.setup("fit")
    commit, config = git_commit(), OmegaConf.to_container(stage.config, resolve=True)
    for logger in loggers:
        logger.log_hyperparams({"config": config, "data": data.fingerprints, "git_commit": commit})
    checkpoint = stage.folder / "last.ckpt"
    if not _restore_finished(trainer, module, checkpoint, (speed, blur)):
        resumed = str(checkpoint) if checkpoint.is_file() else None
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
        trainer.save_checkpoint(checkpoint, weights_only=False)
    summary = {
        "steps": trainer.max_steps,
        "seconds": round(speed.seconds, 3),
        "samples_per_second": round(speed.samples / max(speed.seconds, 1e-9), 2),
        "logs": f"{stage.name}/logs",
        "git_commit": commit,
    }
    yield TrainingResult(trainer, loggers, blur.radius(trainer), summary)
    if trainer.is_global_zero:
        for logger in loggers:
            logger.close()
    trainer.strategy.barrier()


def _restore_finished(
    trainer: Trainer,
    module: LightningModule,
    checkpoint: Path,
    callbacks: tuple[Throughput, BlurRange],
) -> bool:
    """Load averaged weights from a checkpoint that has all its steps, if there is one."""
    if not checkpoint.is_file():
        return False
    state = read_checkpoint(checkpoint)
    if state["global_step"] < trainer.max_steps:
        return False
    module.load_state_dict(state["state_dict"])
    for callback in callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    return True
