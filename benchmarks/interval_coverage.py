"""How often 95 % intervals of the mean hold the true mean, by number of images.

The threshold ``statistics.MIN_FOR_INTERVAL`` rests on this; below it there is no interval.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from genrefocus.benchmark import statistics

DISTRIBUTIONS: dict[str, tuple[Callable[[Generator, int], NDArray[np.float64]], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 12, 20, 50, 100])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    statistics.RESAMPLES = args.resamples
    statistics.MIN_FOR_INTERVAL = 2
    rng = np.random.default_rng(args.seed)
    print("n", *DISTRIBUTIONS)
    for count in args.counts:
        shares = []
        for draw, mean in DISTRIBUTIONS.values():
            drawn = (draw(rng, count) for _ in range(args.repetitions))
            found = [statistics.interval(some, seed=n) for n, some in enumerate(drawn)]
            held = [one[0] <= mean <= one[1] for one in found]
            shares.append(f"{np.mean(held):.3f}")
        print(count, *shares, flush=True)


if __name__ == "__main__":
    main()
