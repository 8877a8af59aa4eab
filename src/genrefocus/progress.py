"""Progress of long work with the time that is left: bars on a terminal, lines in a log."""

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

EVERY = 30.0
"""Seconds between two lines in a log."""


class Bars(Progress):
    """Bars on stderr, one for each thing that is counted.

    Where stderr is no terminal, such as in the log of a job, a line says how far the work is, at
    most every :data:`EVERY` seconds.

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
        if self.disable or self.console.is_terminal or now - self._last < EVERY:
            return
        self._last = now
        task = self.tasks[self.task_ids.index(task_id)]
        left = "" if task.time_remaining is None else f", {_clock(task.time_remaining)} left"
        total = "" if task.total is None else f"/{task.total:.0f}"
        self.console.print(
            f"{task.description}: {task.completed:.0f}{total}, {_clock(task.elapsed or 0)}{left}",
            highlight=False,
            soft_wrap=True,
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
