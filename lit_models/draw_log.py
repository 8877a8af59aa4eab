"""A record of what every micro-batch held and gave, for proving that a resumed run is the same."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_models.training import Batch


class DrawLog(Callback):
    """Appends a JSON line for each micro-batch: its draws, the keys of its samples, its loss.

    A line is on disk before the next micro-batch begins, so a killed run leaves a record of all it
    did. Steps that a resumed run repeats appear twice.

    Args:
        folder: gets ``draws_rank<rank>.jsonl``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        entry = {
            "draws": batch["draw"],
            "keys": batch["key"],
            "loss": float(outputs["loss"]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"draws_rank{trainer.global_rank}.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
