"""Captions of the images of a source: from text files and from tables alike, and none is missed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrefocus.preparation.sources import (
    CaptionedSource,
    Captions,
    CaptionTable,
    Photographs,
    PhotographTable,
    SidecarCaptions,
)
from tests.unit.preparation.sources.layouts import image

SAID = {"1.jpg": 'a sign that says "ÖL"', "day/2.jpg": "a plant", "day/3.jpg": ""}


@pytest.fixture
def photos(tmp_path: Path) -> Photographs:
    for name in SAID:
        image(tmp_path / "photos" / name)
    return Photographs(tmp_path / "photos")


def tables(folder: Path) -> list[Captions]:
    """The same captions in all three forms."""
    for name, text in SAID.items():
        file = (folder / "captions" / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f" {text}\n\n", encoding="utf-8")
    quoted = [text.replace('"', '""') for text in SAID.values()]
    lines = [f'{name},"{text}"' for name, text in zip(SAID, quoted, strict=True)]
    (folder / "c.csv").write_text("\n".join(["file_name,text", *lines]), encoding="utf-8")
    pq.write_table(pa.table({"name": [*SAID], "said": [*SAID.values()]}), folder / "c.parquet")
    return [
        SidecarCaptions(folder / "captions"),
        CaptionTable(folder / "c.csv"),
        CaptionTable(folder / "c.parquet", image="name", caption="said"),
    ]


def test_files_and_tables_say_the_same(photos: Photographs, tmp_path: Path) -> None:
    for captions in tables(tmp_path):
        source = CaptionedSource(photos, captions)
        found = {item.name: item.caption for item in source.items()}
        assert found == {**SAID, "day/3.jpg": None}
        assert source.roles == {"photo"} and captions.name in source.name


def test_a_missing_caption_is_named(photos: Photographs, tmp_path: Path) -> None:
    tables(tmp_path)
    (tmp_path / "captions/day/2.txt").unlink()
    folder = tmp_path / "captions"
    with pytest.raises(ValueError, match=r"1 of 3 images have no caption, such as day/2.jpg"):
        CaptionedSource(photos, SidecarCaptions(folder)).items()
    some = CaptionedSource(photos, SidecarCaptions(folder, optional=True)).items()
    assert [item.caption for item in some] == [SAID["1.jpg"], None, None]
    with pytest.raises(ValueError, match=r"3 of 3 images have no caption.*<name of the image>.txt"):
        CaptionedSource(photos, SidecarCaptions(tmp_path / "else", optional=True)).items()
    (folder / "1.txt").write_bytes("ÖL".encode("latin-1"))
    with pytest.raises(ValueError, match="1.txt is not UTF-8"):
        CaptionedSource(photos, SidecarCaptions(folder, optional=True)).items()


def test_a_table_that_does_not_fit_says_what_it_has(photos: Photographs, tmp_path: Path) -> None:
    tables(tmp_path)
    for file in ("c.csv", "c.parquet"):
        table = CaptionTable(tmp_path / file, image="path")
        with pytest.raises(ValueError, match="no column path; it has (file_name, text|name, said)"):
            CaptionedSource(photos, table).items()
    with pytest.raises(FileNotFoundError, match="set captions.file"):
        CaptionTable(tmp_path / "none.csv").of("1.jpg")
    (tmp_path / "c.txt").touch()
    with pytest.raises(ValueError, match=r"give a .csv or a .parquet"):
        CaptionTable(tmp_path / "c.txt").of("1.jpg")


def test_a_column_beside_the_photographs(tmp_path: Path) -> None:
    data = image(tmp_path / "p.jpg").read_bytes()
    rows = {"image": [data] * 3, "alt": ["a  sign\n", None, ""]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    source = PhotographTable(tmp_path / "t.parquet", caption="alt")
    assert [item.caption for item in source.items()] == ["a sign", None, None]
    assert {item.caption for item in PhotographTable(tmp_path / "t.parquet").items()} == {None}
    with pytest.raises(ValueError, match=r"no columns \['said'\]; it has image, alt"):
        PhotographTable(tmp_path / "t.parquet", caption="said").items()
