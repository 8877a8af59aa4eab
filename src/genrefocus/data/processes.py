"""Work on numbered items in several processes, with results that do not depend on how many."""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

OrderedMap = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


@contextmanager
def ordered_map(workers: int) -> Iterator[OrderedMap]:
    """A ``map`` over numbers with results in order, one torch thread each.

    Args:
        workers: processes; 0 works in this one. Functions and results must be picklable.
    """
    if workers <= 0:
        threads = torch.get_num_threads()
        _one_thread()
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
        # Processes are forked now, before the caller may start threads such as a progress bar's.
        list(pool.map(abs, range(workers)))
        try:
            yield functools.partial(pool.map, chunksize=8)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    # Sums over several threads depend on how the work was split.
    torch.set_num_threads(1)
