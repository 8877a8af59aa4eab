"""Ranks at work: they leave it together, and where one fails or dies the others end at once."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_models.ranks import Ranks

WORLD = 3
SOON = 10.0  # seconds; a machine that is busy needs some of them

FORK = multiprocessing.get_context("fork")


def member(folder: Path, rank: int, barrier: Barrier, work: Callable[[int], Any]) -> None:
    ranks = Ranks(rank, WORLD, torch.device("cpu"), barrier.wait)
    for _ in range(2):  # what the first time leaves does not matter
        with ranks.together(folder):
            work(rank)
        (folder / f"left-{rank}").touch()


def start(folder: Path, work: Callable[[int], Any]) -> list[Any]:
    barrier = FORK.Barrier(WORLD)
    processes = [
        FORK.Process(target=member, args=(folder, rank, barrier, work)) for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes: list[Any]) -> list[int | None]:
    deadline = time.monotonic() + SOON
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def test_ranks_leave_when_all_are_done(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        assert not list(tmp_path.glob("left-*")) or (tmp_path / "made").exists()
        time.sleep(0.3 * rank)
        if rank == WORLD - 1:
            (tmp_path / "made").touch()

    assert exit_codes(start(tmp_path, work)) == [0] * WORLD
    assert len(list(tmp_path.glob("left-*"))) == WORLD


@pytest.mark.parametrize("failing", range(WORLD))
def test_a_failing_rank_ends_those_that_work_and_those_that_wait(
    tmp_path: Path, failing: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(rank: int) -> None:
        if rank == failing:
            time.sleep(0.3)
            raise ValueError("no disk")
        time.sleep(0 if rank == (failing + 1) % WORLD else 1000)

    assert exit_codes(start(tmp_path, work)) == [1] * WORLD
    assert f"rank {failing} failed or died" in capfd.readouterr().err


@pytest.mark.parametrize("dying", range(WORLD))
def test_a_dying_rank_ends_those_that_work_and_those_that_wait(tmp_path: Path, dying: int) -> None:
    def work(rank: int) -> None:
        time.sleep(0 if rank == (dying + 1) % WORLD else 1000)

    processes = start(tmp_path, work)
    time.sleep(1)
    processes[dying].kill()
    codes = exit_codes(processes)
    assert codes.pop(dying) == -9
    assert codes == [1] * (WORLD - 1)


def test_one_rank_alone_waits_for_nobody(tmp_path: Path) -> None:
    with Ranks(0, 1, torch.device("cpu"), lambda: pytest.fail("no barrier")).together(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
