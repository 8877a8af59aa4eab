"""What a preparation writes: everything found in a shard or in the ledger, and where it goes."""

import hashlib
import io
import json
from pathlib import Path

import piexif
import pytest
from PIL import Image

from genrefocus.data.shards import ShardDataset
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.ledger import read_lines
from genrefocus.preparation.shard_plan import LeakageCheck, split_of
from tests.unit.preparation.copying import SPLITS, run

ALIKE = LeakageCheck(against=(), distance=64, allow=())


def test_everything_found_is_in_a_shard_or_in_the_ledger(images: Path, tmp_path: Path) -> None:
    summary = run(images, tmp_path)
    assert summary is not None
    assert summary["found"] == 29
    samples, ledger = (list(read_lines(tmp_path / f"{x}.jsonl")) for x in ("samples", "rejections"))
    assert len(samples) == 26
    assert {entry["name"]: entry["reason"] for entry in ledger} == {
        "old.raw": "format_unsupported",
        "black.png": "image_too_small",
        "cut.png": "image_damaged",
    }
    assert summary["rejected"] == {
        "format_unsupported": 1,
        "image_damaged": 1,
        "image_too_small": 1,
    }
    keys = []
    for split, share in SPLITS.items():
        dataset = ShardDataset(tmp_path / split)
        dataset.verify()
        assert len(dataset) == summary["written"][split] > 0, share
        keys += dataset.keys
        for number in range(len(dataset)):
            sample = dataset[number]
            source = (images / sample.provenance["source"]).read_bytes()
            digest = hashlib.sha256(source).hexdigest()
            assert sample.provenance["images"]["photo"]["sha256"] == digest
            assert sample.split == split == split_of(digest, SPLITS)
            assert sample.provenance["measures"]["ssim"] is None
    assert keys == [sample["key"] for sample in samples]
    assert set(summary["measured_only"]) >= {"k", "ssim"}


def test_gates_turn_away_and_are_on_record(images: Path, tmp_path: Path) -> None:
    summary = run(images, tmp_path, gates=Gates({"k": {"max": 0.5}}))
    assert summary is not None
    ledger = [x for x in read_lines(tmp_path / "rejections.jsonl") if x["reason"] == "gate_k"]
    assert ledger
    assert all(entry["value"] > 0.5 and entry["measures"]["k"] > 0.5 for entry in ledger)
    assert all(one["measures"]["k"] <= 0.5 for one in read_lines(tmp_path / "samples.jsonl"))
    assert "k" not in summary["measured_only"]
    with pytest.raises(ValueError, match=r"nothing of 29 found can be used.*gate_k"):
        run(images, tmp_path / "none", gates=Gates({"k": {"max": 0.0}}))


def test_copies_and_leaks(images: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(images.glob("p*.png")):
        (again / path.name).write_bytes(path.read_bytes())
    (again / "q00.png").write_bytes((again / "p00.png").read_bytes())
    summary = run(again, tmp_path / "copies")
    assert summary is not None
    [entry] = read_lines(tmp_path / "copies/rejections.jsonl")
    assert (entry["name"], entry["reason"], entry["value"]) == ("q00.png", "duplicate", "p00.png")
    # A scene's name decides its split; another encoding of an image then lies in another split.
    names = [f"s{n}" for n in range(40)]
    digests = {n: hashlib.sha256(f"images/{n}".encode()).hexdigest() for n in names}
    train, test = (
        next(n for n in names if split_of(digests[n], SPLITS) == split)
        for split in ("train", "test")
    )
    with Image.open(again / "p05.png") as image:
        image.save(again / f"{train}-a.png")
        image.resize((64, 64)).save(again / f"{test}-b.png")
    with pytest.raises(ValueError, match=rf"{train}-a\.png.*{test}-b\.png"):
        run(again, tmp_path / "leaks", leakage=LeakageCheck((), 64, ()))
    assert not list((tmp_path / "leaks").rglob("*.tar"))
    held = tmp_path / "held_out"
    held.mkdir()
    (held / "benchmark.png").write_bytes((again / "p07.png").read_bytes())
    with pytest.raises(ValueError, match=r"p07\.png.*benchmark\.png"):
        run(images, tmp_path / "against", leakage=LeakageCheck((held,), 0, ()))
    excused = LeakageCheck((held,), 0, ("p07.png",))
    assert run(images, tmp_path / "against", leakage=excused) is not None


def test_what_cannot_be_compared_ends_the_command(images: Path, tmp_path: Path) -> None:
    """A leak behind odd EXIF is found; a damaged image of a benchmark is named."""
    held = tmp_path / "held"
    held.mkdir()
    exif = piexif.dump({"0th": {274: 6, 271: b"72 dpi 1"}})
    exif = exif.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02")  # XResolution as text
    with Image.open(images / "p07.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(held / "turned.png", exif=exif)
    against = LeakageCheck((held,), 8, ())
    with pytest.raises(ValueError, match=r"p07\.png.*turned\.png"):
        run(images, tmp_path / "leak", leakage=against)
    (held / "turned.png").unlink()
    (held / "cut.png").write_bytes((images / "p00.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1 of 1 images .* cannot be compared: .*held/cut\.png"):
        run(images, tmp_path / "cut", leakage=against)


def test_colours_are_converted_and_provenance_says_so(tmp_path: Path) -> None:
    exif = piexif.dump({"Exif": {piexif.ExifIFD.ColorSpace: 2}})
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (16, 16), (90, 80, 70)).save(tmp_path / "b.png")
    assert run(tmp_path, tmp_path / "out", splits={"train": 1.0}) is not None
    dataset = ShardDataset(tmp_path / "out/train")
    samples = {dataset[n].provenance["source"]: dataset[n] for n in range(2)}
    # Adobe RGB 200 100 50 in sRGB, by its primaries and exponent.
    assert samples["a.png"].bokeh[:, 0, 0].tolist() == [227, 100, 42]
    photo = samples["a.png"].provenance["images"]["photo"]
    assert photo["colours"] == "converted to sRGB from Adobe RGB"
    assert samples["b.png"].bokeh[:, 0, 0].tolist() == [90, 80, 70]
    assert "colours" not in samples["b.png"].provenance["images"]["photo"]


def test_images_that_look_alike_are_one_scene(images: Path, tmp_path: Path) -> None:
    """Bursts: re-encoded images go to one split, and nothing else moves."""
    burst = tmp_path / "burst"
    burst.mkdir()
    for path in sorted(images.glob("p*.png")):
        (burst / path.name).write_bytes(path.read_bytes())
    for number in range(6):
        with Image.open(burst / f"p{number:02d}.png") as image:
            for quality in (90, 60, 40):
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=quality)
                Image.open(buffer).save(burst / f"p{number:02d}x{quality}.png")
    alone = run(images, tmp_path / "alone", leakage=ALIKE)
    summary = run(burst, tmp_path / "out", leakage=ALIKE)
    assert alone is not None and summary is not None
    splits = {x["name"]: x["split"] for x in read_lines(tmp_path / "out/samples.jsonl")}
    before = {x["name"]: x["split"] for x in read_lines(tmp_path / "alone/samples.jsonl")}
    for number in range(6):
        stem = f"p{number:02d}"
        assert len({split for name, split in splits.items() if name.startswith(stem)}) == 1
    assert len(set(splits.values())) == 3
    assert {name: splits[name] for name in before if int(name[1:3]) >= 6} == {
        name: split for name, split in before.items() if int(name[1:3]) >= 6
    }


def test_images_as_jpeg(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "out", image_format="jpeg", limit=10) is not None
    dataset = ShardDataset(tmp_path / "out" / "train")
    assert {"aif.jpg", "bokeh.jpg"} < set(dataset.members(0))
    assert dataset[0].provenance["image_compression"]["quality"] == 95
    with pytest.raises(ValueError, match="image_format 'jpeg', now it is 'png'"):
        run(images, tmp_path / "out", limit=10)
    # Its bokeh, the photograph itself, is found again behind the loss.
    with pytest.raises(ValueError, match=r"\.bokeh\.jpg"):
        run(images, tmp_path / "against", leakage=LeakageCheck((tmp_path / "out",), 40, ()))


def test_a_limit_takes_the_same_items_each_time(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "ten", limit=10)
    run(images, tmp_path / "five", limit=5)
    ten, five = (
        {
            entry["name"]
            for name in ("samples", "rejections")
            for entry in read_lines(tmp_path / folder / f"{name}.jsonl")
            if entry["name"] != "old.raw"
        }
        for folder in ("ten", "five")
    )
    assert (len(ten), len(five)) == (10, 5)
    assert five < ten


def test_a_ledger_is_json_lines(whole: dict[str, bytes]) -> None:
    for line in whole["rejections.jsonl"].splitlines():
        assert {"name", "reason", "value", "detail", "split"} <= set(json.loads(line))
    assert not [name for name in whole if "parts" in name or name.endswith((".lock", ".part"))]
