"""What a source lists and a route makes a sample of."""

import bisect
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from genrefocus.rejection import Reason, Rejected

_CELLS_AT_A_TIME = 8
_READ_AHEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class ImageFile:
    """Where the bytes of an image are: a file, or a cell of a parquet file.

    Attributes:
        path: the file.
        cell: row and column within a parquet file, or None. The column holds bytes, or a struct
            with a field ``bytes``.
    """

    path: Path
    cell: tuple[int, str] | None = None

    def read(self) -> bytes:
        """The encoded image.

        Cells are cheapest in the order of their rows: each is then decoded once. A step back
        within a row group reads that group again from its start. In memory are a few cells and
        the pages that they lie in, not the row group.

        Raises:
            OSError: the file cannot be read.
            Rejected: ``file_missing`` for an empty cell.
        """
        if self.cell is None:
            return self.path.read_bytes()
        row, column = self.cell
        # A process that was forked must not share the position in an open file.
        value = _cells(self.path, column, os.getpid()).at(row)
        value = value["bytes"] if isinstance(value, dict) else value
        if value is None:
            raise Rejected(
                Reason.FILE_MISSING,
                f"{self.path}, row {row}",
                f"column {column} is empty there; embed the images in the table",
            )
        return bytes(value)


@dataclass(frozen=True)
class Item:
    """One candidate for a sample; cheap to list, and it can be pickled.

    Attributes:
        name: where it comes from, relative to the source's root, with forward slashes; unique
            within the source.
        scene: all images of one scene go to one split. None where each image is a scene of
            its own, known by its content; images that look alike are one.
        images: role -> image. ``photo`` is a photograph with depth of field, ``sharp`` its
            (nearly) all-in-focus counterpart, ``depth`` and ``mask`` files of estimates.
        facts: plain JSON data that the source knows, such as ``f_number`` and ``exif`` (EXIF tag
            name -> value; where it is missing, the photograph's own EXIF counts).
        split: the set's own split (``train``, ``val``, ``test``), or None where it has none.
        pool: name and number; of all items with this pool so many are taken, those with the
            sharpest ``sharp`` images. None for an item that is taken in any case.
        key: of its sample; None derives one from the name and the content.
        caption: what the image shows, in words: the prompt of its sample. None where nobody says.
    """

    name: str
    scene: str | None
    images: Mapping[str, ImageFile]
    facts: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    pool: tuple[str, int] | None = None
    key: str | None = None
    caption: str | None = None


class Source(ABC):
    """A data set in its on-disk layout.

    Whatever lies where an item should be but cannot become one is a problem, never left out in
    silence: ``items`` and ``problems`` together account for all of it.

    Attributes:
        name: for provenance and messages: which data set.
    """

    name: Any

    @property
    def roles(self) -> frozenset[str]:
        """Roles of images that its items have; ``scene`` for items that are no images."""
        return frozenset({"scene"})

    @abstractmethod
    def items(self) -> list[Item]:
        """All items, in an order that depends on names alone.

        Raises:
            FileNotFoundError: the root does not exist.
            ValueError: nothing usable; it says what was looked for and what was found.
        """

    def problems(self) -> list[tuple[str, Rejected]]:
        """Names and reasons of what is no item, in the order of names; for the ledger.

        A name is a file's, or that of a whole scene or folder.

        Raises:
            FileNotFoundError, ValueError: as ``items``.
        """
        return []


class _Cells:
    """One column of a parquet file, read forwards a few rows at a time."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow.parquet

        # Without a buffer of its own size the reader takes in whole column chunks, and writers
        # put thousands of images into one.
        self._file = pyarrow.parquet.ParquetFile(
            path, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False
        )
        self._column = column
        meta = self._file.metadata
        self._ends = list(
            accumulate(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
        )
        self._stream: Iterator[Any] = iter(())
        self._begin, self._end, self._group_end = 0, 0, 0
        self._values: Any = None

    def at(self, row: int) -> Any:
        """The value of a row, counted over the whole file."""
        if not self._begin <= row < self._group_end:
            self._open_group(bisect.bisect_right(self._ends, row))
        while row >= self._end:
            self._values = next(self._stream).column(0)
            self._begin, self._end = self._end, self._end + len(self._values)
        return self._values[row - self._begin].as_py()

    def _open_group(self, group: int) -> None:
        self._values = None
        self._stream = self._file.iter_batches(
            batch_size=_CELLS_AT_A_TIME, row_groups=[group], columns=[self._column]
        )
        self._begin = self._end = self._ends[group - 1] if group else 0
        self._group_end = self._ends[group]


@functools.lru_cache(maxsize=2)
def _cells(path: Path, column: str, process: int) -> _Cells:
    return _Cells(path, column)
