"""Photographs, sharp images and camera raw: items, and what is none."""

import json
import os
from pathlib import Path

import piexif
import pytest

from genrefocus.photograph.exif import exposure_from_tags
from genrefocus.preparation.sources import DevelopedRaw, Folder, Photographs
from genrefocus.rejection import Reason
from tests.unit.preparation.sources.layouts import (
    EXPOSURE,
    developed,
    files,
    image,
    images,
    photographs,
    reasons,
)


def test_photographs_follow_links_once_and_name_broken_ones(tmp_path: Path) -> None:
    root = photographs(tmp_path / "roll")
    images(tmp_path, "album/e.jpg", "f.jpg")
    (root / "album").symlink_to(tmp_path / "album")
    (root / "a/loop").symlink_to(root)
    (root / "f.jpg").symlink_to(tmp_path / "f.jpg")
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = Photographs(root)
    assert [item.name for item in source.items()] == [
        "a/c.png",
        "a/d.jpeg",
        "album/e.jpg",
        "b.JPG",
        "f.jpg",
    ]
    assert all(item.scene is None and item.split is None for item in source.items())
    ((name, rejected),) = source.problems()
    assert (name, rejected.reason) == ("gone.jpg", Reason.FILE_MISSING)
    assert "nowhere.jpg" in str(rejected)


def test_photographs_that_would_share_an_estimate_are_refused_by_name(tmp_path: Path) -> None:
    root = tmp_path
    images(root, "a/1.JPG", "a/1.jpg", "a/1.png", "b/1.jpg", "a/2.jpg")
    (root / "a/._2.jpg").write_bytes(b"as macOS leaves them on other disks")
    source = Photographs(root)
    assert [item.name for item in source.items()] == ["a/2.jpg", "b/1.jpg"]
    problems = source.problems()
    assert [name for name, _ in problems] == ["a/1.JPG", "a/1.jpg", "a/1.png"]
    for _, rejected in problems:
        assert rejected.reason is Reason.COUNTERPART_AMBIGUOUS
        assert rejected.value == "a/1.JPG, a/1.jpg, a/1.png"


def test_a_name_that_is_not_utf_8_is_turned_away_alone(tmp_path: Path) -> None:
    root = tmp_path
    images(root, "a.jpg")
    with open(os.path.join(os.fsencode(root), b"Z\xfcrich.jpg"), "wb") as file:  # Latin-1
        file.write((root / "a.jpg").read_bytes())
    for source in (Photographs(root), Folder(root)):
        assert [item.name for item in source.items()] == ["a.jpg"]
        ((name, rejected),) = source.problems()
        assert (name, rejected.reason) == ("Z\\xfcrich.jpg", Reason.FILE_NAME_INVALID)
        json.dumps([name, str(rejected)], ensure_ascii=False).encode()


def test_a_folder_of_anything_else_says_what_it_found(tmp_path: Path) -> None:
    for name in ("a.cr2", "b.CR2", "c.txt", "README"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"found 2 \.cr2, 1 \.txt, 1 without suffix, looked for \.j"
    ):
        Photographs(tmp_path).items()


def test_sharp_images_of_a_folder(tmp_path: Path) -> None:
    assert [files(item, tmp_path) for item in Folder(photographs(tmp_path)).items()] == [
        {"sharp": "a/c.png"},
        {"sharp": "a/d.jpeg"},
        {"sharp": "b.JPG"},
    ]


def test_raw_exposure_goes_to_images_that_lost_theirs(tmp_path: Path) -> None:
    developed(tmp_path)
    (tmp_path / "kept.CR2").write_bytes((tmp_path / "a.NEF").read_bytes())
    image(tmp_path / "kept.jpg", EXPOSURE | {"GPS": {}})
    source = DevelopedRaw(tmp_path)
    facts = {item.name: item.facts for item in source.items()}
    exif = {"FocalLength": "50/1", "FNumber": "14/5", "Make": "Canon", "Model": "EOS 5D"}
    assert facts == {
        "a.png": {"raw": "a.NEF", "exif": exif},
        "kept.jpg": {"raw": "kept.CR2"},
        "trip/developed/b.jpg": {"raw": "trip/b.dng", "exif": exif},
    }
    assert source.problems() == []
    known = exposure_from_tags(facts["a.png"]["exif"], width=6, height=8)
    assert (known.f_number, known.focal_length_mm, known.sensor_width_mm) == (2.8, 50, 35.8)


@pytest.mark.parametrize("start", [b"MMOR", b"MMRS", b"MM\0U"])
def test_raw_headers_with_a_magic_number_of_their_own(tmp_path: Path, start: bytes) -> None:
    developed(tmp_path)
    (tmp_path / "a.NEF").write_bytes(start + (tmp_path / "a.NEF").read_bytes()[4:])
    assert DevelopedRaw(tmp_path).items()[0].facts["exif"]["FNumber"] == "14/5"


def test_raw_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    developed(tmp_path)
    raw = (tmp_path / "a.NEF").read_bytes()
    for name in ("undeveloped.arw", "twice.nef", "same.dng", "same.nef"):
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "boxes.cr3").write_bytes(b"\0\0\0\x18ftypcrx ")
    images(tmp_path, "twice.jpg", "developed/twice.png", "same.jpg", "boxes.png")
    images(tmp_path, "bare.png", "cut.png", "alone.jpg")
    no_exposure = piexif.dump({"0th": {piexif.ImageIFD.Make: "Canon"}})
    (tmp_path / "bare.nef").write_bytes(no_exposure.removeprefix(b"Exif\x00\x00"))
    (tmp_path / "cut.nef").write_bytes(raw[:9])
    source = DevelopedRaw(tmp_path)
    assert len(source.items()) == 2
    found = reasons(source.problems())
    assert found.pop("cut.nef") in (Reason.EXIF_CORRUPT, Reason.NO_EXIF, Reason.FORMAT_UNSUPPORTED)
    assert found == {
        "alone.jpg": Reason.FILE_MISSING,
        "bare.nef": Reason.NO_EXIF,
        "boxes.cr3": Reason.FORMAT_UNSUPPORTED,
        "same.dng": Reason.COUNTERPART_AMBIGUOUS,
        "same.nef": Reason.COUNTERPART_AMBIGUOUS,
        "twice.nef": Reason.COUNTERPART_AMBIGUOUS,
        "undeveloped.arw": Reason.FORMAT_UNSUPPORTED,
    }
    assert "develop it" in str(dict(source.problems())["undeveloped.arw"])
