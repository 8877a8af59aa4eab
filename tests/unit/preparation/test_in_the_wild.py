"""Samples of photographs: labels from EXIF and estimators, and what deblurs is told."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from genrefocus.data.images import load_image
from genrefocus.data.sample import to_uint8
from genrefocus.data.shards import ShardDataset
from genrefocus.noise import seeded_generators
from genrefocus.optics import defocus_map
from genrefocus.photograph.exif import read_exposure
from genrefocus.preparation.sources import CaptionedSource, Photographs, SidecarCaptions
from tests.unit.preparation.rolls import COUNT, contents, ledger, prepare


def test_samples_are_the_photographs_with_labels(roll: Path, tmp_path: Path) -> None:
    report = prepare(roll, tmp_path)
    dataset = ShardDataset(tmp_path / "train")
    assert report["found"] == COUNT + 4
    assert report["written"] == {"train": len(dataset), "val": 0, "test": 0}
    assert sum(report["rejected"].values()) + len(dataset) == report["found"]
    for number in range(len(dataset)):
        sample = dataset[number]
        path = roll / "photos" / sample.provenance["source"]
        image = load_image(path)
        assert torch.equal(sample.bokeh, to_uint8(image))
        assert torch.equal(sample.aif, to_uint8(image / 2))
        # K by Eq. 3, written out: mm to px by the long edge over the sensor's width.
        depth = np.load((roll / "depth" / sample.provenance["source"]).with_suffix(".npy"))
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
def test_a_network_that_can_be_is_told_the_label(roll: Path, tmp_path: Path, told: bool) -> None:
    prepare(roll, tmp_path / "blind")
    prepare(roll, tmp_path / "told", Shown(), told=told, batch_size=3)
    blind, other = (ShardDataset(tmp_path / name / "train") for name in ("blind", "told"))
    assert blind.keys == other.keys
    for number in range(len(other)):
        sample, before = other[number], blind[number]
        label = defocus_map(sample.disparity, sample.focus_disparity, sample.strength)
        expected = (
            label.expand(3, -1, -1)
            if told
            else load_image(roll / "photos" / sample.provenance["source"]) / 2
        )
        # Shards round the disparity that the label is recomputed from.
        assert (sample.aif.int() - to_uint8(expected).int()).abs().max() <= 1
        assert sample.provenance["deblur"] == ("told" if told else "blind")
        # The label does not depend on it, nor does what is measured of the mask.
        assert sample.strength == before.strength and torch.equal(sample.mask, before.mask)
        assert sample.provenance["mask_agreement"] == before.provenance["mask_agreement"]


def test_a_network_is_asked_with_the_captions(roll: Path, tmp_path: Path) -> None:
    asked: dict[int, str | None] = {}

    class Asked(Shown):
        def __call__(
            self,
            images: Tensor,
            numbers: Sequence[int],
            *,
            maps: Tensor | None = None,
            prompts: Sequence[str | None] | None = None,
        ) -> Tensor:
            for number, prompt in zip(numbers, prompts or [None] * len(numbers), strict=True):
                assert asked.setdefault(number, prompt) == prompt
            return images / 2

    photos = Photographs(roll / "photos")
    names = [item.name for item in photos.items()]
    for name in names[::2]:
        file = (tmp_path / "captions" / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"this is {name}")
    captions = SidecarCaptions(tmp_path / "captions", optional=True)
    source = CaptionedSource(photos, captions)
    summary = prepare(roll, tmp_path / "out", Asked(), source=source, batch_size=3)
    assert "text files" in summary["set"]["parameters"]["source"]
    dataset = ShardDataset(tmp_path / "out/train")
    samples = [dataset[number] for number in range(len(dataset))]
    found = {sample.provenance["source"]: sample.prompt for sample in samples}
    assert found == {n: f"this is {n}" if n in names[::2] else None for n in found}
    assert {sample.provenance["seed"]: sample.prompt for sample in samples}.items() <= asked.items()
    file.write_text("another text")  # makes another set
    other = CaptionedSource(photos, captions)
    with pytest.raises(ValueError, match="listing"):
        prepare(roll, tmp_path / "out", Asked(), source=other, batch_size=3)


def test_the_less_is_restored_the_less_blur_the_images_lack(roll: Path, tmp_path: Path) -> None:
    def sharpened(images: Tensor, numbers: Sequence[int], amount: float) -> Tensor:
        smooth = avg_pool2d(images, 3, 1, padding=1, count_include_pad=False)
        return (images + amount * (images - smooth)).clamp(0, 1)

    restored = []
    for amount in (1.0, 3.0):
        deblur = functools.partial(sharpened, amount=amount)
        report = prepare(roll, tmp_path / str(amount), deblur)
        assert report["reblurred"]["photographs"] == report["written"]["train"]
        restored.append(report["reblurred"]["restored_radius"])
    assert 0.1 < restored[0] < restored[1] - 0.1
    assert "reblurred" not in prepare(roll, tmp_path / "not", reblurred=0)
    none = prepare(roll, tmp_path / "none", splits={"train": 0.0, "test": 1.0})
    assert none["written"]["train"] == 0 and "reblurred" not in none
    unchanged = prepare(roll, tmp_path / "unchanged", lambda images, numbers: images)["reblurred"]
    assert unchanged["rejected"] == "score_flat"


@dataclass(frozen=True)
class NotCopied:
    """Stands for a network of 12 billion weights."""

    weights: object

    def __call__(self, images: Tensor, numbers: Sequence[int]) -> Tensor:
        return images / 2

    def __deepcopy__(self, memo: dict) -> "NotCopied":
        raise AssertionError("the network is copied")


def test_a_network_is_named_and_never_copied(roll: Path, tmp_path: Path) -> None:
    summary = prepare(roll, tmp_path, NotCopied(NotCopied(None)))
    assert summary["set"]["parameters"]["settings"]["deblur"] == "halved"


def test_k_follows_the_working_size(roll: Path, tmp_path: Path) -> None:
    prepare(roll, tmp_path / "whole")
    prepare(roll, tmp_path / "half", long_edge=24)
    whole, half = (ShardDataset(tmp_path / name / "train") for name in ("whole", "half"))
    assert whole.keys == half.keys
    for number in range(len(half)):
        assert sorted(half[number].size) == [16, 24]
        # Same lens, half the px; focus moves a little, as nearest neighbour drops pixels.
        assert half[number].strength.k == pytest.approx(whole[number].strength.k / 2, rel=0.02)


def test_photographs_below_the_crop_are_never_deblurred(roll: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def told(images: Tensor, numbers: Sequence[int]) -> Tensor:
        sizes.extend(min(image.shape[1:]) for image in images)
        return images / 2

    with pytest.raises(ValueError, match=f"{COUNT + 2} image_too_small"):
        prepare(roll, tmp_path / "none", told, least_edge=33)
    assert not sizes
    entry = next(one for one in ledger(tmp_path / "none").values() if one["value"] == 32)
    assert entry["reason"] == "image_too_small" and "33 px" in entry["detail"]
    prepare(roll, tmp_path / "all", told, least_edge=32)
    assert set(sizes) == {32}
    for number in range(len(dataset := ShardDataset(tmp_path / "all/train"))):
        assert min(dataset[number].size) >= dataset.least_edge == 32


def test_noise_is_the_photographs_own(roll: Path, tmp_path: Path) -> None:
    """Whatever the batch, the job and the order: jobs in parallel end at the same bytes."""

    def noise(images: Tensor, numbers: Sequence[int]) -> Tensor:
        assert len(set(numbers)) == len(images)
        generators = seeded_generators(7, numbers)
        drawn = [
            torch.rand(one.shape, generator=g) for one, g in zip(images, generators, strict=True)
        ]
        return torch.stack(drawn)

    prepare(roll, tmp_path / "one", noise, batch_size=1)
    prepare(roll, tmp_path / "four", noise, batch_size=4)
    fours = [prepare(roll, tmp_path / "jobs", noise, job=job, jobs=4) for job in (3, 1, 0, 2)]
    assert fours[:3] == [None] * 3 and fours[3] is not None
    assert contents(tmp_path / "jobs/train") == contents(tmp_path / "four/train")
    one, four = (ShardDataset(tmp_path / name / "train") for name in ("one", "four"))
    images = {one.keys[number]: one[number].aif for number in range(len(one))}
    for number, key in enumerate(four.keys):
        assert torch.equal(four[number].aif, images[key])
    corners = {tuple(image[:, 0, 0].tolist()) for image in images.values()}
    assert len(corners) == len(images)
