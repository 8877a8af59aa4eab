"""What a run finds of the machine that it is about to use."""

import psutil
import pytest
import torch

from genrefocus.preflight.inputs import find_crowd


@pytest.mark.parametrize(
    ("cores", "percent", "threads", "fit"),
    [(2, 50.0, 2, 1), (2, 100.0, 2, 1), (16, 25.0, 16, 12), (2, 10.0, 2, None), (2, 50.0, 1, None)],
)
def test_more_threads_than_free_processors_are_told_of(
    cores: int, percent: float, threads: int, fit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    remedies = [one.remedy for one in find_crowd()]
    told = [f"put OMP_NUM_THREADS={fit} before the command"]
    assert remedies == (told if fit is not None else [])
