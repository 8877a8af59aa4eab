"""Output that goes to any terminal, file or pipe without ending a command."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any


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
