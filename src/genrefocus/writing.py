"""Files that take their name when they are whole and on disk."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place at the end.

    A crash leaves the old content or the new one. The umask sets the mode of the file,
    and not its writer.

    Raises:
        OSError: it cannot be written; the message names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")  # others may write it too
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch raises an error of its own while it closes what the disk has refused
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by new content; see :func:`whole`."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, to be read by people too."""
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file that processes append to; the unfinished one of a killed process is cut."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
        os.truncate(path, sum(map(len, lines)))
    return lines
