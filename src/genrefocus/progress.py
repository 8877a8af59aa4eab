"""Progress of long work with the time that is left: bars on a terminal, lines in a log."""

import logging
import time
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

_LOG = logging.getLogger(__name__)

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
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            disable=not visible,
            speed_estimate_period=600.0,  # steps may take a minute each
        )
        self._last = time.monotonic()

    def add_task(self, description: str, *args: Any, note: str = "", **kwargs: Any) -> TaskID:
        """As rich's; ``note`` is shown behind the count."""
        return super().add_task(description, *args, note=note, **kwargs)

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

    def say(self, line: str) -> None:
        """A line in the log, and on stderr where that is no terminal."""
        if self.disable:
            return
        _LOG.info(line)
        if not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
