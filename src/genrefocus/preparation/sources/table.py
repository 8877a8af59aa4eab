"""Photographs in parquet files, with their exposure in columns beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrefocus.photograph.exif import TAGS
from genrefocus.preparation.item import ImageFile, Item
from genrefocus.preparation.sources.captions import one_line
from genrefocus.preparation.sources.exposure import (
    exposure_tag,
    parse_exif_column,
    plain_facts,
)
from genrefocus.preparation.sources.listing import REMEDY, Scan, ScannedSource, suffix_counts
from genrefocus.rejection import Reason, Rejected

_ROWS_AT_A_TIME = 1024
_JSON_COLUMNS = ("exif", "flickr_exif")


@dataclass(frozen=True)
class PhotographTable(ScannedSource):
    """Photographs in a parquet file; the layout of the Bokeh Diffusion in-the-wild set is one.

    The column of images holds bytes, a struct with ``bytes``, or paths relative to the file.
    Columns that are named as an EXIF tag (``FNumber``, ``f_number``, ``focal_length_35``, ...) and
    JSON in a column ``exif`` or ``flickr_exif`` become the fact ``exif``; a column of its own
    counts before the JSON, and only names in ``exif.TAGS`` are ever taken. A row is a scene of its
    own, known by its content, unless there is a column ``scene``.

    Listing reads those columns alone; images are read when they are wanted.

    Args:
        root: a parquet file, or a folder with some.
        image: column of the images.
        exif: further columns -> EXIF tag.
        caption: column of the captions, see ``captions``; None: there are none.
    """

    image: str = "image"
    exif: Mapping[str, str] | None = None
    caption: str | None = None

    name = "photograph_table"
    roles = frozenset({"photo"})

    def __post_init__(self) -> None:
        if unknown := set((self.exif or {}).values()) - set(TAGS):
            raise ValueError(
                f"EXIF tags {sorted(unknown)} are not passed on; use {', '.join(TAGS)}"
            )

    def _scan(self, found: Scan) -> None:
        import pyarrow.parquet

        for path in _tables(Path(self.root)):
            try:
                table = pyarrow.parquet.ParquetFile(path)
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise ValueError(f"{path} is no parquet file: {error}") from error
            with table:
                self._add_rows(found, path, table)

    def _add_rows(self, found: Scan, path: Path, table: Any) -> None:
        kinds = {column.name: column.type for column in table.schema_arrow}
        in_files = _holds_paths(path, self.image, kinds)
        tags = {name: tag for name in kinds if (tag := exposure_tag(name)) is not None}
        tags |= self.exif or {}
        said = [] if self.caption is None else [self.caption]
        if missing := {*tags, *said} - kinds.keys():
            raise ValueError(f"{path} has no columns {sorted(missing)}; it has {', '.join(kinds)}")
        texts = [name for name in _JSON_COLUMNS if name in kinds]
        scene = ["scene"] if "scene" in kinds else []
        wanted = [*tags, *texts, *scene, *said, *([self.image] if in_files else [])]
        for number, row in enumerate(_rows(table, wanted)):
            name = path / f"{number:07d}"
            try:
                facts = _exposure(row, tags, texts)
            except Rejected as rejected:
                found.problems.append((found.name(name), rejected))
                continue
            place = None if row.get("scene") is None else str(row["scene"])
            caption = one_line(row[self.caption]) if self.caption else None
            if not in_files:
                photo = {"photo": ImageFile(path, (number, self.image))}
                found.items.append(Item(found.name(name), place, photo, facts, caption=caption))
            elif row[self.image]:
                file = path.parent / row[self.image]
                found.add(name, {"photo": file}, scene=place, facts=facts, caption=caption)
            else:
                found.reject(name, Reason.FILE_MISSING, None, f"column {self.image} is empty")


def _tables(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise FileNotFoundError(f"table of photographs {root} does not exist; set source.root")
    files = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    tables = [path for path in files if path.suffix.lower() == ".parquet"]
    if not tables:
        raise ValueError(
            f"no table of photographs in {root}: found {suffix_counts(files)}, looked for "
            f".parquet; {REMEDY}"
        )
    return tables


def _holds_paths(path: Path, image: str, kinds: Mapping[str, Any]) -> bool:
    """Whether the column of images holds paths, not bytes.

    Raises:
        ValueError: no such column, or it holds neither.
    """
    import pyarrow

    if image not in kinds:
        raise ValueError(
            f"{path} has no column {image!r}; it has {', '.join(kinds)}: name the column of "
            "images with source.image"
        )
    kind = kinds[image]
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return False
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return True
    raise ValueError(
        f"{path}: column {image!r} is {kinds[image]}; it must hold bytes, a struct with bytes, or "
        "paths"
    )


def _rows(table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(table.metadata.num_rows))
        return
    for batch in table.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=columns):
        yield from batch.to_pylist()


def _exposure(
    row: Mapping[str, Any], tags: Mapping[str, str], texts: list[str]
) -> dict[str, dict[str, Any]]:
    facts: dict[str, Any] = {}
    for name in texts:
        value = row[name]
        if isinstance(value, dict):
            named = ((exposure_tag(key), inner) for key, inner in value.items())
            facts |= plain_facts({key: inner for key, inner in named if key is not None})
        elif value:
            facts |= parse_exif_column(value)
    facts |= plain_facts({tag: row[name] for name, tag in tags.items()})
    return {"exif": facts} if facts else {}
