"""What a source lists and a route makes a sample of."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Picture:
    """Where the bytes of a picture are: a file, or a cell of a parquet file.

    Attributes:
        path: the file.
        cell: row and column within a parquet file, or None. The column holds bytes, or a struct
            with a field ``bytes``.
    """

    path: Path
    cell: tuple[int, str] | None = None

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: the file cannot be read.
        """
        if self.cell is None:
            return self.path.read_bytes()
        row, column = self.cell
        return _read_cell(self.path, row, column)


@dataclass(frozen=True)
class Item:
    """One candidate for a sample; cheap to list, and it can be pickled.

    Attributes:
        name: where it comes from, relative to the source's root, with forward slashes; unique
            within the source.
        scene: all pictures of one scene go to one split. None where each picture is a scene of
            its own, known by its content.
        pictures: role -> picture. ``photo`` is a photograph with depth of field, ``sharp`` its
            (nearly) all-in-focus counterpart, ``depth`` and ``mask`` files of estimates.
        facts: plain JSON data that the source knows, such as ``f_number`` and ``exif`` (EXIF tag
            name -> value).
        split: the set's own split (``train``, ``val``, ``test``), or None where it has none.
    """

    name: str
    scene: str | None
    pictures: Mapping[str, Picture]
    facts: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None


class Source(Protocol):
    """A data set in its on-disk layout."""

    @property
    def name(self) -> str:
        """For provenance and messages: which data set."""

    @property
    def roles(self) -> frozenset[str]:
        """Roles of pictures that its items have."""

    def items(self) -> list[Item]:
        """All items, in an order that depends on names alone.

        Raises:
            FileNotFoundError: the root does not exist.
            ValueError: nothing usable; it says what was looked for and what was found.
        """


@functools.lru_cache(maxsize=4)
def _row_groups(path: Path) -> tuple[Any, tuple[int, ...]]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    counts = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    ends: list[int] = []
    for count in counts:
        ends.append((ends[-1] if ends else 0) + count)
    return file, tuple(ends)


@functools.lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> Any:
    return _row_groups(path)[0].read_row_group(group, columns=[column]).column(0)


def _read_cell(path: Path, row: int, column: str) -> bytes:
    ends = _row_groups(path)[1]
    group = next(number for number, end in enumerate(ends) if row < end)
    value = _column(path, group, column)[row - (ends[group - 1] if group else 0)].as_py()
    return bytes(value["bytes"] if isinstance(value, dict) else value)
