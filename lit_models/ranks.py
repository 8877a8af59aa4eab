"""Ranks that work at the same time: where one fails or dies, all end."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning import Trainer

from genrefocus.data.processes import end_with_parent

_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 4.0
"""What ranks that fail at the same time, or leave one after the other, may need for it."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank, world: number of this process, and of all.
        device: of this process.
        barrier: waits for all; only for what takes all of them about the same time.
        folder: of the run, the same for all ranks, on a file system that they share.
    """

    rank: int
    world: int
    device: torch.device
    barrier: Callable[[], object]
    folder: Path

    @classmethod
    def connect(cls, trainer: Trainer, folder: Path) -> "Ranks":
        """Start the processes of a trainer, unless its launcher did before, and connect them.

        Raises:
            SystemExit: they could not be started or connected. That ends a sweep too, whose ranks
                go through its cells together.
        """
        if os.environ.get("LOCAL_RANK", "0") != "0":
            end_with_parent()  # which is the first rank, or torchrun
        strategy = trainer.strategy
        if strategy.launcher is not None:
            try:
                strategy.launcher.launch(strategy.setup_environment)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                sys.exit(f"train.py: the processes of this run could not be started: {reason}")
        rank, world = trainer.global_rank, trainer.world_size
        return cls(rank, world, strategy.root_device, strategy.barrier, folder)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The whole work of a run: where a rank fails or dies, the others end within seconds.

        Each rank holds a lock, which the system takes from a process that dies. Where a lock is
        free and its rank has not said that it is done, this process ends, unless it leaves too.
        """
        if self.world == 1:
            yield
            return
        self._place.mkdir(parents=True, exist_ok=True)
        for mark in self._place.glob(f"{self.rank}.*.done"):  # of an earlier process
            mark.unlink()
        over = threading.Event()
        try:
            with FileLock(self._lock(self.rank)):
                self.barrier()
                threading.Thread(target=self._watch, args=(over,), daemon=True).start()
                yield
                self._done(self.rank, "run").touch()
        except Exception:
            self._wait_for_others_that_fail()
            raise
        finally:
            over.set()

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """Work of all ranks, of any length; it ends when all ranks have finished.

        No collective waits for the work, as it may take longer than their timeout.

        Args:
            name: of the work, which this run does once.
        """
        yield
        if self.world == 1:
            return
        self._done(self.rank, name).touch()
        while not all(self._done(other, name).exists() for other in range(self.world)):
            time.sleep(_LOOK_SECONDS / 5)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            for other in self._others():
                if self._is_lost(other) and not over.wait(_GRACE_SECONDS):
                    print(
                        f"train.py: rank {other} failed or died, or {self._place} is not on a file "
                        f"system that it shares with its locks, so rank {self.rank} ends too",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)

    def _wait_for_others_that_fail(self) -> None:
        """Wait, so that the ranks of a sweep begin its next cell together."""
        deadline = time.monotonic() + _GRACE_SECONDS / 2
        while not all(map(self._is_lost, self._others())) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS / 5)

    def _others(self) -> list[int]:
        return [other for other in range(self.world) if other != self.rank]

    def _is_lost(self, rank: int) -> bool:
        try:
            with FileLock(self._lock(rank), timeout=0):
                return not self._done(rank, "run").exists()
        except Timeout:
            return False

    @property
    def _place(self) -> Path:
        return self.folder / ".ranks"

    def _lock(self, rank: int) -> Path:
        return self._place / f"{rank}.lock"

    def _done(self, rank: int, name: str) -> Path:
        return self._place / f"{rank}.{name}.done"
