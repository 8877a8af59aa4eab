"""Seconds and samples of training, and its speed in the logs."""

from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import Throughput as Rates

from lit_models.training import TrainingModule, log_once, logs_at

#: FLOP/s of dense bf16 matrix products with fp32 sums, by the name that CUDA gives the device.
#: From NVIDIA's datasheets (data centre) and architecture whitepapers (GA102, AD102, GB202), halved
#: where those state figures with sparsity. Lightning's own table mixes both kinds.
PEAK_FLOPS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA H200": 989.5e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA H100 80GB HBM3": 989.5e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A10": 125e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA RTX 6000 Ada Generation": 364.2e12,
    "NVIDIA RTX A6000": 154.8e12,
    "NVIDIA GeForce RTX 5090": 209.5e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GeForce RTX 3090": 71e12,
}
_LOGGED = {
    "device/samples_per_sec": "train/samples_per_second",
    "device/items_per_sec": "train/tokens_per_second",
    "device/mfu": "train/mfu",
}


class Throughput(Callback):
    """Times training, without validations and checkpoints, and logs its speed over all ranks.

    A speed is that of the steps since the last log. The first step of a process is left out, for
    it sets things up. Must come before callbacks that save a checkpoint after a step.

    Args:
        peak_flops: of one device, FLOP/s; None takes it from ``PEAK_FLOPS``. There is no
            ``train/mfu`` for a device that is not in it.

    Attributes:
        seconds: of training in this process, waits for data included.
        samples: that went through it, over all ranks.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self.seconds, self.samples = 0.0, 0
        self._since: float | None = None  # when the time began that is not in seconds yet
        self._rates: Rates | None = None
        self._totals, self._own, self._steps = [0, 0, 0], [0, 0, 0], 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.peak_flops is None:
            self.peak_flops = peak_flops(trainer.strategy.root_device)
        assert isinstance(pl_module, TrainingModule)
        pl_module.work.counts_flops = self.peak_flops is not None

    def on_train_batch_start(self, *args: Any) -> None:
        if self._since is None:
            self._since = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.samples += len(batch["key"]) * trainer.world_size
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._steps += ends_step
        reads = ends_step and (self._rates is None or logs_at(trainer, trainer.global_step))
        work = self._over_ranks(trainer, pl_module) if reads else None  # waits for the device
        now, before = perf_counter(), self._since
        assert before is not None
        self.seconds += now - before
        self._since = now
        if work is not None:
            log_once(trainer, self._speed(work, trainer.world_size), trainer.global_step)

    def on_save_checkpoint(self, *args: Any) -> None:
        self._since = None

    def on_validation_start(self, *args: Any) -> None:
        self._since = None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.samples = state_dict["seconds"], state_dict["samples"]

    def _over_ranks(self, trainer: Trainer, module: TrainingModule) -> list[int]:
        """Samples, tokens and FLOPs of all ranks since the last time."""
        work = [module.work.samples, module.work.tokens, module.work.flops]
        own = [float(now - before) for now, before in zip(work, self._own, strict=True)]
        self._own = work
        added = torch.tensor(own, device=trainer.strategy.root_device)
        return [int(one) for one in trainer.strategy.reduce(added, reduce_op="sum").tolist()]

    def _speed(self, work: list[int], world: int) -> dict[str, float]:
        """Figures by name. All ranks together are one device to Lightning."""
        if self._rates is None:
            peak = None if self.peak_flops is None else self.peak_flops * world
            self._rates = Rates(available_flops=peak, window_size=2)
        self._totals = [one + more for one, more in zip(self._totals, work, strict=True)]
        samples, tokens, _ = self._totals
        self._rates.update(
            time=self.seconds, batches=self._steps, samples=samples, lengths=tokens, flops=work[2]
        )
        return {_LOGGED[k]: one for k, one in self._rates.compute().items() if k in _LOGGED}


def peak_flops(device: torch.device) -> float | None:
    """From ``PEAK_FLOPS``; None for a device that is not in it, such as a part of a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return PEAK_FLOPS.get(torch.cuda.get_device_name(device))
