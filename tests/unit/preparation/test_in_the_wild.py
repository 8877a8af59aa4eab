"""Photographs to shards: labels from EXIF and estimators, a ledger of reasons, exact resume."""

import functools
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import piexif
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from genrefocus.data.images import load_image
from genrefocus.data.sample import to_uint8
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.sets import build_embedded
from genrefocus.estimators import SidecarDepth, SidecarMask
from genrefocus.noise import seeded_generators
from genrefocus.optics import blur_radius, defocus_map
from genrefocus.photograph.exif import ExposureFacts, read_exposure
from genrefocus.preparation import runner
from genrefocus.preparation.in_the_wild import Deblur, InTheWild
from genrefocus.preparation.sources import Photographs

COUNT = 14
ONE_SPLIT = {"train": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera roll, some of it in a sub-folder, with files that cannot be used."""
    root = tmp_path_factory.mktemp("roll")
    counts = {"camera_roll": {"train": COUNT}}
    build_embedded(root, seed=1, counts=counts, size=32, workers=0, progress=False)
    roll = root / "camera_roll/train"
    for kind in ("photos", "depth", "mask"):
        (roll / kind / "trip").mkdir()
        for path in sorted((roll / kind).glob("IMG_0000[0-3].*")):
            path.rename(roll / kind / "trip" / path.name)
    Image.new("RGB", (48, 32)).save(roll / "photos/screenshot.jpg")
    cut = (roll / "photos/IMG_00005.jpg").read_bytes()[:700]
    (roll / "photos/cut.jpg").write_bytes(cut)
    (roll / "photos/notes.txt").write_text("not a photograph")
    np.save(roll / "depth/flat.npy", np.full((32, 48), 2.0, np.float32))
    landscape = _landscape(roll / "photos").read_bytes()
    (roll / "photos/flat.jpg").write_bytes(landscape + b"-")  # other bytes, or it is a copy
    Image.new("L", (48, 32), 255).save(roll / "mask/flat.png")
    np.save(roll / "depth/masked.npy", np.linspace(1, 2, 32 * 48, dtype=np.float32).reshape(32, 48))
    (roll / "photos/masked.jpg").write_bytes(landscape + b"+")
    Image.new("L", (48, 32), 0).save(roll / "mask/masked.png")
    return roll


def _landscape(photos: Path) -> Path:
    return next(p for p in sorted(photos.glob("IMG*")) if load_image(p).shape[1:] == (32, 48))


def halved(images: Tensor, numbers: Sequence[int]) -> Tensor:
    """Stands for a deblurring network; its answer can be recognised."""
    return images / 2


def prepare(roll: Path, out: Path, deblur: Deblur = halved, **changes) -> dict:
    route = {"long_edge": 1024, "least_edge": 1, "batch_size": 4}
    options = [*route, "told", "keep_below", "reblurred"]
    route |= {name: changes.pop(name) for name in options if name in changes}
    return runner.prepare(
        InTheWild(
            depth=SidecarDepth(roll / "depth"),
            mask=SidecarMask(roll / "mask"),
            deblur=deblur,
            deblur_name="halved",
            **route,
        ),
        Photographs(roll / "photos", option="data.photos"),
        out,
        **{"seed": 0, "items_per_shard": 5, "splits": ONE_SPLIT, "progress": False, **changes},
    )


def ledger(folder: Path) -> dict[str, dict]:
    lines = (folder / "rejections.jsonl").read_text().splitlines()
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_samples_are_the_photographs_with_labels(made: Path, tmp_path: Path) -> None:
    report = prepare(made, tmp_path)
    dataset = ShardDataset(tmp_path / "train")
    assert report["found"] == COUNT + 4
    assert report["written"] == {"train": len(dataset), "val": 0, "test": 0}
    assert sum(report["rejected"].values()) + len(dataset) == report["found"]
    for number in range(len(dataset)):
        sample = dataset[number]
        path = made / "photos" / sample.provenance["source"]
        image = load_image(path)
        assert torch.equal(sample.bokeh, to_uint8(image))
        assert torch.equal(sample.aif, to_uint8(image / 2))
        # K by Eq. 3, written out: mm to px by the long edge over the sensor's width.
        depth = np.load((made / "depth" / sample.provenance["source"]).with_suffix(".npy"))
        focus = np.median(1 / depth.astype(np.float64)[sample.mask.numpy()])
        facts = read_exposure(path)
        f, n, z = facts.focal_length_mm, facts.f_number, 1000 / focus
        k = f**2 * z / (2 * n * (z - f)) * 48 / facts.sensor_width_mm / 1000
        assert sample.focus_disparity == pytest.approx(focus, rel=1e-5)
        assert sample.strength.k == pytest.approx(k, rel=1e-4)
        assert (sample.strength.height, sample.strength.width) == tuple(image.shape[1:])
        assert sample.provenance["exif"]["make"] == "Simulated"
        assert 0 <= sample.provenance["mask_agreement"] <= 1
        assert sample.provenance["mask"] == "sidecar mask"
        assert sample.provenance["deblur"] == "blind"


class Shown:
    """A network that can be told the blur: it answers with the map, and blind with half."""

    takes_map = True

    def __call__(
        self, images: Tensor, numbers: Sequence[int], *, maps: Tensor | None = None
    ) -> Tensor:
        return images / 2 if maps is None else maps.expand_as(images)


@pytest.mark.parametrize("told", [True, False])
def test_a_network_that_can_be_is_told_the_label(made: Path, tmp_path: Path, told: bool) -> None:
    prepare(made, tmp_path / "blind")
    prepare(made, tmp_path / "told", Shown(), told=told, batch_size=3)
    blind, other = (ShardDataset(tmp_path / name / "train") for name in ("blind", "told"))
    assert blind.keys == other.keys
    for number in range(len(other)):
        sample, before = other[number], blind[number]
        label = defocus_map(sample.disparity, sample.focus_disparity, sample.strength)
        expected = (
            label.expand(3, -1, -1)
            if told
            else load_image(made / "photos" / sample.provenance["source"]) / 2
        )
        # Shards round the disparity that the label is recomputed from.
        assert (sample.aif.int() - to_uint8(expected).int()).abs().max() <= 1
        assert sample.provenance["deblur"] == ("told" if told else "blind")
        # The label does not depend on it, nor does what is measured of the mask.
        assert sample.strength == before.strength and torch.equal(sample.mask, before.mask)
        assert sample.provenance["mask_agreement"] == before.provenance["mask_agreement"]


def test_the_photograph_is_kept_where_it_is_sharp(made: Path, tmp_path: Path) -> None:
    prepare(made, tmp_path, keep_below=0.3)
    dataset, kept, replaced = ShardDataset(tmp_path / "train"), 0, 0
    for number in range(len(dataset)):
        sample = dataset[number]
        radius = blur_radius(sample.disparity, sample.focus_disparity, sample.strength)
        share = ((0.8 - radius) / 0.5).clamp(0, 1)  # of the photograph
        expected = sample.bokeh.float() * (1 + share) / 2
        assert (sample.aif.float() - expected).abs().max() <= 1
        kept += int((share == 1).sum())
        replaced += int((share == 0).sum())
    assert kept > 100 and replaced > 100


def test_images_that_are_still_blurred_give_photographs_back_at_a_smaller_k(
    made: Path, tmp_path: Path
) -> None:
    def sharpened(images: Tensor, numbers: Sequence[int], amount: float) -> Tensor:
        smooth = avg_pool2d(images, 3, 1, padding=1, count_include_pad=False)
        return (images + amount * (images - smooth)).clamp(0, 1)

    ratios = []
    for amount in (1.0, 3.0):
        deblur = functools.partial(sharpened, amount=amount)
        report = prepare(made, tmp_path / str(amount), deblur)
        assert report["reblurred"]["photographs"] == report["written"]["train"]
        ratios.append(report["reblurred"]["ratio"])
    assert 0.1 < ratios[0] < ratios[1] - 0.1
    assert "reblurred" not in prepare(made, tmp_path / "not", reblurred=0)
    none = prepare(made, tmp_path / "none", splits={"train": 0.0, "test": 1.0})
    assert none["written"]["train"] == 0 and "reblurred" not in none
    unchanged = prepare(made, tmp_path / "unchanged", lambda images, numbers: images)["reblurred"]
    assert unchanged["rejected"] == "k_at_bound" and len(unchanged["curve"]) >= 7


@dataclass(frozen=True)
class NotCopied:
    """Stands for a network of 12 billion weights."""

    weights: object

    def __call__(self, images: Tensor, numbers: Sequence[int]) -> Tensor:
        return images / 2

    def __deepcopy__(self, memo: dict) -> "NotCopied":
        raise AssertionError("the network is copied")


def test_a_network_is_named_and_never_copied(made: Path, tmp_path: Path) -> None:
    summary = prepare(made, tmp_path, NotCopied(NotCopied(None)))
    assert summary["set"]["parameters"]["settings"]["deblur"] == "halved"


def test_what_cannot_be_used_is_in_the_ledger(made: Path, tmp_path: Path) -> None:
    report = prepare(made, tmp_path)
    entries = ledger(tmp_path)
    reasons = {name: entry["reason"] for name, entry in entries.items()}
    assert reasons["screenshot.jpg"] == "no_exif"
    assert reasons["cut.jpg"] == "image_damaged"
    assert reasons["flat.jpg"] == "depth_without_spread"
    assert reasons["masked.jpg"] == "empty_mask"
    assert entries["masked.jpg"]["value"] == 0
    assert report["rejected"]["no_exif"] == 1
    assert sum(report["rejected"].values()) == len(entries)


def test_k_follows_the_working_size(made: Path, tmp_path: Path) -> None:
    prepare(made, tmp_path / "whole")
    prepare(made, tmp_path / "half", long_edge=24)
    whole, half = (ShardDataset(tmp_path / name / "train") for name in ("whole", "half"))
    assert whole.keys == half.keys
    for number in range(len(half)):
        assert sorted(half[number].size) == [16, 24]
        # Same lens, half the px; focus moves a little, as nearest neighbour drops pixels.
        assert half[number].strength.k == pytest.approx(whole[number].strength.k / 2, rel=0.02)


def test_a_killed_preparation_ends_at_the_same_bytes(made: Path, tmp_path: Path) -> None:
    prepare(made, tmp_path / "whole")
    calls = []

    def dies(images: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append(len(images))
        if sum(calls) > 9:
            raise KeyboardInterrupt
        return images / 2

    with pytest.raises(KeyboardInterrupt):
        prepare(made, tmp_path / "cut", dies)
    with (tmp_path / "cut/.parts/fingerprints.jsonl").open("a") as file:
        file.write('["half a li')
    calls.clear()

    def counts(images: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append(len(images))
        return images / 2

    prepare(made, tmp_path / "cut", counts)
    assert contents(tmp_path / "cut/train") == contents(tmp_path / "whole/train")
    assert 0 < sum(calls) <= COUNT + 4 - 8  # the batch of four that failed is made again
    calls.clear()
    prepare(made, tmp_path / "cut", counts)
    assert not calls


def test_photographs_below_the_crop_are_never_deblurred(made: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def told(images: Tensor, numbers: Sequence[int]) -> Tensor:
        sizes.extend(min(image.shape[1:]) for image in images)
        return images / 2

    with pytest.raises(ValueError, match=f"{COUNT + 2} image_too_small"):
        prepare(made, tmp_path / "none", told, least_edge=33)
    assert not sizes
    entry = next(one for one in ledger(tmp_path / "none").values() if one["value"] == 32)
    assert entry["reason"] == "image_too_small" and "33 px" in entry["detail"]
    prepare(made, tmp_path / "all", told, least_edge=32)
    assert set(sizes) == {32}
    for number in range(len(dataset := ShardDataset(tmp_path / "all/train"))):
        assert min(dataset[number].size) >= dataset.least_edge == 32


def test_noise_is_the_photographs_own(made: Path, tmp_path: Path) -> None:
    """Whatever the batch, the job and the order: jobs in parallel end at the same bytes."""

    def noise(images: Tensor, numbers: Sequence[int]) -> Tensor:
        assert len(set(numbers)) == len(images)
        generators = seeded_generators(7, numbers)
        drawn = [
            torch.rand(one.shape, generator=g) for one, g in zip(images, generators, strict=True)
        ]
        return torch.stack(drawn)

    prepare(made, tmp_path / "one", noise, batch_size=1)
    prepare(made, tmp_path / "four", noise, batch_size=4)
    fours = [prepare(made, tmp_path / "jobs", noise, job=job, jobs=4) for job in (3, 1, 0, 2)]
    assert fours[:3] == [None] * 3 and fours[3] is not None
    assert contents(tmp_path / "jobs/train") == contents(tmp_path / "four/train")
    one, four = (ShardDataset(tmp_path / name / "train") for name in ("one", "four"))
    images = {one.keys[number]: one[number].aif for number in range(len(one))}
    for number, key in enumerate(four.keys):
        assert torch.equal(four[number].aif, images[key])
    corners = {tuple(image[:, 0, 0].tolist()) for image in images.values()}
    assert len(corners) == len(images)


def test_splits_follow_the_content(made: Path, tmp_path: Path) -> None:
    halves = {"train": 0.5, "val": 0.3, "test": 0.2}
    report = prepare(made, tmp_path / "a", splits=halves)
    names = {}
    for split in halves:
        dataset = ShardDataset(tmp_path / "a" / split)
        assert report["written"][split] == len(dataset)
        for number in range(len(dataset)):
            sample = dataset[number]
            assert sample.split == split
            names[sample.provenance["images"]["photo"]["sha256"]] = split
    assert len(set(names.values())) > 1
    shutil.copytree(made, tmp_path / "fewer")
    removed = sorted((tmp_path / "fewer/photos").glob("IMG*"))[:3]
    for path in removed:
        path.unlink()
    prepare(tmp_path / "fewer", tmp_path / "b", splits=halves)
    for split in halves:
        dataset = ShardDataset(tmp_path / "b" / split)
        for number in range(len(dataset)):
            assert names[dataset[number].provenance["images"]["photo"]["sha256"]] == split
    with pytest.raises(ValueError, match="add up to 1"):
        prepare(made, tmp_path / "c", splits={"train": 0.5})


def test_nothing_usable_says_what_was_found_and_what_to_do(made: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist; set data\.photos"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty/photos").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no photographs in .*: found no files.*data\.photos="):
        prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty/photos/a.mov").touch()
    with pytest.raises(ValueError, match=r"found 1 \.mov, looked for \.jpg"):
        prepare(tmp_path / "empty", tmp_path / "out")
    shutil.copy(made / "photos/screenshot.jpg", tmp_path / "empty/photos")
    with pytest.raises(
        ValueError, match=r"rejected 1 no_exif \(no_exif: screenshot\.jpg.*rejections\.jsonl"
    ):
        prepare(tmp_path / "empty", tmp_path / "out")
    shutil.copytree(made / "photos", tmp_path / "bare/photos")
    with pytest.raises(FileNotFoundError, match=r"IMG_\d+\.jpg has no depth.*data\.estimates"):
        prepare(tmp_path / "bare", tmp_path / "out2")


def test_nothing_of_place_or_owner_gets_into_the_shards(made: Path, tmp_path: Path) -> None:
    """Text in EXIF, XMP, maker note and comments, of a photograph that is used and one that is not.

    It is looked for in every file that the preparation leaves, and in the images' metadata.
    """
    source = _landscape(made / "photos")
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
    stem = source.relative_to(made / "photos").with_suffix("")
    with Image.open(source) as image:
        for name, tags in fates.items():
            path = tmp_path / "photos" / f"{name}.jpg"
            image.save(path, exif=piexif.dump(tags), **metadata)
            assert path.read_bytes().count(hidden) >= 12
            shutil.copy(made / "depth" / f"{stem}.npy", tmp_path / "depth" / f"{name}.npy")
            shutil.copy(made / "mask" / f"{stem}.png", tmp_path / "mask" / f"{name}.png")
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
