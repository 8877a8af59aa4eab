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

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank, world: number of this process, and of all.
        device: of this process.
        barrier: waits for all; only for what takes all of them about the same time.
    """

    rank: int
    world: int
    device: torch.device
    barrier: Callable[[], object]

    @classmethod
    def connect(cls, trainer: Trainer) -> "Ranks":
        """Start the processes of a trainer, unless its launcher did before, and connect them."""
        strategy = trainer.strategy
        if strategy.launcher is not None:
            strategy.launcher.launch(strategy.setup_environment)
        return cls(trainer.global_rank, trainer.world_size, strategy.root_device, strategy.barrier)

    @contextmanager
    def together(self, folder: Path) -> Iterator[None]:
        """Work of all ranks, of whatever length; it is left when all have done theirs.

        No collective waits for the work, as it may take longer than their timeout. Each rank holds
        a lock instead, which the system takes from a process that dies. Where a lock is free and
        its rank has not said that it is done, this process ends.

        Args:
            folder: the same for all ranks, on a file system that they share.
        """
        if self.world == 1:
            yield
            return
        place = folder / ".ranks"
        place.mkdir(parents=True, exist_ok=True)
        mark = _done(place, self.rank)
        mark.unlink(missing_ok=True)
        over = threading.Event()
        with FileLock(_lock(place, self.rank)):
            self.barrier()
            watch = threading.Thread(target=self._watch, args=(place, over), daemon=True)
            watch.start()
            try:
                yield
                mark.touch()
                while not all(_done(place, other).exists() for other in range(self.world)):
                    time.sleep(_LOOK_SECONDS / 5)
            finally:
                over.set()
                watch.join()
            self.barrier()

    def _watch(self, place: Path, over: threading.Event) -> None:
        others = [other for other in range(self.world) if other != self.rank]
        while not over.wait(_LOOK_SECONDS):
            for other in others:
                if _is_lost(place, other) and not over.is_set():
                    print(
                        f"train.py: rank {other} failed or died, so rank {self.rank} ends too",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)


def _is_lost(place: Path, rank: int) -> bool:
    if _done(place, rank).exists():
        return False
    try:
        with FileLock(_lock(place, rank), timeout=0):
            return not _done(place, rank).exists()
    except Timeout:
        return False


def _lock(place: Path, rank: int) -> Path:
    return place / f"{rank}.lock"


def _done(place: Path, rank: int) -> Path:
    return place / f"{rank}.done"
