"""Files of training: the checkpoint that a run resumes from, and LoRA snapshots."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from safetensors import SafetensorError, safe_open

from genrefocus.backbone import Lora
from genrefocus.metrics.lpips import lpips_available
from genrefocus.writing import whole
from lit_models.flow_matching import FlowMatching

SNAPSHOTS = "snapshots"


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written in the folder of the one they replace, and not in TMPDIR."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """
        Raises:
            OSError: it cannot be written; the old one is still there.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A stage's checkpoint on the CPU.

    Raises:
        ValueError: it is damaged; the message offers the newest snapshot.
    """
    try:
        if not is_zipfile(path):
            raise RuntimeError("it ends too early")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        snapshots = sorted((path.parent / SNAPSHOTS).glob("step_*"))
        option = f"stages.{path.parent.name}.module.init_lora"
        way_on = f"start a new run with {option}={snapshots[-1]}, or " if snapshots else ""
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0]}); {way_on}remove it and resume, "
            "which begins this stage anew"
        ) from error
    return state


class Snapshots(Callback):
    """The averaged LoRA at every validation, in the released format: the newest few, and the best.

    The best has the lowest LPIPS of the generated validation images, or where LPIPS is not
    available the highest SSIM; its file is named after the metric. What a validation has measured
    is in the metadata of its snapshot. The files are all that is remembered, so that a resumed run
    keeps no more of them. Figures of other samples (``val_samples`` may change when a run is
    resumed) are not compared: the best until then is kept as ``best_<metric>_at_<step>``.

    Args:
        folder: gets ``step_<step>.safetensors`` and ``best_<metric>.safetensors``.
        newest: how many are kept in addition to the best.
    """

    def __init__(self, folder: str | Path, *, newest: int) -> None:
        self.folder, self.newest = Path(folder), newest

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not (fitting and trainer.is_global_zero and isinstance(pl_module, FlowMatching)):
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        measured = {n: float(v) for n, v in trainer.callback_metrics.items() if n[:4] == "val/"}
        described = {name: repr(value) for name, value in measured.items()}
        described |= {**pl_module.lora_metadata, "step": str(trainer.global_step)}
        described["validated"] = repr(trainer.datamodule.validated.sizes)  # type: ignore[attr-defined]
        lora = _averaged(trainer, pl_module)
        self.folder.mkdir(parents=True, exist_ok=True)
        lora.save(self.folder / f"step_{trainer.global_step:07d}.safetensors", metadata=described)
        for old in sorted(self.folder.glob("step_*.safetensors"), reverse=True)[self.newest :]:
            old.unlink()
        metric, sign = ("lpips", -1) if lpips_available() else ("ssim", 1)
        best = self.folder / f"best_{metric}.safetensors"
        before = _described(best)
        if before and before.get("validated") != described["validated"]:
            best.rename(best.with_stem(f"{best.stem}_at_{before['step']}"))
            before = {}
        value = sign * measured.get(f"val/{metric}", float("nan"))
        if value > sign * float(before.get(f"val/{metric}", -sign * float("inf"))):
            lora.save(best, metadata=described)


def _averaged(trainer: Trainer, module: FlowMatching) -> Lora:
    """The LoRA that is exported and validated, see ``WeightAveraging``."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            averaged: FlowMatching = callback._average_model.module  # type: ignore[assignment]
            return averaged.lora
    return module.lora


def _described(snapshot: Path) -> dict[str, str]:
    """Metadata of a snapshot; nothing where there is none that can be read."""
    try:
        with safe_open(str(snapshot), framework="pt") as handle:
            return dict(handle.metadata())
    except (FileNotFoundError, SafetensorError):
        return {}
