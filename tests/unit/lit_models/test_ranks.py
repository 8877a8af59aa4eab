"""Ranks at work: they leave it together, and where one fails or dies the others end at once."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_models.ranks import Ranks

WORLD = 3
SOON = 10.0  # seconds; a machine that is busy needs some of them

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_models.ranks._LOOK_SECONDS", 0.1)
    monkeypatch.setattr("lit_models.ranks._GRACE_SECONDS", 1.0)


def member(folder: Path, rank: int, barrier: Barrier, work: Callable[[int], Any]) -> None:
    ranks = Ranks(rank, WORLD, torch.device("cpu"), barrier.wait, folder)
    for _ in range(2):  # what the first time leaves does not matter
        with ranks.watched():
            work(rank)  # those that are done wait for others that have not come to where they wait
            with ranks.together("work"):
                pass
        (folder / f"left-{rank}").touch()
        barrier.wait()


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


def test_ranks_that_fail_one_after_the_other_leave_by_their_own_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a sweep, which goes on to its next cell with all of them."""
    barrier = FORK.Barrier(WORLD)

    def fail_twice(rank: int) -> None:
        for cell in range(2):
            ranks = Ranks(rank, WORLD, torch.device("cpu"), barrier.wait, tmp_path / str(cell))
            with pytest.raises(ValueError, match="no memory"), ranks.watched():
                time.sleep(0.15 * rank)
                raise ValueError("no memory")

    processes = [FORK.Process(target=fail_twice, args=(rank,)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    assert exit_codes(processes) == [0] * WORLD
    assert "failed or died" not in capfd.readouterr().err


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
    ranks = Ranks(0, 1, torch.device("cpu"), lambda: pytest.fail("no barrier"), tmp_path)
    with ranks.watched(), ranks.together("work"):
        pass
    assert not list(tmp_path.iterdir())


def test_processes_that_cannot_be_started_end_a_sweep_too(tmp_path: Path) -> None:
    """Its next cell would find the variables of a rank that has no others."""

    def launch(function: Callable[[], None]) -> None:
        raise OSError("Cannot allocate memory")

    strategy = SimpleNamespace(launcher=SimpleNamespace(launch=launch), setup_environment=None)
    with pytest.raises(SystemExit, match=r"could not be started: OSError: Cannot allocate"):
        Ranks.connect(SimpleNamespace(strategy=strategy), tmp_path)  # type: ignore[arg-type]
