"""Callbacks of training: clean interruption, images, resilience."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from genrefocus.metrics.psnr import psnr
from genrefocus.optics import MAX_COC
from genrefocus.report.contact_sheet import contact_sheet
from genrefocus.runs import Interrupted
from lit_models.flow_matching import FlowMatching
from lit_models.training import Batch


class Interruption(Callback):
    """On SIGINT or SIGTERM: a checkpoint after the optimiser step, or the end of this evaluation.

    Stopping between two optimiser steps is what makes the resumed run equal to an uninterrupted
    one. A validation that is cut off loses no step, as a checkpoint is saved before each, and is
    not repeated.

    Args:
        folder: of the stage.

    Raises:
        Interrupted: from a hook, on all ranks.
    """

    def __init__(self, folder: str | Path) -> None:
        self.checkpoint = Path(folder) / "last.ckpt"
        self.received: int | None = None
        self._shared = 0  # batches of the evaluation that every rank has

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self._is_time(trainer):
            trainer.should_stop = True  # no exception yet: the step's loss is logged after this
            trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            if trainer.should_stop:  # Lightning would validate before it stops
                self._stop()
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]
                trainer.save_checkpoint(self.checkpoint, weights_only=False)
        self._begin(trainer, trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx < self._shared:
            if isinstance(pl_module, FlowMatching):
                pl_module.backbone.meet()
            if self._is_time(trainer):
                self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_time(trainer):
            self._stop()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def _begin(self, trainer: Trainer, batches: Sequence[int | float]) -> None:
        own = torch.tensor(sum(batches), device=trainer.strategy.root_device)
        self._shared = int(trainer.strategy.reduce(own, reduce_op="min"))
        self._listen()

    def _is_time(self, trainer: Trainer) -> bool:
        """Whether any rank has received a signal; all ranks ask together."""
        received = self.received is not None
        if trainer.world_size > 1:  # at different times, or only one does
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            self.received = self.received or signal.SIGTERM
        return received

    def _stop(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)

    def _listen(self) -> None:
        # In hooks of a running loop: Lightning installs its own handlers when it begins, and puts
        # back at the end what was there before.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:  # a second Ctrl-C means it
            raise KeyboardInterrupt
        self.received = number


class Images(Callback):
    """A contact sheet of held-out samples at every validation, and to the loggers.

    They are spread over the blur of those that this process validates, strong blur first. PSNR
    stands below input and output, key and mean blur radius below the target.

    Args:
        folder: where the sheets are written.
        count: rows of the sheet.
        scale: enlargement of the images.
    """

    def __init__(self, folder: str | Path, *, count: int = 6, scale: int = 3) -> None:
        self.folder, self.count, self.scale = Path(folder), count, scale
        self._titles: list[str] = []
        self._rows: list[tuple[float, list[Tensor | None], list[str]]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None or not trainer.is_global_zero or trainer.sanity_checking:
            return
        assert isinstance(pl_module, FlowMatching)
        shown = outputs["batch"]
        panel = pl_module.panel(shown, outputs["image"])
        self._titles = list(panel)
        target = pl_module.target(shown)
        compared = {"input": pl_module.conditions(shown).source, "output": outputs["image"]}
        figures = {
            name: [f"psnr {value:.2f}" for value in psnr(one, target).tolist()]
            for name, one in compared.items()
        }
        radii = shown["radius"].tolist() if "radius" in shown else None
        for row, key in enumerate(shown["key"]):
            blur = "" if radii is None else f", mean blur {radii[row]:.1f} px"
            texts = {name: own[row] for name, own in figures.items()} | {"target": f"{key}{blur}"}
            cells = [None if p is None else p[row].cpu() for p in panel.values()]
            captions = [texts.get(name, "") for name in panel]
            self._rows.append((radii[row] if radii else 0.0, cells, captions))
            self._thin()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _, cells, texts = zip(*rows, strict=True)
        sheet = contact_sheet(cells, self._titles, self.scale, texts)
        sheet.save(self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            show: Callable[..., Any] | None = getattr(logger, "log_sheet", None)
            if show is not None:
                show("images", sheet, trainer.global_step)

    def _thin(self) -> None:
        """Leave out the row between the two others that are closest to one another in blur."""
        self._rows.sort(key=lambda row: -row[0])
        if len(self._rows) > self.count:
            radii = [radius for radius, *_ in self._rows]
            inner = range(1, len(radii) - 1)
            del self._rows[min(inner, key=lambda n: radii[n - 1] - radii[n + 1], default=-1)]


class BlurRange(Callback):
    """The largest blur radius in the defocus maps that the network was trained on."""

    def __init__(self) -> None:
        self._largest = torch.zeros(())  # on the batch's device: comparing must not wait for it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "defocus" in batch:
            largest = batch["defocus"].amax()
            self._largest = torch.maximum(self._largest.to(largest.device), largest)

    def radius(self, trainer: Trainer) -> float | None:
        """Over all ranks, px; None where there was no map. A collective call."""
        own = self._largest.to(trainer.strategy.root_device).clone()  # reduced in place
        return float(trainer.strategy.reduce(own, reduce_op="max")) * MAX_COC or None

    def state_dict(self) -> dict[str, Any]:
        return {"largest": float(self._largest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._largest = torch.tensor(state_dict["largest"])
