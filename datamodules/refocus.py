"""Training and evaluation data for both networks, mixed from routes and exactly resumable."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import EvalBatches, TrainBatches
from datamodules.items import EvalSamples, Item, KLabel, KSource, TrainDraws, collate
from genrefocus.data.order import GlobalOrder
from genrefocus.data.shards import ShardDataset


class RefocusDataModule(LightningDataModule):
    """Routes mixed by weight; one global order over ranks, workers and interruptions.

    Training is one epoch of ``trainer.max_steps`` optimiser steps. The position in the order is
    the number of draws that optimiser steps have consumed; it is part of the checkpoint, and a
    resumed run starts with the next draw, also after a change of batch size, accumulation or number
    of ranks. Micro-batches of an accumulation that was cut off are drawn again.

    With several ranks the trainer needs ``use_distributed_sampler=False``: the batches are split
    here. In evaluation ranks may differ by one sample.

    Args:
        train: route name -> folder of its shards.
        weights: route name -> relative weight, >= 0; a route at 0 is not even opened.
        val, test: folders of shards, evaluated one after the other.
        crop: edge of the square crop in px; random in training, central in evaluation.
        batch_size: per rank and micro-batch.
        eval_batch_size: per rank.
        num_workers: loader processes per rank.
        seed: of the order, the crops and flips, and label noise.
        flip: mirror at random.
        limit: draw from the first samples of every route only, for overfitting and learning curves.
        k_label, k_deviation, k_constant: source of K of photographs, see ``items.KLabel``.
        min_mask_agreement: drop training samples whose estimated in-focus mask agrees less with
            the sharpness of the photograph (provenance ``mask_agreement``, 0 to 1).

    Batches are dictionaries: key, route, prompt (lists); draw (B,) int64; aif, bokeh and extras
    (B, 3, H, W) in [0, 1]; and, where all samples of a batch have them, disparity (B, 1, H, W) in
    1/m, defocus (B, 1, H, W) in [0, 1], k (B,), focus_disparity (B,), radius (B,) in px.

    Raises:
        ValueError, FileNotFoundError: in ``setup``, for routes and folders that do not fit.
    """

    # A rank without evaluation samples is fine: there may be fewer samples than ranks.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        *,
        train: Mapping[str, str | Path],
        weights: Mapping[str, float],
        val: Sequence[str | Path],
        test: Sequence[str | Path],
        crop: int,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        flip: bool = True,
        limit: int | None = None,
        k_label: KSource = "exif",
        k_deviation: float = 0.0,
        k_constant: float | None = None,
        min_mask_agreement: float | None = None,
    ) -> None:
        super().__init__()
        self.train_folders = {name: Path(folder) for name, folder in train.items()}
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self.eval_folders = {"val": [Path(f) for f in val], "test": [Path(f) for f in test]}
        self.crop, self.batch_size, self.eval_batch_size = crop, batch_size, eval_batch_size
        self.num_workers, self.seed, self.mirror, self.limit = num_workers, seed, flip, limit
        self.label = KLabel(k_label, k_deviation, k_constant, seed)
        self.min_mask_agreement = min_mask_agreement
        self.train_sets: dict[str, ShardDataset] = {}
        self.draws: TrainDraws | None = None
        self._evaluated: dict[str, EvalSamples] = {}
        self._start = {"draws": 0, "step": 0}

    def setup(self, stage: str | None = None) -> None:
        """Open the shards that ``stage`` needs."""
        if stage in (None, "fit") and self.draws is None:
            self._require_own_split()
            self._open_train()
        for name in ("val", "test"):
            wanted = (None, "test") if name == "test" else (None, "fit", "validate")
            if stage in wanted and name not in self._evaluated:
                sets = [ShardDataset(folder) for folder in self.eval_folders[name]]
                self._evaluated[name] = EvalSamples(sets, size=self.crop, label=self.label)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Folder name of every opened set -> fingerprint of its content, for logs."""
        evaluated = [one for samples in self._evaluated.values() for one in samples.sets]
        opened = [*self.train_sets.values(), *evaluated]
        return {"/".join(one.folder.parts[-2:]): one.fingerprint for one in opened}

    def train_dataloader(self) -> DataLoader[Item]:
        """Batches from the first draw that no optimiser step has consumed to ``max_steps``."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.max_steps < 0:
            raise ValueError("training is counted in optimiser steps: set trainer.max_steps")
        behind = self._drop_partial_accumulation()
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

    def val_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader("test")

    def train_loader(
        self, *, start: int, count: int, behind: int = 0, rank: int = 0, world: int = 1
    ) -> DataLoader[Item]:
        """``count`` training batches of one rank from draw ``start`` on; see ``TrainBatches``."""
        assert self.draws is not None, "setup('fit') comes first"
        batches = TrainBatches(start, count, behind, self.batch_size, rank, world)
        return self._loader(self.draws, batches)

    def eval_loader(self, name: str, *, rank: int = 0, world: int = 1) -> DataLoader[Item]:
        """The share of one rank in the samples of ``val`` or ``test``; see ``EvalBatches``."""
        samples = self._evaluated[name]
        sizes = tuple(len(one) for one in samples.sets)
        batches = EvalBatches(sizes, self.eval_batch_size, rank, world)
        return self._loader(samples, batches)

    def draws_consumed(self) -> int:
        """Draws that went into optimiser steps so far, over all ranks."""
        trainer = self.trainer
        if trainer is None:
            return self._start["draws"]
        per_step = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return self._start["draws"] + (trainer.global_step - self._start["step"]) * per_step

    def state_dict(self) -> dict[str, Any]:
        """The position, and the order that it is a position in."""
        step = self.trainer.global_step if self.trainer else self._start["step"]
        return {"draws": self.draws_consumed(), "step": step, "order": self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it was made with other data, weights or seed: the draws to come would not
                be those that the interrupted run would have made.
        """
        now = self._identity()
        for name, value in state_dict["order"].items():
            if now[name] != value:
                raise ValueError(
                    f"the checkpoint was trained with {name} {value}, now it is {now[name]}; "
                    "restore it to resume, or start a new run from the trained weights"
                )
        self._start = {"draws": int(state_dict["draws"]), "step": int(state_dict["step"])}

    def _identity(self) -> dict[str, Any]:
        """All that decides which sample a draw is, as plain data."""
        return {
            "seed": self.seed,
            "weights": {name: weight for name, weight in self.weights.items() if weight > 0},
            "limit": self.limit,
            "min_mask_agreement": self.min_mask_agreement,
            "data": {name: one.fingerprint for name, one in self.train_sets.items()},
        }

    def _open_train(self) -> None:
        drawn = {name for name, weight in self.weights.items() if weight > 0}
        for name, folder in self.train_folders.items():
            if name in drawn:
                self.train_sets[name] = ShardDataset(folder)
        kept = {name: self._kept(name, one) for name, one in self.train_sets.items()}
        sizes = {name: len(indices) for name, indices in kept.items()}
        order = GlobalOrder(sizes, self.weights, self.seed)
        self.draws = TrainDraws(
            self.train_sets, kept, order, size=self.crop, label=self.label, mirror=self.mirror
        )

    def _kept(self, name: str, one: ShardDataset) -> Sequence[int]:
        total = range(len(one) if self.limit is None else min(len(one), self.limit))
        least = self.min_mask_agreement
        if least is None:
            return total
        kept = [index for index in total if _agrees(one, index, least)]
        if total and not kept:
            raise ValueError(
                f"route {name}: none of {len(total)} samples in {one.folder} has a mask agreement "
                f"of {least}; lower data.min_mask_agreement"
            )
        return kept

    def _require_own_split(self) -> None:
        if self.trainer is None or self.trainer.world_size == 1:
            return
        if self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "set trainer.use_distributed_sampler=false: the data module itself splits the "
                "global order over ranks"
            )

    def _drop_partial_accumulation(self) -> int:
        """Micro-batches of this epoch whose optimiser step was taken, as Lightning counts them.

        A run that ends in the middle of an accumulation, or of a batch, has counted micro-batches
        whose gradients are lost; Lightning would take its next step or validation too early.
        """
        assert self.trainer is not None
        fit_loop = self.trainer.fit_loop
        if not fit_loop.restarting:
            return 0
        progress: Any = fit_loop.epoch_loop.batch_progress
        total, current = progress.total, progress.current
        # Saved by a callback at the end of a batch, which Lightning counts after the callbacks.
        at_batch_end = total.completed == total.processed - 1 and total.processed == total.ready
        done = current.completed + int(at_batch_end)
        partial = done % self.trainer.accumulate_grad_batches
        if partial or not (at_batch_end or total.completed == total.ready):
            lost = partial - int(at_batch_end)
            for tracker in (current, total):
                count = tracker.completed - lost
                tracker.ready = tracker.started = tracker.processed = tracker.completed = count
        return done - partial

    def _eval_dataloader(self, name: str) -> DataLoader[Item]:
        assert self.trainer is not None
        return self.eval_loader(name, rank=self.trainer.global_rank, world=self.trainer.world_size)

    def _loader(
        self, dataset: Dataset[Item], batches: TrainBatches | EvalBatches
    ) -> DataLoader[Item]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # Starting workers would draw from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )


def _agrees(one: ShardDataset, index: int, least: float) -> bool:
    """Whether a sample has no estimated mask, or one that agrees at least so much."""
    provenance = one.metadata(index)["provenance"]
    if "mask" not in provenance:
        return True
    if "mask_agreement" not in provenance:
        raise ValueError(
            f"sample {one.keys[index]} of {one.folder} does not say how well its mask agrees; "
            "prepare it again or unset data.min_mask_agreement"
        )
    return float(provenance["mask_agreement"]) >= least
