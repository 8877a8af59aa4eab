"""Captions of the images of any source: text files named after them, or a table.

A caption says what an image shows, such as the words of a sign; it is the prompt of its sample.
"""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from genrefocus.preparation.item import Item, Source
from genrefocus.rejection import Rejected
from genrefocus.terminal import counted


@dataclass(frozen=True, kw_only=True)
class Captions(ABC):
    """Captions by the names of items.

    Args:
        optional: whether items may lack one; they keep what the source itself says, or have none.
    """

    optional: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """For provenance."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where they are, for messages."""

    @abstractmethod
    def of(self, item: str) -> str | None:
        """What is said of an item; empty where it is said that there is nothing to say."""

    def of_all(self, items: Sequence[str]) -> dict[str, str | None]:
        """Item -> what is said of it.

        Raises:
            ValueError: an item without a caption, or, where they are optional, none with one.
        """
        said = {item: self.of(item) for item in items}
        missing = [item for item, text in said.items() if text is None]
        if missing and (not self.optional or len(missing) == len(items)):
            raise ValueError(
                f"{len(missing)} of {counted(len(items), 'image')} have no caption, such as "
                f"{missing[0]}; looked in {self.place}; write them (genrefocus caption), or let "
                "images go without: captions.optional=true"
            )
        return said


@dataclass(frozen=True)
class SidecarCaptions(Captions):
    """``<folder>/<name of the image>.txt``, in UTF-8.

    Raises (``of``):
        ValueError: a file is not UTF-8.
    """

    folder: str | Path

    @property
    def name(self) -> str:
        return "text files"

    @property
    def place(self) -> str:
        return str(Path(self.folder) / "<name of the image>.txt")

    def of(self, item: str) -> str | None:
        path = (Path(self.folder) / item).with_suffix(".txt")
        if not path.is_file():
            return None
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"caption {path} is not UTF-8 ({error}); save it as such") from None


@dataclass(frozen=True)
class CaptionTable(Captions):
    """A CSV or parquet file with a row for each image.

    Args:
        file: of the suffix ``.csv`` (UTF-8, with a line of names) or ``.parquet``.
        image: column of the images' names, as the source has them: paths below its root.
        caption: column of the captions.

    Raises (``of``):
        FileNotFoundError, ValueError: no such file, another suffix, or a column that is not there.
    """

    file: str | Path
    image: str = "file_name"
    caption: str = "text"

    @property
    def name(self) -> str:
        return f"table {Path(self.file).name}"

    @property
    def place(self) -> str:
        return f"{self.file}, column {self.image}"

    def of(self, item: str) -> str | None:
        return self._rows.get(item)

    @cached_property
    def _rows(self) -> Mapping[str, str]:
        path, columns = Path(self.file), [self.image, self.caption]
        if not path.is_file():
            raise FileNotFoundError(f"table of captions {path} does not exist; set captions.file")
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            known = pyarrow.parquet.read_schema(path).names
            self._require(columns, known)
            table = pyarrow.parquet.read_table(path, columns=columns)
            return dict(zip(*(table[one].to_pylist() for one in columns), strict=True))
        if path.suffix.lower() != ".csv":
            raise ValueError(f"table of captions {path}: give a .csv or a .parquet")
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            self._require(columns, reader.fieldnames or [])
            return {row[self.image]: row[self.caption] for row in reader}

    def _require(self, columns: Iterable[str], known: Iterable[str]) -> None:
        if missing := [one for one in columns if one not in known]:
            raise ValueError(
                f"table of captions {self.file} has no column {missing[0]}; it has "
                f"{', '.join(known)}: set captions.image and captions.caption"
            )


@dataclass(frozen=True)
class CaptionedSource(Source):
    """A source whose items have captions.

    Args:
        source: of the items.
        captions: of them.

    Raises (``items``):
        ValueError: see :meth:`Captions.of_all`.
    """

    source: Source
    captions: Captions

    @property
    def name(self) -> str:
        return f"{self.source.name}, captions from {self.captions.name}"

    @property
    def roles(self) -> frozenset[str]:
        return self.source.roles

    def problems(self) -> list[tuple[str, Rejected]]:
        return self.source.problems()

    def items(self) -> list[Item]:
        items = self.source.items()
        said = self.captions.of_all([item.name for item in items])
        return [
            item if (text := said[item.name]) is None else replace(item, caption=one_line(text))
            for item in items
        ]


def one_line(text: str | None) -> str | None:
    """A caption as it is kept; None for an empty one, which says that there is nothing to say."""
    return " ".join((text or "").split()) or None
