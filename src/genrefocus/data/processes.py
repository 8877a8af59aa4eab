"""Work on numbered items in several processes, with results that do not depend on how many."""

import functools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

OrderedMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

_AHEAD = 4
"""Items per process that are worked on, or done and waited for: the bound on memory."""


@contextmanager
def ordered_map(workers: int) -> Iterator[OrderedMap]:
    """A ``map`` with results in order, one torch thread each, that holds few results at a time.

    Args:
        workers: processes; 0 works in this one. Functions, items and results must be picklable.
            The processes end with this one, also when it is killed.
    """
    if workers <= 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(os.getpid(),)) as pool:
        # Processes are forked now, before the caller may start threads such as a progress bar's.
        list(pool.map(abs, range(workers)))
        try:
            yield functools.partial(_streamed, pool, _AHEAD * workers)
        except BaseException:
            # A pool that is still closing when the interpreter ends raises in a thread of its own.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _streamed(
    pool: ProcessPoolExecutor, ahead: int, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin(parent: int) -> None:
    # Sums over several threads depend on how the work was split.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends these
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's handler came with the fork
    end_with_parent(parent)


def end_with_parent(parent: int | None = None) -> None:
    """End this process when its parent ends, which gives no notice when it is killed.

    Args:
        parent: its process id, where this process is told; it may have ended before this call.
    """
    threading.Thread(target=_end_with, args=(parent or os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
