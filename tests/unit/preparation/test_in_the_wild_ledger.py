"""What becomes of photographs: a ledger of reasons, splits, exact resume, and nothing private."""

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import piexif
import pytest
from PIL import Image
from torch import Tensor

from genrefocus.data.shards import ShardDataset
from genrefocus.photograph.exif import ExposureFacts
from tests.unit.preparation.rolls import COUNT, contents, landscape, ledger, prepare


def test_what_cannot_be_used_is_in_the_ledger(roll: Path, tmp_path: Path) -> None:
    report = prepare(roll, tmp_path)
    entries = ledger(tmp_path)
    reasons = {name: entry["reason"] for name, entry in entries.items()}
    assert reasons["screenshot.jpg"] == "no_exif"
    assert reasons["cut.jpg"] == "image_damaged"
    assert reasons["flat.jpg"] == "depth_without_spread"
    assert reasons["masked.jpg"] == "empty_mask"
    assert entries["masked.jpg"]["value"] == 0
    assert report["rejected"]["no_exif"] == 1
    assert sum(report["rejected"].values()) == len(entries)


def test_a_killed_preparation_ends_at_the_same_bytes(roll: Path, tmp_path: Path) -> None:
    prepare(roll, tmp_path / "whole")
    calls = []

    def dies(images: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append(len(images))
        if sum(calls) > 9:
            raise KeyboardInterrupt
        return images / 2

    with pytest.raises(KeyboardInterrupt):
        prepare(roll, tmp_path / "cut", dies)
    with (tmp_path / "cut/.parts/fingerprints.jsonl").open("a") as file:
        file.write('["half a li')
    calls.clear()

    def counts(images: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append(len(images))
        return images / 2

    prepare(roll, tmp_path / "cut", counts)
    assert contents(tmp_path / "cut/train") == contents(tmp_path / "whole/train")
    assert 0 < sum(calls) <= COUNT + 4 - 8  # the batch of four that failed is made again
    calls.clear()
    prepare(roll, tmp_path / "cut", counts)
    assert not calls


def test_splits_follow_the_content(roll: Path, tmp_path: Path) -> None:
    halves = {"train": 0.5, "val": 0.3, "test": 0.2}
    report = prepare(roll, tmp_path / "a", splits=halves)
    names = {}
    for split in halves:
        dataset = ShardDataset(tmp_path / "a" / split)
        assert report["written"][split] == len(dataset)
        for number in range(len(dataset)):
            sample = dataset[number]
            assert sample.split == split
            names[sample.provenance["images"]["photo"]["sha256"]] = split
    assert len(set(names.values())) > 1
    shutil.copytree(roll, tmp_path / "fewer")
    removed = sorted((tmp_path / "fewer/photos").glob("IMG*"))[:3]
    for path in removed:
        path.unlink()
    prepare(tmp_path / "fewer", tmp_path / "b", splits=halves)
    for split in halves:
        dataset = ShardDataset(tmp_path / "b" / split)
        for number in range(len(dataset)):
            assert names[dataset[number].provenance["images"]["photo"]["sha256"]] == split
    with pytest.raises(ValueError, match="add up to 1"):
        prepare(roll, tmp_path / "c", splits={"train": 0.5})


def test_nothing_usable_says_what_was_found_and_what_to_do(roll: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist; set data\.photos"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty/photos").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no photographs in .*: found no files.*data\.photos="):
        prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty/photos/a.mov").touch()
    with pytest.raises(ValueError, match=r"found 1 \.mov, looked for \.jpg"):
        prepare(tmp_path / "empty", tmp_path / "out")
    shutil.copy(roll / "photos/screenshot.jpg", tmp_path / "empty/photos")
    with pytest.raises(
        ValueError, match=r"rejected 1 no_exif \(no_exif: screenshot\.jpg.*rejections\.jsonl"
    ):
        prepare(tmp_path / "empty", tmp_path / "out")
    shutil.copytree(roll / "photos", tmp_path / "bare/photos")
    with pytest.raises(FileNotFoundError, match=r"IMG_\d+\.jpg has no depth.*data\.estimates"):
        prepare(tmp_path / "bare", tmp_path / "out2")


def test_nothing_of_place_or_owner_gets_into_the_shards(roll: Path, tmp_path: Path) -> None:
    """Text in EXIF, XMP, maker note and comments, of a photograph that is used and one that is not.

    It is looked for in every file that the preparation leaves, and in the images' metadata.
    """
    source = landscape(roll / "photos")
    facts = piexif.load(source.read_bytes())["Exif"]
    secret = "Zoe-Quirk-4711"
    hidden = secret.encode()
    place = ((48, 1), (51, 1), (471147, 10000))
    exif = {
        "0th": {
            piexif.ImageIFD.Make: b"Simulated",
            piexif.ImageIFD.Artist: hidden,
            piexif.ImageIFD.Copyright: hidden,
            piexif.ImageIFD.ImageDescription: hidden,
            piexif.ImageIFD.HostComputer: hidden,
            piexif.ImageIFD.XPAuthor: list(secret.encode("utf-16le")),
            piexif.ImageIFD.CameraSerialNumber: hidden,
        },
        "Exif": facts
        | {
            piexif.ExifIFD.UserComment: b"ASCII\0\0\0" + hidden,
            piexif.ExifIFD.MakerNote: hidden,
            piexif.ExifIFD.CameraOwnerName: hidden,
            piexif.ExifIFD.BodySerialNumber: hidden,
            piexif.ExifIFD.LensSerialNumber: hidden,
            piexif.ExifIFD.ImageUniqueID: hidden,
        },
        "GPS": {
            piexif.GPSIFD.GPSLatitude: place,
            piexif.GPSIFD.GPSLatitudeRef: b"N",
            piexif.GPSIFD.GPSAreaInformation: hidden,
        },
        "1st": {piexif.ImageIFD.Artist: hidden},
    }
    for kind in ("photos", "depth", "mask"):
        (tmp_path / kind).mkdir()
    metadata = {"comment": hidden, "xmp": b"<x:xmpmeta>" + hidden + b"</x:xmpmeta>"}
    fates = {"used": exif, "rejected": exif | {"Exif": dict(exif["Exif"])}}
    fates["rejected"]["Exif"][piexif.ExifIFD.FNumber] = (0, 0)
    stem = source.relative_to(roll / "photos").with_suffix("")
    with Image.open(source) as image:
        for name, tags in fates.items():
            path = tmp_path / "photos" / f"{name}.jpg"
            image.save(path, exif=piexif.dump(tags), **metadata)
            assert path.read_bytes().count(hidden) >= 12
            shutil.copy(roll / "depth" / f"{stem}.npy", tmp_path / "depth" / f"{name}.npy")
            shutil.copy(roll / "mask" / f"{stem}.png", tmp_path / "mask" / f"{name}.png")
    report = prepare(tmp_path, tmp_path / "shards")
    assert (report["written"], report["rejected"]) == (
        {"train": 1, "val": 0, "test": 0},
        {"f_number_invalid": 1},
    )

    left = [path for path in (tmp_path / "shards").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} == {".tar", ".json", ".jsonl"}
    for path in left:
        content = path.read_bytes()
        for trace in (
            hidden,
            secret.encode("utf-16le"),
            b"471147",
            b"GPS",
            b"Exif\0\0",
            b"xmpmeta",
        ):
            assert trace not in content, f"{trace!r} in {path.name}"
    (tar,) = (path for path in left if path.suffix == ".tar")
    with tarfile.open(tar) as shard:
        for member in shard.getmembers():
            if member.name.endswith(".png"):
                with Image.open(shard.extractfile(member)) as image:
                    image.load()
                    assert not image.info and not image.getexif()
            else:
                provenance = json.load(shard.extractfile(member))["provenance"]
                assert provenance["exif"]["make"] == "Simulated"
                assert set(provenance["exif"]) == set(ExposureFacts.__dataclass_fields__)
