"""Output that goes to any terminal, file or pipe without ending a command."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

# What others' code says to itself, and what is meant to be: a rank may have no sample of a set.
_SAID = (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*was called before the ``update`` method.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Mismatch dtype between input and weight.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
)
# Modules, since Lightning sets the level of the whole package when it is imported.
_TALKERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed")


def quiet_libraries() -> None:
    """Leave out what Lightning and torchmetrics say that means nothing to a user."""
    for said in _SAID:
        warnings.filterwarnings("ignore", said)
    for talker in _TALKERS:
        logging.getLogger(talker).setLevel(logging.WARNING)


@contextmanager
def any_terminal() -> Iterator[None]:
    """Print ? for what the encoding lacks; end quietly when the reader of a pipe has gone.

    Warnings of this project are one line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    default = warnings.formatwarning

    def one_line(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
        ours = category.__module__.startswith("genrefocus.")
        return f"warning: {message}\n" if ours else default(message, category, *place, **line)

    warnings.formatwarning = one_line
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    finally:
        warnings.formatwarning = default
