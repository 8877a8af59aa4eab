"""Training in this process: signals in a validation, snapshots, and lines of progress."""

import logging
import re
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ProgressBar
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

from datamodules import RefocusDataModule
from genrefocus.backbone.lora import read_lora
from genrefocus.backbone.tiny import build_tiny
from genrefocus.data.sample import Sample
from genrefocus.data.shards import write_set
from genrefocus.runs import Interrupted
from genrefocus.terminal import Bars
from lit_models import DeblurNet
from lit_models.callbacks import BlurRange, Images, Interruption
from lit_models.checkpoints import Snapshots, WholeCheckpoints, read_checkpoint
from lit_models.progress import Progress

STEPS, EVERY, VALIDATED = 6, 2, 3

Train = Callable[..., tuple[DeblurNet, Trainer]]


class Signal(Callback):
    """Sends SIGTERM in the first batch of the validation after ``step``; counts their batches."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.batches: dict[int, int] = {}

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.sanity_checking:
            return
        step = trainer.global_step
        self.batches[step] = self.batches.get(step, 0) + 1
        if step == self.step and self.batches[step] == 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def shards(make_labelled: Callable[..., Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interruption")
    for split, count in (("train", 8), ("val", VALIDATED)):
        samples = [make(split, number) for number in range(count)]
        write_set(root / split, samples, parameters={"split": split}, samples_per_shard=8)
    return root


def make(split: str, number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    aif = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    return Sample(f"{split}-{number}", "deblur", split, aif=aif, bokeh=aif // 2)


@pytest.fixture
def train(shards: Path, tiny_settings: dict[str, Any], network_settings: dict[str, Any]) -> Train:
    """(folder, *callbacks) -> a network after all steps, from ``last.ckpt`` if there is one."""

    def run(
        folder: Path, *callbacks: Callback, val_samples: int | None = None
    ) -> tuple[DeblurNet, Trainer]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = build_tiny(**tiny_settings).requires_grad_(False)
        module = DeblurNet(backbone, failure_dir=folder, **network_settings)
        data = RefocusDataModule(
            train={"deblur": shards / "train"},
            weights={"deblur": 1.0},
            val=[shards / "val"],
            crop=32,
            batch_size=2,
            eval_batch_size=1,
            num_workers=0,
            seed=0,
            val_samples=val_samples,
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            callbacks=[EMAWeightAveraging(decay=0.5), *callbacks, Interruption(folder)],
            plugins=[WholeCheckpoints()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=any(isinstance(one, ProgressBar) for one in callbacks),
            default_root_dir=folder,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        checkpoint = folder / "last.ckpt"
        resumed = str(checkpoint) if checkpoint.is_file() else None
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
        return module, trainer

    return run


def weights(module: DeblurNet) -> dict[str, Tensor]:
    return module.lora.released_state()


def test_a_signal_in_a_validation_ends_it_within_a_batch_and_loses_no_step(
    train: Train, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    counted = Signal(None)
    whole, _ = train(tmp_path / "whole", counted)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert counted.batches == {2: VALIDATED, 4: VALIDATED, 6: VALIDATED}
    for step in (4, STEPS):
        sent = Signal(step)
        folder = tmp_path / f"killed_{step}"
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            train(folder, sent)
        assert sent.batches[step] == 1
        assert read_checkpoint(folder / "last.ckpt")["global_step"] == step
        if step < STEPS:
            resumed, _ = train(folder)
        else:  # nothing is left to train; the checkpoint holds averages
            resumed.load_state_dict(read_checkpoint(folder / "last.ckpt")["state_dict"])
        torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_no_validation_follows_the_checkpoint_of_a_signal(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class InTraining(Signal):
        def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    sent = InTraining(None)
    with pytest.raises(Interrupted):
        train(tmp_path, sent, Progress())
    assert sent.batches == {2: VALIDATED}  # none after step 3, where it stopped
    shown = capsys.readouterr().err
    assert f"/{STEPS} loss" in shown and not re.search("^validation", shown, re.MULTILINE)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


def test_the_newest_snapshots_and_the_best_are_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.7, 0.6, 0.3, 0.2, 0.4])
    monkeypatch.setattr("lit_models.checkpoints.lpips_available", lambda: False)

    class Measured(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, *args: Any) -> None:
            if not trainer.sanity_checking:
                self.log("val/ssim", next(values))

    monkeypatch.setattr(DeblurNet, "on_validation_epoch_end", lambda self: None)
    module, _ = train(tmp_path, Measured(), Snapshots(tmp_path / "snapshots", newest=2))
    files = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert files == [
        "best_ssim.safetensors",
        "step_0000004.safetensors",
        "step_0000006.safetensors",
    ]
    last = read_lora(tmp_path / "snapshots" / files[-1])
    torch.testing.assert_close(last, weights(module), rtol=0, atol=0)  # both are averages
    with safe_open(str(tmp_path / "snapshots" / files[0]), framework="pt") as best:
        assert best.metadata()["step"] == "4"
        assert float(best.metadata()["val/ssim"]) == pytest.approx(0.7)

    # A run that goes on with fewer validation samples, whose figures mean something else.
    train(tmp_path / "on", Measured(), Snapshots(tmp_path / "snapshots", newest=2), val_samples=1)
    found = {}
    for path in (tmp_path / "snapshots").glob("best*"):
        with safe_open(str(path), framework="pt") as best:
            found[path.stem] = best.metadata()["step"]
    assert found == {"best_ssim_at_4": "4", "best_ssim": "6"}


def test_a_narrow_terminal_shows_counts_and_times_whole() -> None:
    terminal = Console(width=80, file=StringIO(), force_terminal=True, color_system=None)
    bars = Bars(console=terminal)
    stage = bars.add_task("bokehnet_semi_supervised", total=40000, note="loss 0.0123, lr 3.3e-05")
    bars.update(stage, completed=12345)
    bars.add_task("validation", total=32)
    terminal.print(bars.get_renderable())
    first, second = terminal.file.getvalue().splitlines()
    assert re.search(r" 12345/40000 loss 0.0123.* 0:00:00 -:--:--$", first)
    assert re.search(r" 0/32 .* 0:00:00 -:--:--$", second)


def test_a_run_without_a_terminal_says_how_far_it_is(
    train: Train,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("genrefocus.terminal.EVERY", 0.0)
    monkeypatch.setattr("lit_models.progress._NOTED_EVERY", 0.0)
    with caplog.at_level(logging.INFO, "genrefocus.terminal"):
        train(tmp_path / "deblurnet", Progress())
    lines = [one.getMessage() for one in caplog.records if one.name == "genrefocus.terminal"]
    clock, number = r"\d:\d\d:\d\d", r"[\d.e+-]+"
    step = rf"deblurnet: {STEPS}/{STEPS}, {clock}, {clock} left, {number} a second"
    assert any(re.fullmatch(rf"{step}, loss {number}, lr {number}", x) for x in lines)
    held_out = "/".join(shards.parts[-2:]) + "/val"
    assert f"deblurnet: validation on {VALIDATED} samples of {held_out}" in lines
    assert any(x.startswith(f"validation: {VALIDATED}/{VALIDATED}, ") for x in lines)
    assert any(
        re.match(rf"deblurnet step {EVERY}: val/loss {number}, .*val/psnr ", x) for x in lines
    )
    shown = capsys.readouterr().err
    assert all(line in shown for line in lines)


@pytest.mark.parametrize("count", [1, 3])
def test_a_sheet_shows_strong_and_slight_blur_with_figures_and_no_column_twice(
    count: int,
    tiny_settings: dict[str, Any],
    network_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    sheet = SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr(
        "lit_models.callbacks.contact_sheet", lambda *given: drawn.append(given) or sheet
    )
    module: Any = DeblurNet(build_tiny(**tiny_settings), failure_dir=tmp_path, **network_settings)
    trainer: Any = SimpleNamespace(
        is_global_zero=True, sanity_checking=False, global_step=2, loggers=[]
    )
    images = Images(tmp_path, count=count)
    for radii in ([1.0, 0.2], [0.3, 4.0], [0.4, 3.9]):  # 2.6 px away from all others: 1.0
        aif = torch.full((2, 3, 8, 8), 0.5)
        batch = {"key": [f"at {one}" for one in radii], "prompt": ["", ""], "aif": aif}
        batch |= {"bokeh": aif + 0.1, "radius": torch.tensor(radii)}
        seen = {"batch": batch, "image": aif + 0.01}
        images.on_validation_batch_end(trainer, module, seen, batch, 0)  # type: ignore[arg-type]
    images.on_validation_epoch_end(trainer, module)
    _, titles, _, captions = drawn.pop()
    assert titles == ["input", "defocus map", "output", "target"]
    figures = ["psnr 20.00", "", "psnr 40.00"]
    rows = [[*figures, f"at {one}, mean blur {one} px"] for one in ("4.0", "1.0", "0.2")]
    assert list(captions) == rows[:count]


def test_the_largest_radius_goes_on_after_a_resume() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before, after = BlurRange(), BlurRange()
    assert before.radius(trainer) is None
    for value in (0.02, 0.125, 0.05):
        batch = {"defocus": torch.full((2, 1, 4, 4), value)}
        before.on_train_batch_end(trainer, None, None, batch, 0)  # type: ignore[arg-type]
    after.load_state_dict(before.state_dict())
    assert after.radius(trainer) == pytest.approx(12.5)
