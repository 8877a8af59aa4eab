"""Trackers: a failure is said once and does no more harm; csv rows survive a resume."""

import csv
import shlex
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from lit_models.trackers import FaultTolerantLogger, csv_logger, wandb_logger


class Offline(CSVLogger):
    """A tracker whose server has gone away."""

    calls = 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        raise ConnectionError("no route to host")


def test_a_failing_tracker_warns_once_and_is_left_out(tmp_path: Path) -> None:
    logger = FaultTolerantLogger(Offline(tmp_path))
    with pytest.warns(UserWarning, match="Offline failed .* no route to host"):
        logger.log_metrics({"train/loss": 1.0}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_metrics({"train/loss": 1.0}, 2)
        logger.log_hyperparams({"a": 1})
        logger.finalize("success")
        logger.close()
    assert logger.logger.calls == 1


def test_csv_rows_survive_a_resume(tmp_path: Path) -> None:
    for step in (1, 2):
        csv_logger(str(tmp_path)).log_metrics({"train/loss": float(step)}, step)
    with (tmp_path / "logs" / "metrics.csv").open() as log:
        assert [row["train/loss"] for row in csv.DictReader(log)] == ["1.0", "2.0"]


def test_wandb_continues_the_run_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, again, other = (
        wandb_logger(str(tmp_path / name), "genrefocus") for name in ("a", "a", "b")
    )
    assert first.version == again.version != other.version


def test_an_offline_run_in_parts_says_how_to_upload_them_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    place = tmp_path / "my runs"
    for step in (1, 2):
        if step == 2:  # the clock of the folders' names counts seconds
            shutil.move(place, place := tmp_path / "moved runs")
            time.sleep(1)
        logger = FaultTolerantLogger(wandb_logger(str(place), "genrefocus"))
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.close()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "W&B is offline: wandb sync" in line]
    _, _, command = said[-1].partition("upload them together): ")
    parts = [Path(part) for part in shlex.split(command)[2:]]
    assert shlex.split(command)[:2] == ["wandb", "sync"]
    assert len(parts) == 2 and all(list(part.glob("*.wandb")) for part in parts)
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1
