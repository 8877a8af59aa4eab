"""Runs as cells of a sweep: what ends a cell, and what ends the sweep."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.sweeps import SweepReport, run_cell


def raising(error: BaseException) -> float:
    raise error


def test_an_exception_is_written_down_and_a_later_success_clears_it(tmp_path: Path) -> None:
    assert run_cell(tmp_path, lambda: raising(RuntimeError("out of\nmemory"))) is None
    record = json.loads((tmp_path / "failed.json").read_text())
    assert record["reason"] == "RuntimeError: out of memory"
    assert "raise error" in (tmp_path / record["traceback"]).read_text()
    assert run_cell(tmp_path, lambda: 31.5) == 31.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(130)])
def test_an_interruption_is_no_failure(tmp_path: Path, signal: BaseException) -> None:
    with pytest.raises(type(signal)):
        run_cell(tmp_path, lambda: raising(signal))
    assert not list(tmp_path.iterdir())


def call(folder: Path, cell: str, seed: int) -> DictConfig:
    """The configuration of a call for one cell, as a task of a job array makes it."""
    sweeper = {"params": {"cell": "all,of,them", "seed": "1,2,3"}}
    overrides = {"task": [f"cell={cell}", f"seed={seed}"]}
    hydra = {"sweep": {"dir": str(folder)}, "sweeper": sweeper, "overrides": overrides}
    data = {"build": None}
    return OmegaConf.create({"hydra": hydra, "sweep_name": "ranks", "baseline": "a", "data": data})


def test_calls_that_begin_at_the_same_time_plan_all_their_cells(tmp_path: Path) -> None:
    calls = [call(tmp_path, cell, seed) for cell in "abcdefgh" for seed in (1, 2)]
    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(SweepReport().on_multirun_start, calls))
    plan = json.loads((tmp_path / "sweep.json").read_text())
    assert {*plan["cells"]} == {*"abcdefgh"} and {*plan["seeds"]} == {1, 2}


def test_a_call_ends_by_its_own_cells(tmp_path: Path) -> None:
    cell = tmp_path / "a" / "seed_2"
    cell.mkdir(parents=True)
    run_cell(cell, lambda: raising(RuntimeError("out of memory")))
    SweepReport().on_multirun_end(call(tmp_path, "a", 1))
    SweepReport().on_multirun_end(call(tmp_path, "b", 2))
    with pytest.raises(SystemExit):
        SweepReport().on_multirun_end(call(tmp_path, "a", 2))
