"""The embedded data: bytes that follow from the seed, exact labels, held-out scenes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from genrefocus.data.images import load_image, load_mask
from genrefocus.data.sample import to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.sets import EmbeddedSet, build_embedded, make_pair
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import blur_radius
from genrefocus.photograph.exif import read_exposure
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

COUNTS = {
    "synthetic": {"train": 12, "val": 4, "test": 0},
    "deblur": {"train": 4, "val": 4},
    "sweep": {"val": 3},
    "camera_roll": {"train": 6},
}


def build(root: Path, workers: int = 0, **changes) -> Path:
    build_embedded(
        root,
        **{"seed": 3, "counts": COUNTS, "size": 32, **changes},
        workers=workers,
        progress=False,
    )
    return root


def digests(root: Path) -> dict[str, str]:
    paths = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("embedded"))


def test_bytes_follow_from_the_seed_alone(data: Path, tmp_path: Path) -> None:
    here = digests(data)
    assert digests(build(tmp_path / "workers", workers=2)) == here
    other = digests(build(tmp_path / "seed", seed=4))
    assert other.keys() == here.keys()
    listed = ("samples.jsonl", "rejections.jsonl")  # keys alone
    assert all(other[name] != here[name] for name in here if not name.endswith(listed))


def test_finished_sets_are_left_alone(data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.tar")}
    build(data)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.tar")} == before
    with pytest.raises(ValueError, match=r"synthetic holds a set made with seed 3, now it is 4"):
        build(data, seed=4)
    with pytest.raises(ValueError, match="kinds are synthetic, deblur, sweep, camera_roll"):
        build(data, counts={"syntetic": {"train": 1}})


def test_labels_describe_the_images(data: Path) -> None:
    """Where the blur radius is far below a pixel both images agree, and nowhere else as well."""
    for sample in _samples(data / "synthetic/train"):
        radius = blur_radius(sample.disparity, sample.focus_disparity, sample.strength)
        assert 0 <= float(radius.min()) < 0.1
        assert float(radius.max()) <= 3.0 * 1.001  # 6 px at 64 px
        difference = (to_float(sample.aif) - to_float(sample.bokeh)).abs().mean(0)
        if float(radius.max()) > 1:
            assert difference[radius < 0.1].mean() < difference[radius > 1].mean()
        assert sample.provenance["source"].endswith("simulated")


def test_greatest_radius_is_log_uniform() -> None:
    one = EmbeddedSet("synthetic", "train", 0, 32)
    radii = []
    for number in range(60):
        sample = make_pair(one, number)
        radius = blur_radius(sample.disparity, sample.focus_disparity, sample.strength)
        radii.append(float(radius.max()))
    low, middle, high = np.log(0.25), np.log(3) / 2 + np.log(0.25) / 2, np.log(3)
    assert low - 0.7 < np.log(np.quantile(radii, 0.05)) < low + 0.5
    assert abs(np.log(np.median(radii)) - middle) < 0.4
    assert high - 0.5 < np.log(np.quantile(radii, 0.95)) <= high + 0.01


def test_held_out_scenes(data: Path) -> None:
    assert not set(TRAIN_FAMILIES) & set(HELDOUT_FAMILIES)
    scenes = {
        name: [s.provenance["scene_seed"] for s in _samples(data / name)]
        for name in ("synthetic/train", "deblur/train", "synthetic/val", "deblur/val")
    }
    assert scenes["synthetic/val"] == scenes["deblur/val"]
    seen = scenes["synthetic/train"] + scenes["deblur/train"]
    assert len(set(seen)) == 16
    assert not set(seen) & set(scenes["synthetic/val"])
    for one, other in zip(
        _samples(data / "synthetic/val"), _samples(data / "deblur/val"), strict=True
    ):
        assert one.key == other.key
        assert torch.equal(one.aif, other.aif)
        assert torch.equal(one.extras["blurry"], other.bokeh)
        assert one.focus_disparity != other.focus_disparity or one.strength != other.strength
        assert one.provenance["textures"] == "held out"


def test_sweeps_blur_more_with_k(data: Path) -> None:
    for sample in _samples(data / "sweep/val"):
        series = [sample.extras[f"sweep_{k:g}"] for k in PROTOCOL_K[:-1]] + [sample.bokeh]
        sharp = to_float(sample.aif)
        errors = [float((to_float(one) - sharp).square().mean()) for one in series]
        assert errors == sorted(errors)
        assert errors[0] < errors[-1] / 4
        assert sample.provenance["textures"] == "held out"


def test_the_camera_roll_is_photographs_and_sidecars(data: Path) -> None:
    roll = data / "camera_roll/train"
    photos = sorted((roll / "photos").iterdir())
    assert len(photos) == 6
    for path in photos:
        assert read_exposure(path).f_number > 0
        size = load_image(path).shape[1:]
        assert sorted(size) == [32, 48]
        depth = np.load(roll / "depth" / f"{path.stem}.npy")
        assert depth.shape == tuple(size)
        assert load_mask(roll / "mask" / f"{path.stem}.png").shape == size


def test_the_card_says_what_it_is(data: Path) -> None:
    card = (data / "README.md").read_text()
    assert "All of it is simulated" in card
    assert (
        f"| synthetic/train | 12 | {ShardDataset(data / 'synthetic/train').fingerprint[:16]} |"
        in card
    )
    assert '"seed": 3' in card
    assert "{" not in card.replace('{"seed', "").replace('{"synthetic', "")


def _samples(folder: Path) -> list:
    dataset = ShardDataset(folder)
    return [dataset[n] for n in range(len(dataset))]
