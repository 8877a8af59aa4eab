"""One global order of draws, exactly resumable; what a draw holds is a subclass's business."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.examples import EvalExamples, Example, collate
from genrefocus.data.batches import EvalBatches, TrainBatches, micro_batches


class OrderedDataModule(LightningDataModule):
    """Examples in an order that ranks, workers and interruptions do not change.

    Training is one epoch of ``trainer.max_steps`` optimiser steps. The position in the order is
    the number of draws that optimiser steps have consumed; it is part of the checkpoint, and a
    resumed run starts with the next draw, also after a change of batch size, accumulation or number
    of ranks. Micro-batches of an accumulation that was cut off are drawn again.

    With several ranks the trainer needs ``use_distributed_sampler=False``: the batches are split
    here. In evaluation ranks may differ by one sample.

    Subclasses fill ``draws`` and ``validated`` in ``setup``, after a call of this one's.

    Args:
        batch_size: per rank and micro-batch; None lets :meth:`deal_out` choose the largest.
        eval_batch_size: per rank.
        num_workers: loader processes per rank.
        seed: of the order and of everything random about a draw.

    Attributes:
        draws: example n is draw n, a pure function of (seed, n).
        validated: items of validation.
    """

    # A rank without evaluation samples is fine: there may be fewer samples than ranks.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self, *, batch_size: int | None, eval_batch_size: int, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.draws: Dataset[Example] | None = None
        self.validated: EvalExamples | None = None
        self._start = {"draws": 0, "step": 0}

    def identity(self) -> dict[str, Any]:
        """All that decides which example a draw is, as plain data."""
        raise NotImplementedError

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name of every opened set -> fingerprint of its content, for logs."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Check that batches are split once.

        Raises:
            ValueError: the trainer would split them again.
        """
        if self.trainer is None or self.trainer.world_size == 1 or stage not in (None, "fit"):
            return
        if self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "set trainer.use_distributed_sampler=false: the data module itself splits the "
                "global order over ranks"
            )

    def deal_out(self, global_batch: int, *, world: int) -> int:
        """Settle ``batch_size`` so that a step of all ranks has ``global_batch`` samples.

        Returns:
            Micro-batches to accumulate.

        Raises:
            ValueError: the samples cannot be dealt out; see ``micro_batches``.
        """
        self.batch_size, accumulate = micro_batches(global_batch, self.batch_size, world)
        return accumulate

    def train_dataloader(self) -> DataLoader[Example]:
        """Batches from the first draw that no optimiser step has consumed to ``max_steps``."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.max_steps < 0:
            raise ValueError("training is counted in optimiser steps: set trainer.max_steps")
        behind = self._restart_count()
        steps = max(trainer.max_steps - trainer.global_step, 0)
        if behind:
            # The position is kept here, not in the loader.
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
        return self.train_loader(
            start=self.draws_consumed(),
            count=steps * trainer.accumulate_grad_batches,
            behind=behind,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def val_dataloader(self) -> DataLoader[Example]:
        assert self.trainer is not None
        return self.val_loader(rank=self.trainer.global_rank, world=self.trainer.world_size)

    def train_loader(
        self, *, start: int, count: int, behind: int = 0, rank: int = 0, world: int = 1
    ) -> DataLoader[Example]:
        """``count`` training batches of one rank from draw ``start`` on; see ``TrainBatches``."""
        assert self.draws is not None, "setup('fit') comes first"
        assert self.batch_size is not None
        batches = TrainBatches(start, count, behind, self.batch_size, rank, world)
        return self._loader(self.draws, batches)

    def val_loader(self, *, rank: int = 0, world: int = 1) -> DataLoader[Example]:
        """The share of one rank in the validation samples; see ``EvalBatches``."""
        assert self.validated is not None, "setup('validate') comes first"
        batches = EvalBatches(self.validated.sizes, self.eval_batch_size, rank, world)
        return self._loader(self.validated, batches)

    def draws_consumed(self) -> int:
        """Draws that went into optimiser steps so far, over all ranks."""
        trainer = self.trainer
        if trainer is None:
            return self._start["draws"]
        assert self.batch_size is not None
        per_step = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return self._start["draws"] + (trainer.global_step - self._start["step"]) * per_step

    def state_dict(self) -> dict[str, Any]:
        """The position, and the order that it is a position in."""
        step = self.trainer.global_step if self.trainer else self._start["step"]
        return {"draws": self.draws_consumed(), "step": step, "order": self.identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it was made with other data, weights or seed: the draws to come would not
                be those that the interrupted run would have made.
        """
        now = self.identity()
        for name, value in state_dict["order"].items():
            if now[name] != value:
                raise ValueError(
                    f"the checkpoint was trained with {name} {value}, now it is {now[name]}; "
                    "restore it to resume, or start a new run from the trained weights"
                )
        self._start = {"draws": int(state_dict["draws"]), "step": int(state_dict["step"])}

    def _restart_count(self) -> int:
        """Micro-batches of the optimiser steps so far, which Lightning goes on counting from.

        It has counted otherwise where a run ended in the middle of an accumulation or of a batch,
        whose gradients are lost, and where other micro-batches make up a step now; it would take
        its next step or validation too early or too late.
        """
        assert self.trainer is not None
        fit_loop = self.trainer.fit_loop
        if not fit_loop.restarting:
            return 0
        progress: Any = fit_loop.epoch_loop.batch_progress
        total, current = progress.total, progress.current
        # Saved by a callback at the end of a batch, which Lightning counts after the callbacks.
        at_batch_end = total.completed == total.processed - 1 and total.processed == total.ready
        count = self.trainer.global_step * self.trainer.accumulate_grad_batches
        counted = current.completed + int(at_batch_end) == count
        if not counted or not (at_batch_end or total.completed == total.ready):
            for tracker in (current, total):
                tracker.ready = tracker.started = tracker.processed = tracker.completed = count
        return count

    def _loader(
        self, dataset: Dataset[Example], batches: TrainBatches | EvalBatches
    ) -> DataLoader[Example]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # Starting workers would draw from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )
