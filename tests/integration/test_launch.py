"""What train.sbatch decides: the cell of an array's task, and which jobs go back to the queue."""

import subprocess
from pathlib import Path

import pytest

from tests.slurm import LAUNCH, environment_of_job


def batch(folder: Path, *given: str, python: str, **variables: str) -> tuple[int, str, str]:
    """Status and output of train.sbatch, and what scontrol was asked for."""
    (folder / "python").write_text(f"#!/bin/bash\n{python}\n")
    (folder / "python").chmod(0o755)
    (folder / "scontrol").unlink(missing_ok=True)
    environment = environment_of_job(folder, PYTHON=str(folder / "python"), **variables)
    done = subprocess.run(
        ["bash", str(LAUNCH / "train.sbatch"), *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    asked = folder / "scontrol"
    return done.returncode, done.stdout, asked.read_text() if asked.exists() else ""


def test_every_task_of_an_array_has_its_own_cell_and_seed(tmp_path: Path) -> None:
    array = {"CELLS": "a a_b c", "SEEDS": "1 2", "SLURM_ARRAY_JOB_ID": "5"}
    seen = []
    for task in range(6):
        status, printed, _ = batch(
            *(tmp_path, "sweep=data_routes", "name=with space"),
            python='printf "%s|" "$@"',
            SLURM_ARRAY_TASK_ID=str(task),
            **array,
        )
        assert status == 0
        script, multirun, *given, devices, nodes, _ = printed.split("|")
        assert (script, multirun, devices) == ("train.py", "-m", "trainer.devices=1")
        assert given[:2] == ["sweep=data_routes", "name=with space"] and nodes[-1] == "1"
        seen.append(tuple(given[2:]))
    assert seen == [(f"cell={c}", f"seed={s}") for c in ("a", "a_b", "c") for s in (1, 2)]


ARRAY = {"CELLS": "a", "SEEDS": "1 2 3", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("status", "variables", "asked"),
    [
        (0, {}, ""),
        (1, {}, ""),
        (2, {}, ""),
        (137, {}, ""),
        (143, {}, "requeue 7\n"),
        (143, {"STATE": "COMPLETING"}, ""),  # scancel
        (143, {"SLURM_RESTART_COUNT": "99"}, "requeue 7\n"),
        (143, {"SLURM_RESTART_COUNT": "100"}, ""),
        # Its own id may be that of the whole array.
        (143, {**ARRAY, "SLURM_JOB_ID": "5"}, "requeue 5_2\n"),
    ],
)
def test_jobs_that_were_interrupted_go_back_to_the_queue(
    tmp_path: Path, status: int, variables: dict[str, str], asked: str
) -> None:
    ended, _, requeued = batch(tmp_path, python=f"exit {status}", **variables)
    assert (ended, requeued) == (status, asked)


def test_what_is_not_given_is_named(tmp_path: Path) -> None:
    status, printed, _ = batch(
        *(tmp_path, "sweep=lora_rank"),
        python="echo begun",
        SLURM_ARRAY_JOB_ID="5",
        SLURM_ARRAY_TASK_ID="0",
    )
    assert status != 0 and "begun" not in printed
    done = subprocess.run(
        ["bash", str(LAUNCH / "torchrun.sh")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "RUN: is a name for the run" in done.stderr
