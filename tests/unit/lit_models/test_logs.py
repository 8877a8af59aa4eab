"""Figures of training in the logs: loss, loss by sigma, norm of the gradient, speed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader

from genrefocus.backbone.tiny import build_tiny
from lit_models import DeblurNet, throughput
from lit_models.loss_meter import LossMeter
from lit_models.throughput import PEAK_FLOPS, Throughput, peak_flops

SAMPLES, STEPS = 4, 6  # samples of a step
TOKENS = 8 + 16 + 16  # words, image, condition

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*HeldOutLoss.*was called before"),
    pytest.mark.filterwarnings("ignore:.*isn't stateful"),
]

Train = Callable[..., tuple[dict[int, dict[str, float]], DeblurNet]]


class Memory(Logger):
    """Rows of figures by step."""

    name = version = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step + 1, {}).update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class Pairs(LightningDataModule):
    """Micro-batches of random pairs in a fixed order, from the step that training is at."""

    def __init__(self, rows: int, wait: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.rows, self.wait = rows, wait

    def _batch(self, first: int, rows: int) -> dict[str, Any]:
        draws = list(range(first, first + rows))
        generators = [torch.Generator().manual_seed(n) for n in draws]
        images = torch.stack([torch.rand(2, 3, 32, 32, generator=g) for g in generators])
        names = {"key": [f"{n}" for n in draws], "route": ["deblur"] * rows, "draw": draws}
        return {**names, "prompt": [None] * rows, "aif": images[:, 0], "bokeh": images[:, 1]}

    def _batches(self, first: int) -> Iterator[dict[str, Any]]:
        for draw in range(first, (STEPS + 1) * SAMPLES, self.rows):
            self.wait()
            yield self._batch(draw, self.rows)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        batches = self._batches(self.trainer.global_step * SAMPLES)
        return DataLoader(Stream(batches), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self._batch(1000, 1)], batch_size=None)  # type: ignore[arg-type]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self.batches


@pytest.fixture
def train(tiny_settings: dict[str, Any], network_settings: dict[str, Any], tmp_path: Path) -> Train:
    """(*callbacks, rows, every, **settings of the trainer) -> rows of the log, the module."""

    def run(
        *callbacks: Callback,
        rows: int = SAMPLES,
        every: int = 2,
        resumed: Path | None = None,
        wait: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> tuple[dict[int, dict[str, float]], DeblurNet]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = build_tiny(**tiny_settings).requires_grad_(False)
        module = DeblurNet(backbone, failure_dir=tmp_path, **network_settings)
        log = Memory()
        given = {"max_steps": STEPS, "limit_val_batches": 0, "gradient_clip_val": 1.0, **settings}
        trainer = Trainer(
            accelerator="cpu",
            accumulate_grad_batches=SAMPLES // rows,
            log_every_n_steps=every,
            logger=log,
            callbacks=list(callbacks),
            check_val_every_n_epoch=None,
            enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            **given,
        )
        trainer.fit(module, datamodule=Pairs(rows, wait), ckpt_path=resumed, weights_only=True)
        return log.rows, module

    return run


def of_training(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("train/")}


class Seen(Callback):
    """Losses of all micro-batches, and norms of the gradients before they are clipped."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.norms.append(float(get_total_norm([p.grad for p in module.lora.parameters()])))


def test_the_loss_is_that_of_the_whole_step_however_it_is_cut(train: Train) -> None:
    whole, cut = Seen(), Seen()
    one, _ = train(whole, rows=4, every=1)
    four, _ = train(cut, rows=1, every=1)
    assert list(one) == list(four) == list(range(1, STEPS + 1))
    steps = np.reshape(cut.losses, (STEPS, 4))
    last = steps[:, -1] / steps.mean(1)
    assert (abs(last - 1) > 1e-3).any()  # that of the last micro-batch would be another figure
    for step, row in one.items():
        assert four[step]["train/loss"] == pytest.approx(steps[step - 1].mean(), rel=1e-6)
        assert row["train/loss"] == pytest.approx(whole.losses[step - 1], rel=1e-6)
        assert of_training(four[step]) == pytest.approx(of_training(row), rel=1e-3)


def test_the_loss_by_sigma_is_a_histogram_over_steps_and_ranks() -> None:
    rng = np.random.default_rng(0)
    meters = [LossMeter(), LossMeter()]
    losses, sigma = rng.random((2, 3, 2, 5)), 1 - rng.random((2, 3, 2, 5)) ** 2 / 2
    sigma[0, 0, 0, 0] = 1.0
    losses, sigma = losses.astype(np.float32), sigma.astype(np.float32)  # [rank, step, micro-batch]
    for step in range(3):
        parts: list[Tensor] = []
        for rank, meter in enumerate(meters):
            for batch in range(2):
                pair = (losses[rank, step, batch], sigma[rank, step, batch])
                meter.see(*(torch.from_numpy(one) for one in pair))
        meters[1].end_step(lambda own, parts=parts: parts.append(own) or own)
        mean = meters[0].end_step(lambda own, parts=parts: own + parts[0])
        assert float(mean) == pytest.approx(losses[:, step].mean(), rel=1e-6)
    edges = [0, 0.25, 0.5, 0.75, 1]
    counts, _ = np.histogram(sigma, edges)
    sums, _ = np.histogram(sigma, edges, weights=losses)
    assert counts[:2].tolist() == [0, 0] and counts.sum() == 60
    resumed = LossMeter()
    resumed.load(meters[0].state())
    expected = {"0.5_0.75": sums[2] / counts[2], "0.75_1": sums[3] / counts[3]}
    assert meters[0].by_sigma() == resumed.by_sigma() == pytest.approx(expected, rel=1e-6)
    assert meters[0].by_sigma() == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_clip_val": 1e-3},
        {"gradient_clip_val": None},
        {"gradient_clip_val": 1e-5, "gradient_clip_algorithm": "value"},
    ],
)
def test_the_norm_is_that_of_the_gradient_before_it_is_clipped(
    train: Train, settings: dict[str, Any]
) -> None:
    class Clipped(Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            grads = [p.grad for p in module.lora.parameters() if p.grad is not None]
            if grads:
                norms.append(float(get_total_norm(grads)))
                largest.append(max(float(grad.abs().max()) for grad in grads))

    seen, norms, largest = Seen(), [], []  # type: ignore[var-annotated]
    log, _ = train(seen, Clipped(), rows=2, every=1, **settings)
    assert [row["train/grad_norm"] for row in log.values()] == pytest.approx(seen.norms, rel=1e-6)
    assert min(seen.norms) > 1e-3
    if settings["gradient_clip_val"] is None:
        assert norms == pytest.approx(seen.norms[: len(norms)], rel=1e-6)
    elif "gradient_clip_algorithm" in settings:
        assert max(largest) <= 1e-5
    else:
        assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)


def test_a_resumed_run_goes_on_with_the_same_figures(train: Train, tmp_path: Path) -> None:
    whole, _ = train(rows=2)
    assert list(whole) == [2, 4, 6]
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3)
    first, _ = train(saved, rows=2, max_steps=3)
    rest, _ = train(rows=2, resumed=tmp_path / "step=3.ckpt")
    assert list(first) == [2] and list(rest) == [4, 6]
    for step, row in whole.items():
        assert of_training((first | rest)[step]) == of_training(row)
    assert any(name.startswith("train/loss_sigma_") for name in rest[4])


def test_the_speed_is_that_of_steps_without_validations_and_checkpoints(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro-batch takes 2 s, and waits 0.5 s for its data; the clock is a number."""
    clock = [0.0]

    def passes(seconds: float) -> None:
        clock[0] += seconds

    class Slow(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            passes(1000.0 if trainer.global_step == 0 else 2.0)

        def on_validation_batch_start(self, *args: Any) -> None:
            passes(300.0)

        def on_save_checkpoint(self, *args: Any) -> None:
            passes(70.0)

    monkeypatch.setattr(throughput, "perf_counter", lambda: clock[0])
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=3)
    speed = Throughput(peak_flops=1e9)
    settings = {"val_check_interval": 5 * 2, "limit_val_batches": 1}  # after step 5
    log, module = train(
        speed,
        Slow(),
        saved,
        rows=2,
        wait=lambda: passes(0.5),
        **settings,  # type: ignore[arg-type]
    )
    # Of the first step nothing counts; a pause takes the wait for the data after it along.
    seconds = {2: 1 * 2 * 2.5, 4: 2 * 2 * 2.5 - 0.5, 6: 2 * 2 * 2.5 - 0.5}
    steps = {2: 1, 4: 2, 6: 2}
    flops = module.work.flops / STEPS
    for step, row in log.items():
        if "train/mfu" not in row:
            continue
        samples = SAMPLES * steps.pop(step)
        assert row["train/samples_per_second"] == pytest.approx(samples / seconds[step])
        assert row["train/tokens_per_second"] == pytest.approx(samples * TOKENS / seconds[step])
        used = flops * samples / SAMPLES / seconds[step]
        assert row["train/mfu"] == pytest.approx(used / 1e9, rel=1e-5)
    assert steps == {}
    assert speed.samples == STEPS * SAMPLES


def test_the_count_of_flops_changes_no_step(train: Train) -> None:
    _, plain = train(rows=2)
    _, counted = train(Throughput(peak_flops=1e9), rows=2)
    assert counted.work.flops > 0 == plain.work.flops
    for one, other in zip(plain.lora.parameters(), counted.lora.parameters(), strict=True):
        assert torch.equal(one, other)


def test_there_is_no_mfu_where_the_peak_is_not_known(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, module = train(Throughput(), rows=2)
    assert "train/tokens_per_second" in log[4] and "train/mfu" not in log[4]
    assert module.work.flops == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    part = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    for name in ("NVIDIA H100 80GB HBM3", part, "NVIDIA GeForce RTX 4090 Laptop GPU", "Another"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == PEAK_FLOPS.get(name)
    assert part not in PEAK_FLOPS and PEAK_FLOPS["NVIDIA H100 80GB HBM3"] == 989.5e12
