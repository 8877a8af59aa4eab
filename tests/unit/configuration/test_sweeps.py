"""Runs as cells of a sweep: what ends a cell, and what ends the sweep."""

import json
from pathlib import Path

import pytest

from genrefocus.configuration.sweeps import run_cell


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
