"""Stages of a run: which settings may change when it is resumed, and where it may be moved."""

import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import train  # registers the resolvers that the configurations use
from genrefocus.data.processes import ordered_map
from genrefocus.runs import StageRecord
from lit_models.stages import Stage, build_stages


@pytest.fixture
def stage(repo_root: Path, tmp_path: Path) -> Iterator[Callable[..., StageRecord]]:
    """The record of the first stage of a run in ``tmp_path``, or elsewhere, with overrides."""

    def composed(
        *overrides: str, run: Path = tmp_path / "run", name: str = "deblurnet"
    ) -> StageRecord:
        given = [f"paths.run={run}", "paths.data=/data", *overrides]
        config = compose("train", overrides=[*given, f"curriculum=[{name}]"])
        return build_stages(config, run)[0].record

    with initialize_config_dir(str(repo_root / "conf"), version_base=None):
        yield composed


COSTS = [
    "data.num_workers=3",
    "data.eval_batch_size=1",
    "+backbone.checkpointing=all",
    "backbone.compile=true",
    "stages.deblurnet.datamodule.batch_size=4",
    "stages.deblurnet.fit.val_check_interval=7",
    "+stages.deblurnet.fit.limit_val_batches=2",
    "callbacks.checkpoint.every_n_train_steps=7",
    "trainer=fsdp_cpu",
    "trainer.accelerator=gpu",
    "trainer.log_every_n_steps=1",
    "logger=tensorboard",
    "~callbacks.progress",
]
OTHERS = {
    "seed=7": "{part}.seed was 42, is 7",
    "learning_rate=0.1": "module.optimizer.lr was 0.001, is 0.1",
    "stages.deblurnet.fit.max_steps=9": "fit.max_steps was 450, is 9",
    "stages.deblurnet.module.decay_steps=9": "module.decay_steps was 450, is 9",
    "global_batch=8": "global_batch was 16, is 8",
    "trainer.precision=bf16-mixed": "trainer.precision was 32-true, is bf16-mixed",
    "trainer.gradient_clip_val=2": "trainer.gradient_clip_val was 1.0, is 2",
    "callbacks.ema.decay=0.5": "callbacks.ema.decay was 0.99, is 0.5",
    "backbone.path=/other": "backbone.path was <checkout>/weights/tiny_base.safetensors, is /other",
    "stages.deblurnet.datamodule.train.deblur=/other": (
        "datamodule.train.deblur was /data/embedded/deblur/train, is /other"
    ),
}
OTHERS_SAID = {
    said.format(part=part) for said in OTHERS.values() for part in ("module", "datamodule")
}


def test_what_changes_the_training_is_refused_and_what_costs_is_not(
    stage: Callable[..., StageRecord],
) -> None:
    first, cheaper, another = stage(), stage(*COSTS), stage(*OTHERS)
    another.require_same_settings()  # as nothing was begun
    assert not first.folder.exists()
    first.begin()
    for finished in (False, True):
        if finished:
            first.write_summary()
        written = {path: path.read_bytes() for path in first.folder.iterdir()}
        cheaper.require_same_settings()
        with pytest.raises(ValueError, match="begun with other settings: ") as refused:
            another.require_same_settings()
        said = str(refused.value).partition("settings: ")[2].partition("; restore")[0]
        assert set(re.split(r", (?=\S+ was )", said)) == OTHERS_SAID
        assert {path: path.read_bytes() for path in first.folder.iterdir()} == written


def test_a_run_may_be_moved_and_reached_through_a_link(
    stage: Callable[..., StageRecord], tmp_path: Path
) -> None:
    name = "bokehnet_semi_supervised"  # starts from files of earlier stages
    stage(name=name).begin()
    moved, link = tmp_path / "elsewhere" / "run", tmp_path / "link"
    shutil.move(tmp_path / "run", moved)
    link.symlink_to(moved)
    for run in (moved, link):
        stage(name=name, run=run).require_same_settings()
    with pytest.raises(ValueError, match="init_lora was <run>/.*, is /another"):
        stage("inputs.bokeh_lora=/another", name=name, run=moved).require_same_settings()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_data_are_made_ends_a_run_in_one_line(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def making(config: DictConfig) -> None:
        with ordered_map(2) as mapper:
            for one, _ in enumerate(mapper(time.sleep, [0.2] * 8)):  # both workers have begun
                if one == 5:
                    for worker in multiprocessing.active_children():  # as of a batch system
                        os.kill(worker.pid or 0, number)
                    signal.raise_signal(number)

    monkeypatch.setattr(train, "run", making)
    monkeypatch.setattr(train, "is_cell", lambda: False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "a={b: 1}", "resume=latest"])
    before = signal.getsignal(signal.SIGTERM)
    # A shell that starts the tests in its background has them ignore SIGINT.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            train.guarded(OmegaConf.create({"paths": {"run": "/runs/a"}}))
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert ended.value.code == 128 + number
    said, errors = capfd.readouterr()
    again = "python train.py 'a={b: 1}' resume=/runs/a"
    assert said == f"stopped by {number.name}; to go on:\n  {again}\n" and not errors


def test_what_lightning_says_of_itself_is_not_shown() -> None:
    talker = logging.getLogger("lightning.pytorch.utilities.rank_zero")  # "GPU available: ..."
    assert talker.getEffectiveLevel() == logging.WARNING


class CountToThree(Stage):
    """A stage of one key, as an example."""

    def __init__(self, *, start: int, **place: Any) -> None:
        super().__init__(**place)
        self.start = start

    def prompts(self) -> set[str]:
        return set()

    def run(self, backbone: Any, ranks: Any) -> None:
        self.record.write_summary(counted=list(range(self.start, 4)))


def test_a_stage_is_a_class_that_the_configuration_names(repo_root: Path, tmp_path: Path) -> None:
    given = [f"paths.run={tmp_path}", "curriculum=[count]"]
    given.append(
        "+stages.count={_target_: tests.unit.lit_models.test_stages.CountToThree, start: 2}"
    )
    with initialize_config_dir(str(repo_root / "conf"), version_base=None):
        (stage,) = build_stages(compose("train", overrides=given), tmp_path)
    stage.record.begin()
    assert not stage.record.finished()
    stage.run(None, None)
    assert stage.record.finished()
    assert json.loads((tmp_path / "count/summary.json").read_text())["counted"] == [2, 3]
