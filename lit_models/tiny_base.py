"""The base weights of the tiny backbone: generic edits, learnt from scratch with all weights."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchmetrics import MeanMetric

from genrefocus.backbone.tiny import (
    TinyBackbone,
    save_tiny,
    start_local,
    start_whitened,
)
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.flow import Flow
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.tally import Tally
from genrefocus.noise import seeded_generators
from genrefocus.world.pretext import PretextBatch, draw_task, measure, restore, restore_by_map
from lit_models.training import Batch, OptimizerFactory, TrainingModule

VALIDATED = {
    "restore": restore,
    "restore_by_map": restore_by_map,
    "measure": measure,
}

# Streams of random numbers beside those of the draws themselves, which count from 0.
_OF_BATCHES, _OF_VALIDATION = 1 << 40, 1 << 41


class TinyBase(TrainingModule):
    """Training of a tiny backbone on the tasks of :mod:`genrefocus.world.pretext`.

    A micro-batch over all ranks has one kind of task; everything else is drawn sample by sample, so
    that ranks see together what one process would.

    The backbone is no submodule: checkpoints and EMA see its trainable parts alone.

    Args:
        backbone: from ``build_tiny``; its weights are initialised here.
        examples: (B, 3, H, W) in [0, 1], images whose statistics the embedding starts with.
        flow: path and parametrisation.
        full_noise_share: share of samples at sigma = 1, where one-step sampling starts; sigma of
            the others is uniform on (0, 1].
        optimizer: factory over parameters.
        warmup_steps, decay_steps, rate_floor: of the learning rate, see ``warmup_then_cosine``.
        fp32_from_step: the trainer's mixed precision, where it has one, ends at this step.
        attention: name of a ``torch.nn.attention.SDPBackend`` for training, or None for torch's
            own choice.
        seed: of tasks, sigma and noise.
        failure_dir: where the keys of a batch with a non-finite loss are written.

    Raises:
        ValueError: an unknown attention backend.
    """

    def __init__(
        self,
        backbone: TinyBackbone,
        examples: Tensor,
        *,
        flow: Flow,
        full_noise_share: float,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        decay_steps: int,
        rate_floor: float,
        fp32_from_step: int,
        attention: str | None,
        seed: int,
        failure_dir: str | Path = ".",
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            rate_floor=rate_floor,
            failure_dir=failure_dir,
            remedy="Lower the learning rate, or train in fp32 (trainer.precision=32-true).",
        )
        self.weights = backbone.transformer
        start_local(backbone.transformer)
        start_whitened(backbone, examples)
        self._backbone = (backbone,)  # in a tuple, so that it does not become a submodule
        self.denoiser = Denoiser(backbone, flow)
        self.full_noise_share = full_noise_share
        self.fp32_from_step = fp32_from_step
        self.attention = None if attention is None else _attention(attention)
        self.seed = seed
        self.errors: Any = nn.ModuleDict(
            {
                name: nn.ModuleDict({"output": Tally(psnr), "input": Tally(psnr)})
                for name in VALIDATED
            }
        )
        self.held_out_loss = MeanMetric()

    def save(self, path: str | Path, *, settings: dict[str, Any], card: dict[str, str]) -> None:
        """Write the weight file; see :func:`genrefocus.backbone.tiny.save_tiny`."""
        save_tiny(self._backbone[0], path, settings=settings, card=card)

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        return self.weights.parameters()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        first = batch["draw"][0] - self.global_rank * len(batch["draw"])
        (generator,) = seeded_generators(self.seed, [_OF_BATCHES + first])
        kind = draw_task(generator)
        generators = seeded_generators(self.seed, batch["draw"])
        with self._fp32():
            task = kind(batch["image"], batch["layers"], generators)
        full, uniform = torch.stack([torch.rand(2, generator=g) for g in generators]).T
        sigma = torch.where(full < self.full_noise_share, 1.0, 1 - uniform)
        precision = self._fp32() if self.global_step >= self.fp32_from_step else nullcontext()
        attention = nullcontext() if self.attention is None else sdpa_kernel(self.attention)
        conditions = _conditions(task)
        with precision, attention, self.work.forward(conditions.shapes):
            latents = self.denoiser.encode(conditions, generators, task.target)
            losses = self.denoiser.loss(latents, sigma)
        return self.log_loss(losses, sigma, latents, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One-step edits beside their inputs, and the loss with each scene at one of 8 sigmas."""
        draws = batch["draw"]
        sigma = torch.tensor([(n % 8 + 0.5) / 8 for n in draws])
        with self._fp32():
            for name, kind in VALIDATED.items():
                generators = seeded_generators(self.seed, [_OF_VALIDATION + n for n in draws])
                task = kind(batch["image"], batch["layers"], generators)
                conditions = _conditions(task)
                output = self.denoiser.sample(self.denoiser.encode(conditions, generators), 1)
                self.errors[name]["output"].update(output, task.target)
                self.errors[name]["input"].update(task.source, task.target)
                latents = self.denoiser.encode(conditions, generators, task.target)
                self.held_out_loss.update(self.denoiser.loss(latents, sigma))

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.held_out_loss.compute(), sync_dist=False)
        self.held_out_loss.reset()
        for name, pair in self.errors.items():
            output, untouched = (float(pair[key].compute().mean) for key in ("output", "input"))
            self.log(f"val/{name}_gain", output - untouched, sync_dist=False)
            for metric in pair.values():
                metric.reset()

    def _fp32(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, enabled=False)


def _conditions(task: PretextBatch) -> Conditions:
    return Conditions([task.prompt] * len(task.source), task.source, task.control, task.draft)


def _attention(name: str) -> SDPBackend:
    try:
        return SDPBackend.__members__[name.upper()]
    except KeyError:
        known = ", ".join(one.lower() for one in SDPBackend.__members__ if one != "ERROR")
        raise ValueError(f"attention '{name}' unknown: use null or one of {known}") from None
