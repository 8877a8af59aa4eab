"""Output of commands: to any terminal, file or pipe; bars and lines of progress; words."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_LOG = logging.getLogger(__name__)

# What others' code says to itself, and what is meant to be: a rank may have no sample of a set.
_SAID = (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*was called before the ``update`` method.*",
    "The dirpath has changed from .*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Mismatch dtype between input and weight.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # how often it is saved
    ".*.torch_dtype. is deprecated.*",
)
# Modules, since Lightning sets the level of the whole package when it is imported.
_TALKERS = {
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.distributed": logging.WARNING,
    # of the extra `quantise`: kernels and files that nothing here reads, and its own old calls
    "bitsandbytes.backends.cpu.ops": logging.ERROR,
    "diffusers.quantizers.torchao.torchao_quantizer": logging.ERROR,
    "torch.utils._pytree": logging.ERROR,
}


def quiet_libraries() -> None:
    """Leave out what libraries say of themselves that means nothing to a user."""
    for said in _SAID:
        warnings.filterwarnings("ignore", said)
    for talker, level in _TALKERS.items():
        logging.getLogger(talker).setLevel(level)


@contextmanager
def any_terminal() -> Iterator[None]:
    """Print ? for what the encoding lacks; end quietly when the reader of a pipe has gone.

    Ctrl-C ends the command with a line and status 130.

    Warnings of this project and plain warnings of libraries are one line without a place in code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    default = warnings.formatwarning

    def one_line(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
        told = category is UserWarning or category.__module__.startswith("genrefocus.")
        return f"warning: {message}\n" if told else default(message, category, *place, **line)

    warnings.formatwarning = one_line
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        warnings.formatwarning = default


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``: for nouns that take an s."""
    return f"{number} {noun}{'s' * (number != 1)}"


EVERY = 30.0
"""Seconds between two lines in a log."""


class Bars(Progress):
    """Bars on stderr, one for each thing that is counted.

    A line says how far the work is, at most every :data:`EVERY` seconds: on stderr where that is
    no terminal, such as in the log of a job, and always to Python's logging, which
    ``train.py`` keeps in ``train.log``.

    Args:
        visible: False shows nothing.
        console: in place of stderr.
    """

    def __init__(self, visible: bool = True, console: Console | None = None) -> None:
        super().__init__(
            TextColumn("{task.description}", table_column=Column(overflow="fold")),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            disable=not visible,
            expand=True,  # so that the note gives way in a narrow terminal, not count and times
            speed_estimate_period=600.0,  # steps may take a minute each
        )
        self._last = time.monotonic()

    def add_task(self, description: str, *args: Any, note: str = "", **kwargs: Any) -> TaskID:
        """As rich's; ``note`` is shown behind the count."""
        return super().add_task(description, *args, note=note, **kwargs)

    def stop(self) -> None:
        if self.tasks and self.live.is_started:
            super().stop()
        else:  # rich's own adds an empty line where there is no terminal
            self.live.stop()

    def update(self, task_id: TaskID, **kwargs: Any) -> None:
        super().update(task_id, **kwargs)
        self._log(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if self.disable or now - self._last < EVERY:
            return
        self._last = now
        task = self.tasks[self.task_ids.index(task_id)]
        total = "" if task.total is None else f"/{task.total:.0f}"
        parts = [f"{task.description}: {task.completed:.0f}{total}", _clock(task.elapsed or 0)]
        if task.time_remaining is not None:
            parts.append(f"{_clock(task.time_remaining)} left, {task.speed or 0:.3g} a second")
        if task.fields["note"]:
            parts.append(task.fields["note"])
        self.say(", ".join(parts))

    def say(self, line: str, *, on_terminal: bool = False) -> None:
        """A line in the log, and on stderr where that is no terminal, or ``on_terminal``."""
        if self.disable:
            return
        _LOG.info(line)
        if on_terminal or not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
