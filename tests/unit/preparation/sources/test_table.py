"""Photographs in tables: exposure in columns, images in cells."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrefocus.preparation.item import ImageFile
from genrefocus.preparation.sources import PhotographTable
from genrefocus.preparation.sources.exposure import parse_exif_column
from genrefocus.rejection import Reason, Rejected
from tests.unit.preparation.sources.layouts import files, image, reasons


def test_only_exposure_leaves_a_table(tmp_path: Path) -> None:
    flickr = [
        {"tagspace": "Canon", "tag": "FNumber", "raw": {"_content": "99"}},
        {"tagspace": "IFD0", "tag": "Make", "raw": {"_content": "NIKON "}},
        {"tagspace": "ExifIFD", "tag": "FocalLengthIn35mmFormat", "raw": {"_content": "75 mm"}},
        {"tagspace": "ExifIFD", "tag": "SerialNumber", "raw": {"_content": "12345"}},
        {"tagspace": "GPS", "tag": "GPSLatitude", "raw": {"_content": "48.1"}},
    ]
    rows = {
        "image": [image(tmp_path / "p.jpg").read_bytes()] * 3,
        "f_number": [1.8, float("nan"), None],
        "focal_length": [50, 0, None],
        "GPSLatitude": [48.1, 48.1, 48.1],
        "OwnerName": ["A. Person"] * 3,
        "flickr_exif": [
            json.dumps({"photo": {"id": "1", "exif": flickr}}),
            json.dumps({"FNumber": [28, 10], "FocalLength": "9 mm", "Artist": "A. Person"}),
            None,
        ],
    }
    pq.write_table(pa.table(rows), tmp_path / "photos.parquet")
    items = PhotographTable(tmp_path).items()
    assert [item.facts for item in items] == [
        {
            "exif": {
                "Make": "NIKON",
                "FocalLengthIn35mmFilm": "75",
                "FNumber": 1.8,
                "FocalLength": 50.0,
            }
        },
        {"exif": {"FNumber": [28, 10], "FocalLength": 0.0}},
        {},
    ]
    assert [item.name for item in items] == [f"photos.parquet/{n:07d}" for n in range(3)]
    assert {item.scene for item in items} == {None}


def test_a_table_says_which_rows_it_cannot_read(tmp_path: Path) -> None:
    image(tmp_path / "images/1.jpg")
    rows = {
        "file": ["images/1.jpg", "images/2.jpg", None, "images/1.jpg"],
        "aperture": [2.0, 2.0, 2.0, 2.0],
        "scene": ["beach", "beach", "beach", None],
        "exif": ["{}", None, None, "{broken"],
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    source = PhotographTable(tmp_path / "t.parquet", image="file", exif={"aperture": "FNumber"})
    (item,) = source.items()
    assert (item.scene, item.facts) == ("beach", {"exif": {"FNumber": 2.0}})
    assert files(item, tmp_path) == {"photo": "images/1.jpg"}
    assert reasons(source.problems()) == {
        "t.parquet/0000001": Reason.FILE_MISSING,
        "t.parquet/0000002": Reason.FILE_MISSING,
        "t.parquet/0000003": Reason.EXIF_CORRUPT,
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "no column 'image'; it has photo, f_number"),
        ({"image": "f_number"}, "column 'f_number' is double; it must hold bytes"),
        ({"image": "photo", "exif": {"iso": "FNumber"}}, r"no columns \['iso'\]"),
        ({"image": "photo", "exif": {"f_number": "GPSLatitude"}}, "not passed on"),
    ],
)
def test_a_table_of_other_columns(tmp_path: Path, options: dict, complaint: str) -> None:
    pq.write_table(pa.table({"photo": [b""], "f_number": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=complaint):
        PhotographTable(tmp_path, **options).items()


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ValueError, match="is no parquet file"):
        PhotographTable(tmp_path).items()


@pytest.mark.parametrize("text", ['{"Artist": "A. Person"', "3", "[1, 2", "[" * 100_000])
def test_exif_that_is_no_json(text: str) -> None:
    with pytest.raises(Rejected, match="exif_corrupt") as error:
        parse_exif_column(text)
    assert "Person" not in str(error.value)


@pytest.mark.parametrize("as_struct", [False, True])
def test_cells_in_any_order_and_small_memory(tmp_path: Path, as_struct: bool) -> None:
    generator = random.Random(3)
    cells = [generator.randbytes(400_000) for _ in range(90)]
    column = [{"bytes": cell, "path": None} for cell in cells] if as_struct else cells
    path = tmp_path / "t.parquet"
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if as_struct else pa.binary()
    image = pa.array(column, kind)
    pq.write_table(pa.table({"image": image}), path, row_group_size=60, write_batch_size=4)
    del column, image
    before, group = pa.total_allocated_bytes(), 60 * 400_000
    for row in [*range(90), 5, 3, 88, 60, 59, 61]:
        assert ImageFile(path, (row, "image")).read() == cells[row]
        assert pa.total_allocated_bytes() - before < group / 3


def test_cells_in_order_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"%d" % n for n in range(50)]}), path, row_group_size=20)
    opened = []
    original = pq.ParquetFile.iter_batches

    def counted(self, **options):
        opened.append(options["row_groups"])
        return original(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert [ImageFile(path, (n, "image")).read() for n in range(50)] == [
        b"%d" % n for n in range(50)
    ]
    assert opened == [[0], [1], [2]]


def test_an_empty_cell_is_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x", None]}), tmp_path / "t.parquet")
    with pytest.raises(Rejected, match="file_missing .*row 1.* is empty there"):
        ImageFile(tmp_path / "t.parquet", (1, "image")).read()
