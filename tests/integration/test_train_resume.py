"""Real runs of train.py: a killed and resumed run equals an uninterrupted one, bit for bit."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from genrefocus.backbone.flux import build_tiny, save_tiny
from genrefocus.backbone.lora import read_lora

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, Any]) -> list[str]:
    folder = tmp_path_factory.mktemp("resume")
    base = folder / "base.safetensors"
    save_tiny(build_tiny(**tiny_settings), base, settings=tiny_settings, card={})
    counts = (
        "{deblur:{train:12,val:2,test:2},synthetic:{train:2,val:2,test:2},"
        "sweep:{val:2,test:2},camera_roll:{train:2}}"
    )
    return [
        "experiment=deblur",
        f"backbone.path={base}",
        f"paths.data={folder}/data",
        f"+data.build.counts={counts}",
        "data.build.size=32",
        "data.build.workers=0",
        "data.crop=32",
        "print_config=false",
        "trainer.log_every_n_steps=1",
        "stages.deblurnet.module.rank=4",
        "stages.deblurnet.datamodule.batch_size=2",
        f"stages.deblurnet.fit.max_steps={STEPS}",
        "stages.deblurnet.fit.accumulate_grad_batches=2",
        "stages.deblurnet.fit.val_check_interval=8",
        "callbacks.checkpoint.every_n_train_steps=1",
        "~callbacks.progress",
    ]


def command(overrides: list[str], outputs: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides, f"paths.outputs={outputs}", *more]


def run_folder(outputs: Path) -> Path:
    (folder,) = (outputs / "deblur").iterdir()  # one folder, also after a resume
    return folder / "deblurnet"


def result(outputs: Path) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
    """LoRA tensors, and the loss of every step as it was written."""
    stage = run_folder(outputs)
    losses: dict[int, str] = {}
    for log in sorted((stage / "logs").glob("metrics*.csv")):
        for row in csv.DictReader(log.open()):
            if row.get("train/loss"):
                losses[int(row["step"])] = row["train/loss"]
    return read_lora(stage / "deblurNet.safetensors"), losses


def interrupt(overrides: list[str], outputs: Path, number: int, after: int) -> int:
    """Start a run and send it a signal once its checkpoint has ``after`` steps."""
    process = subprocess.Popen(command(overrides, outputs), start_new_session=True)
    try:
        while process.poll() is None:
            found = list(outputs.glob("deblur/*/deblurnet/last.ckpt"))
            if found and torch.load(found[0], weights_only=True)["global_step"] >= after:
                os.killpg(process.pid, number)
                return process.wait(120)
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            process.kill()
    raise AssertionError("the run ended before it could be interrupted")


@pytest.fixture(scope="module")
def uninterrupted(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("whole")
    subprocess.run(command(overrides, outputs), check=True, timeout=300)
    return outputs


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_interrupted_run_equals_uninterrupted(
    overrides: list[str], uninterrupted: Path, tmp_path: Path, number: int, status: int
) -> None:
    assert interrupt(overrides, tmp_path, number, after=3) == status
    subprocess.run(command(overrides, tmp_path, "resume=latest"), check=True, timeout=300)
    lora, losses = result(tmp_path)
    expected_lora, expected_losses = result(uninterrupted)
    assert any(tensor.abs().max() > 0 for key, tensor in lora.items() if "lora_B" in key)
    assert lora.keys() == expected_lora.keys()
    assert all(torch.equal(lora[key], expected_lora[key]) for key in lora)
    shared = losses.keys() & expected_losses.keys()
    assert max(shared) == STEPS - 1
    assert {step: losses[step] for step in shared} == {s: expected_losses[s] for s in shared}


def test_finished_stage_is_not_repeated(overrides: list[str], uninterrupted: Path) -> None:
    stage = run_folder(uninterrupted)
    before = (stage / "last.ckpt").stat().st_mtime_ns
    subprocess.run(command(overrides, uninterrupted, "resume=latest"), check=True, timeout=300)
    assert (stage / "last.ckpt").stat().st_mtime_ns == before
    summary = json.loads((stage / "summary.json").read_text())
    assert {"psnr", "ssim"} <= summary["metrics"].keys() & summary["identity"].keys()


def test_other_settings_are_refused(overrides: list[str], tmp_path: Path) -> None:
    interrupt(overrides, tmp_path, signal.SIGKILL, after=1)
    changed = [*overrides, "stages.deblurnet.module.guidance=2.0", "resume=latest"]
    again = subprocess.run(
        command(changed, tmp_path), capture_output=True, text=True, check=False, timeout=300
    )
    assert again.returncode == 2
    assert "module.guidance was 1.0, is 2.0" in again.stderr
