"""The global order of training: which sample is the n-th draw, a pure function of (seed, n).

Nothing here knows of ranks, workers, batches or files, so that any number of processes that agree
on n see the same samples in the same order, and a resumed run needs to know one number.
"""

import itertools
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import MT19937, RandomState, SeedSequence
from numpy.typing import NDArray

MIX_BLOCK = 1000
"""Draws over which the routes are mixed exactly by weight; the resolution of weights is 1/1000."""

_MIX, _PERMUTATION, _SAMPLE = 1, 2, 3


@dataclass(frozen=True)
class Draw:
    """One draw: the route, the index within it, and the seed of everything random about it."""

    route: str
    index: int
    sample_seed: int


class GlobalOrder:
    """Routes mixed by weight; within a route every sample once per epoch of that route.

    Every block of ``MIX_BLOCK`` draws holds each route exactly in proportion, in an order shuffled
    by (seed, block). So the number of draws that a route had before any block is a product, and
    ``draw`` takes constant time but for the permutations, which are cached.

    With ``run`` above 1, draws ``run * g`` to ``run * (g + 1) - 1`` are samples of one route and of
    one kind, and a block has ``MIX_BLOCK`` such runs. Samples of a kind that do not fill the last
    of its runs in an epoch are repeated to fill it.

    Args:
        sizes: samples per route.
        weights: relative weight per route, >= 0. Routes without a weight are not drawn from.
        seed: of the whole order.
        run: draws in a row that are of one kind.
        kinds: per route, a byte for each sample, its kind; None: all are of one.

    Raises:
        ValueError: a weight for a route that is not there, negative or all zero weights, or a
            weighted route without samples.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        seed: int,
        *,
        run: int = 1,
        kinds: Mapping[str, bytes] | None = None,
    ) -> None:
        _check(sizes, weights)
        self.seed, self.run = seed, run
        self.routes = tuple(sorted(name for name, weight in weights.items() if weight > 0))
        self.quotas = tuple(_quotas([weights[name] for name in self.routes]))
        self.kinds = {name: kinds[name] if kinds else bytes(sizes[name]) for name in self.routes}
        self.lengths = {
            name: sum(-(-count // run) * run for count in Counter(own).values())
            for name, own in self.kinds.items()
        }

    def draw(self, n: int) -> Draw:
        """The n-th draw, n >= 0."""
        assert n >= 0, n
        group, within = divmod(n, self.run)
        block, position = divmod(group, MIX_BLOCK)
        which, occurrence = _mixed_block(self.seed, self.quotas, block)
        number = int(which[position])
        name = self.routes[number]
        runs_before = block * self.quotas[number] + int(occurrence[position])
        epoch, at = divmod(runs_before * self.run + within, self.lengths[name])
        index = int(_permutation(self.seed, name, self.kinds[name], self.run, epoch)[at])
        return Draw(name, index, _seed_of(self.seed, _SAMPLE, n))


@lru_cache(maxsize=16)
def _mixed_block(
    seed: int, quotas: tuple[int, ...], block: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Route number of every draw of a block, and how often that route came before in the block."""
    which = np.repeat(np.arange(len(quotas)), quotas)
    _random(seed, _MIX, block).shuffle(which)
    occurrence = np.zeros(MIX_BLOCK, np.int64)
    for number, quota in enumerate(quotas):
        occurrence[which == number] = np.arange(quota)
    return which, occurrence


@lru_cache(maxsize=16)
def _permutation(seed: int, route: str, kinds: bytes, run: int, epoch: int) -> NDArray[np.int64]:
    random = _random(seed, _PERMUTATION, zlib.crc32(route.encode()), epoch)
    if run == 1:
        return random.permutation(len(kinds))
    rows, of_sample = [], np.frombuffer(kinds, np.uint8)
    for kind in np.unique(of_sample):
        own = random.permutation(np.flatnonzero(of_sample == kind))
        rows.append(np.resize(own, (-(-len(own) // run), run)))  # the last begins anew
    together = np.concatenate(rows)
    random.shuffle(together)
    return together.ravel()


def _check(sizes: Mapping[str, int], weights: Mapping[str, float]) -> None:
    found = ", ".join(f"{name} ({size} samples)" for name, size in sorted(sizes.items()))
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight of route {name} is {weight}; give a finite number >= 0")
        if weight > 0 and not sizes.get(name):
            raise ValueError(
                f"route {name} has weight {weight} but no samples; found: {found or 'nothing'}; "
                "set its weight to 0 or prepare it"
            )
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"no route has a weight above 0; found: {found or 'nothing'}")


def _quotas(weights: list[float]) -> list[int]:
    """Draws per block in proportion to the weights, by largest remainder, at least one each."""
    shares = np.array(weights, np.float64) / np.sum(weights) * MIX_BLOCK
    quotas = np.maximum(np.floor(shares + 1e-9), 1).astype(int)
    while quotas.sum() != MIX_BLOCK:
        step = 1 if quotas.sum() < MIX_BLOCK else -1
        excess = np.where((quotas > 1) | (step > 0), step * (shares - quotas), -np.inf)
        quotas[int(np.argmax(excess))] += step
    return [int(quota) for quota in quotas]


def _random(*entropy: int) -> RandomState:
    # RandomState is frozen by NumPy's policy, so that an upgrade does not change a run's order.
    return RandomState(MT19937(SeedSequence(entropy)))


def _seed_of(*entropy: int) -> int:
    """63 bits, so that it fits a signed integer."""
    return int(SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def spread(total: int, most: int | None) -> Sequence[int]:
    """At most ``most`` of ``total`` indices, ascending: one of each of as many equal parts.

    Their places in the parts follow the golden ratio, so that kinds which alternate in a set are
    all met, as are kinds that come one after the other.
    """
    if most is None or most >= total:
        return range(total)
    bounds = [part * total // most for part in range(most + 1)]
    golden = (5**0.5 - 1) / 2
    return [
        low + int(part * golden % 1 * (high - low))
        for part, (low, high) in enumerate(itertools.pairwise(bounds))
    ]
