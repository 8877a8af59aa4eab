"""Simulated aperture series: bytes follow from the seed, K can be found, held-out scenes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrefocus.data.images import load_image
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.aperture_roll import ApertureRoll, ApertureRollSet
from genrefocus.estimators import DetailRetention, SidecarDepth
from genrefocus.k_search import KRange
from genrefocus.metrics.psnr import psnr
from genrefocus.optics import blur_strength_from_exif
from genrefocus.preparation.aperture_series import ApertureSeries
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import LeakageCheck
from genrefocus.render.apertures import disk
from genrefocus.world.camera import Exposure
from genrefocus.world.cameras import BODIES, LENSES

COUNTS = {"train": 2, "test": 1}


def build(root: Path, **changes: Any) -> Path:
    workers = changes.pop("workers", 0)
    ApertureRollSet(**({"seed": 5, "counts": COUNTS, "size": 96, "frames": 2} | changes)).build(
        root / "roll", workers=workers
    )
    return root / "roll"


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("roll"))


def test_bytes_follow_from_the_seed_alone(series: Path, tmp_path: Path) -> None:
    few = {"train": 2}
    kept = {name for name in digests(series) if "/test/" not in name and name != "made.json"}
    here = {name: digests(series)[name] for name in kept}
    made = digests(build(tmp_path / "workers", counts=few, workers=2))
    assert {name: made[name] for name in kept} == here
    other = digests(build(tmp_path / "seed", counts=few, seed=6))
    assert not set(other.values()) & set(here.values())


def test_a_finished_series_is_left_alone_and_a_broken_one_made_again(
    series: Path, tmp_path: Path
) -> None:
    before = digests(series)
    (series.parent / ".roll.part").mkdir()
    build(series.parent)
    assert digests(series) == before
    with pytest.raises(ValueError, match=r"roll holds a set made with seed 5, now"):
        build(series.parent, seed=7)
    with pytest.raises(ValueError, match="counts of val; splits are train, validation, test"):
        build(series.parent, counts={"val": 1})
    (tmp_path / ".roll.part").mkdir()
    (tmp_path / ".roll.part/half").touch()
    few = build(tmp_path, counts={"test": 1})
    assert not (few / "half").exists()
    (few / "made.json").unlink()
    with pytest.raises(ValueError, match=r"no made\.json; delete"):
        build(tmp_path, counts={"test": 1})


def test_frames_differ_in_nothing_but_blur(series: Path) -> None:
    for path in (series / "images").glob("*/metadata/*.json"):
        base, meta = path.parents[1], json.loads(path.read_bytes())
        sharp = load_image(base / meta["source_image"])
        assert sharp.shape == (3, 96, 144)
        assert 1 <= len(meta["target_avs"]) <= 2
        assert meta["target_avs"] == sorted(meta["target_avs"]) and max(meta["target_avs"]) < 22
        # Wider apertures are farther from the sharp frame.
        likeness = [
            float(psnr(load_image(base / n)[None], sharp[None])) for n in meta["target_images"]
        ]
        assert likeness == sorted(likeness) and likeness[0] < 40
        depths = [
            np.load((series / "depth" / base.name / n).with_suffix(".npy"))
            for n in meta["target_images"]
        ]
        assert all(np.array_equal(depths[0], one) for one in depths)
        assert depths[0].shape == (96, 144) and depths[0].min() > 0


def test_calibration_finds_the_k_of_the_lens(series: Path, tmp_path: Path) -> None:
    """Within the error of the estimated depth's scale, and a radius of a fraction of a pixel."""
    source = ApertureRoll(series / "images", seed=5, counts=COUNTS, size=96, frames=2, workers=0)
    route = ApertureSeries(
        SidecarDepth(series / "depth"),
        DetailRetention(),
        disk(),
        long_edge=1024,
        least_edge=64,
        correct=True,
        k_range=KRange(0.0005, 0.08, 16),
    )
    prepare(
        route,
        source,
        tmp_path,
        splits={"train": 1.0},
        gates=Gates({}),
        leakage=LeakageCheck(against=(), distance=0, allow=()),
        seed=1,
        items_per_shard=8,
        progress=False,
    )
    found = 0
    for split in ("train", "test"):
        dataset = ShardDataset(tmp_path / split)
        for number in range(len(dataset)):
            sample = dataset[number]
            facts = sample.provenance["facts"]
            true = {true_k(facts, body) for body in bodies_of(facts["focal_length_mm"])}
            assert sample.strength is not None and sample.disparity is not None
            found += any(abs(np.log(sample.strength.k / k)) < 0.25 for k in true)
    total = sum(len(ShardDataset(tmp_path / split)) for split in ("train", "test"))
    assert total >= 3 and found >= 0.8 * total


def bodies_of(focal_length: float) -> list[Any]:
    return [body for body in BODIES if focal_length in body.focal_lengths_mm]


def true_k(facts: dict[str, float], body: Any) -> float:
    """Eq. 3 with the distance that was focused, which calibration does not look at."""
    focus, lens = 1 / facts["focus_distance_m"], LENSES[0]
    exposure = Exposure(body, lens, facts["focal_length_mm"], facts["f_number"], focus)
    return blur_strength_from_exif(exposure, focus, 96, 144).k
