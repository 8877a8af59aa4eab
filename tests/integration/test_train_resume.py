"""Real runs of train.py: a killed and resumed run equals an uninterrupted one, bit for bit."""

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genrefocus.backbone.lora import read_lora
from genrefocus.cli import main
from genrefocus.cli.verify_resume import compare, finish, interrupt, read_trace, start
from genrefocus.data.order import GlobalOrder

STAGE = "deblurnet"
STEPS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def overrides(tiny_training: list[str]) -> list[str]:
    return [
        *tiny_training,
        "stages.deblurnet.datamodule.batch_size=2",
        "stages.deblurnet.module.told=0.5",
        f"stages.deblurnet.fit.max_steps={STEPS}",
        "global_batch=4",
        "callbacks.checkpoint.every_n_train_steps=1",
        "~callbacks.progress",
    ]


def run_folder(outputs: Path) -> Path:
    (folder,) = (outputs / "deblur").iterdir()  # one folder, also after a resume
    return folder / STAGE


def logged_losses(outputs: Path) -> dict[int, str]:
    """The loss of every step as the csv log has it; a repeated step has what it had before."""
    losses: dict[int, str] = {}
    with (run_folder(outputs) / "logs" / "metrics.csv").open() as log:
        for row in csv.DictReader(log):
            if row["train/loss"]:
                assert losses.setdefault(int(row["step"]), row["train/loss"]) == row["train/loss"]
    return losses


@pytest.fixture(scope="module")
def uninterrupted(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("whole") / "run"
    finish(overrides, outputs)
    return outputs


def test_samples_come_in_the_global_order(uninterrupted: Path) -> None:
    keys = read_trace(uninterrupted, STAGE).keys
    assert [n for draws in keys for n in draws] == list(range(STEPS * 2 * 2))
    order = GlobalOrder({"deblur": 12}, {"deblur": 1.0}, seed=42)
    expected = [f"train-{order.draw(n).index:06d}" for n in range(STEPS * 2 * 2)]
    assert [key for batch in keys.values() for key in batch] == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_interrupted_run_equals_uninterrupted(
    overrides: list[str], uninterrupted: Path, tmp_path: Path, number: int, status: int
) -> None:
    outputs = tmp_path / "run"
    assert interrupt(overrides, outputs, STAGE, after=3, number=number) == status
    assert not (run_folder(outputs) / "summary.json").exists()
    finish([*overrides, "resume=latest"], outputs)
    whole, resumed = read_trace(uninterrupted, STAGE), read_trace(outputs, STAGE)
    assert len(whole.losses) == STEPS * 2
    assert list(compare(whole, resumed).values()) == [None, None, None]
    assert logged_losses(outputs) == logged_losses(uninterrupted)
    assert len(logged_losses(outputs)) == STEPS


def test_a_difference_is_found(uninterrupted: Path) -> None:
    whole = read_trace(uninterrupted, STAGE)
    draws = next(iter(whole.losses))
    name = next(iter(whole.lora))
    changed = [
        replace(whole, keys={**whole.keys, draws: ["another", "another"]}),
        replace(whole, losses={**whole.losses, draws: [*whole.losses[draws], 0.0]}),
        replace(whole, lora={**whole.lora, name: whole.lora[name] + 1e-6}),
    ]
    for place, other in enumerate(changed):
        differs = [one is not None for one in compare(whole, other).values()]
        assert differs == [place == 0, place == 1, place == 2]


def test_finished_stage_is_not_repeated(overrides: list[str], uninterrupted: Path) -> None:
    stage = run_folder(uninterrupted)
    before = {path: path.stat().st_mtime_ns for path in stage.rglob("*") if path.is_file()}
    finish([*overrides, "resume=latest"], uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in stage.rglob("*") if path.is_file()} == before
    assert "nothing was trained" in uninterrupted.with_suffix(".log").read_text()
    result = json.loads((stage.parent / "result.json").read_text())
    assert {"psnr", "ssim"} <= result["figures"].keys() & result["references"]["identity"].keys()


def test_other_settings_are_refused(
    overrides: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "run"
    shutil.copytree(uninterrupted, outputs)
    (run_folder(outputs) / "summary.json").unlink()
    changed = [*overrides, "stages.deblurnet.module.guidance=2.0", "resume=latest"]
    assert start(changed, outputs).wait(300) == 2
    assert "module.guidance was 1.0, is 2.0" in outputs.with_suffix(".log").read_text()


def test_a_loss_that_is_not_finite_leaves_the_keys_of_its_batch(
    overrides: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    broken = read_lora(run_folder(uninterrupted) / "deblurNet.safetensors")
    name = next(name for name in broken if "lora_B" in name)
    broken[name] = torch.full_like(broken[name], float("nan"))
    save_file(broken, tmp_path / "broken.safetensors")
    outputs = tmp_path / "run"
    given = f"stages.deblurnet.module.init_lora={tmp_path}/broken.safetensors"
    assert start([*overrides, given], outputs).wait(300) != 0
    (report,) = run_folder(outputs).glob("non_finite_loss*")
    first, *keys = report.read_text().splitlines()
    assert first.startswith("loss nan")
    assert keys == next(iter(read_trace(uninterrupted, STAGE).keys.values()))
    assert report.name in outputs.with_suffix(".log").read_text().replace("\n", "")


def test_verify_resume_command(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--steps", "6", "--kill-at", "2", "--keep", str(tmp_path / "kept")]
    assert main(["verify-resume", *kept, *(one for one in overrides if one[0] != "~")]) == 0
    assert capsys.readouterr().out.count("equal") == 3
    assert main(["verify-resume", "--steps", "2", "--kill-at", "2"]) == 2
    assert main(["verify-resume", "nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("debug", ["fdr", "overfit", "profiler"])
def test_every_look_at_a_run_trains_and_measures(
    tiny_training: list[str], tmp_path: Path, debug: str
) -> None:
    few = ["stages.deblurnet.fit.max_steps=2", "stages.deblurnet.fit.val_check_interval=2"]
    given = [one for one in tiny_training if not one.startswith("stages.deblurnet.fit")]
    finish([*given, *few, f"debug={debug}", "~callbacks.progress"], tmp_path / "run")
    summary = json.loads((run_folder(tmp_path / "run") / "summary.json").read_text())
    assert summary["steps"] == (1 if debug == "fdr" else 2)
    result = run_folder(tmp_path / "run").parent / "result.json"
    assert json.loads(result.read_text())["figures"]["psnr"] > 0
