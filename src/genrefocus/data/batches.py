"""Which draws form which batch, on which rank. Nothing here knows what a draw is."""

from collections.abc import Iterator
from dataclasses import dataclass


def micro_batches(global_batch: int, batch_size: int | None, world: int) -> tuple[int, int]:
    """How the samples of an optimiser step are dealt out to ranks and micro-batches.

    Args:
        global_batch: samples of a step, over all ranks.
        batch_size: per rank and micro-batch; None takes all that a rank has at once.
        world: number of ranks.

    Returns:
        Samples per rank and micro-batch, micro-batches of a step.

    Raises:
        ValueError: they do not divide; the message has the values that do.
    """
    own, rest = divmod(global_batch, world)
    if rest or own < 1:
        near = ", ".join(str(n * world) for n in (own, own + 1) if n)
        raise ValueError(
            f"global_batch={global_batch} cannot be dealt out to {world} processes: use "
            f"{_divisors(global_batch)} of them (trainer.devices), or global_batch={near}"
        )
    if batch_size is None:
        return own, 1
    if batch_size < 1 or own % batch_size:
        raise ValueError(
            f"batch_size={batch_size} does not divide the {own} samples that a process has in each "
            f"step (global_batch={global_batch}): use {_divisors(own)}, or null for all at once"
        )
    return batch_size, own // batch_size


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


@dataclass(frozen=True)
class TrainBatches:
    """Batch sampler of one rank over the global order of draws.

    Micro-batch g of all ranks together is the draws from ``start + g * batch_size * world`` on, and
    rank r takes the r-th part of it. So W ranks with batch B see what one process with batch W * B
    sees, in the same order, and every rank has the same number of batches.

    Attributes:
        start: first draw that was not consumed yet.
        count: batches to come.
        behind: batches of this epoch before ``start``; they count in ``len`` but are not repeated.
        batch_size: per rank.
        rank, world: this process and their number.
    """

    start: int
    count: int
    behind: int
    batch_size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        for g in range(self.count):
            first = self.start + (g * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.behind + self.count


@dataclass(frozen=True)
class EvalBatches:
    """Batch sampler of one rank over sets of samples: each once over all ranks, no padding.

    Samples are numbered through the sets; rank r takes r, r + world, ... A batch holds samples of
    one set, since another may lack some of its entries; batches at the end of a set may be short.
    Ranks may differ by one sample.

    Attributes:
        sizes: samples per set.
        batch_size: per rank.
        rank, world: this process and their number.
    """

    sizes: tuple[int, ...]
    batch_size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        begin = 0
        for size in self.sizes:
            own = range(begin + (self.rank - begin) % self.world, begin + size, self.world)
            for first in range(0, len(own), self.batch_size):
                yield list(own[first : first + self.batch_size])
            begin += size

    def __len__(self) -> int:
        return sum(1 for _ in self)
