"""The sharpest of a data set, and several data sets as one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace

from genrefocus.data.shards import ShardDataset
from genrefocus.preparation.deblur_pairs import DeblurPairs
from genrefocus.preparation.ledger import read_lines
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import LeakageCheck
from genrefocus.preparation.sources import CombinedSource, RealBokeh3mp
from tests.unit.preparation.sources.layouts import declared

SCENES = 7


def image(number: int, sigma: float, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).normal(128, 60, (112, 128, 3))
    blurred = gaussian_filter(noise, (sigma, sigma, 0))
    Image.fromarray(blurred.clip(0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RealBokeh_3MP and DPDD in miniature; sharp images of the former differ in sharpness."""
    root = tmp_path_factory.mktemp("sets")
    for split, count in (("train", SCENES), ("test", 2)):
        base = root / "realbokeh" / split
        for number in range(count):
            name, sigma = str(number), 0.5 + 0.1 * ((number * 3) % SCENES)
            seed = number + (split == "test") * 50
            image(seed, sigma, base / f"in/{name}_f22.JPG")
            image(seed, 3.0, base / f"gt/{name}/{name}_f2.0.JPG")
            meta = {
                "focal_length": 50.0,
                "source_av": 22.0,
                "source_image": f"in/{name}_f22.JPG",
                "target_avs": [2.0],
                "target_images": [f"gt/{name}/{name}_f2.0.JPG"],
                "focus_plane_distance": 2.0,
                "focus_plane_uncertainty": 0.1,
            }
            (base / "metadata").mkdir(exist_ok=True)
            (base / f"metadata/{name}.json").write_text(json.dumps(meta))
    for number in range(2):
        image(90 + number, 1.0, root / f"dpdd/train_c/target/1P0A{2 * number + 1:04d}.png")
        image(90 + number, 3.0, root / f"dpdd/train_c/source/1P0A{2 * number + 2:04d}.png")
    return root


def make(source: Any, out: Path, **changes: Any) -> Any:
    route = DeblurPairs(long_edge=2048, least_edge=16, correct=False)
    given: dict[str, Any] = {"splits": {"train": 1.0}, "seed": 1, "items_per_shard": 4, **changes}
    return prepare(route, source, out, leakage=LeakageCheck(distance=0), progress=False, **given)


def sharpness(path: Path) -> float:
    grey = np.asarray(Image.open(path).convert("RGB")) / 255 @ [0.299, 0.587, 0.114]
    return float(laplace(grey, mode="mirror").var())


def test_the_sharpest_of_train_are_kept_and_the_others_are_on_record(
    sets: Path, tmp_path: Path
) -> None:
    root = sets / "realbokeh"
    summary = make(RealBokeh3mp(root, max_per_scene=1, sharpest=3), tmp_path / "one")
    truth = {str(n): sharpness(root / f"train/in/{n}_f22.JPG") for n in range(SCENES)}
    best = sorted(truth, key=lambda name: -truth[name])[:3]
    kept = {one["name"].split("/")[2] for one in read_lines(tmp_path / "one/samples.jsonl")}
    assert summary["written"] == {"train": 3, "val": 0, "test": 2}
    train = ShardDataset(tmp_path / "one/train")
    assert {train.metadata(n)["provenance"]["source"].split("/")[2] for n in range(3)} == set(best)
    assert kept >= set(best)
    ledger = list(read_lines(tmp_path / "one/rejections.jsonl"))
    assert summary["rejected"] == {"not_among_sharpest": SCENES - 3}
    for entry in ledger:
        name = entry["name"].split("/")[2]
        assert entry["value"] == pytest.approx(truth[name], rel=1e-3)
        assert f"3 sharpest of {SCENES}" in entry["detail"]
    # In several jobs, and after an interruption, the same; another number is another set.
    source = RealBokeh3mp(root, max_per_scene=1, sharpest=3)
    assert make(source, tmp_path / "two", job=1, jobs=2) is None
    make(source, tmp_path / "two", job=0, jobs=2)
    files = [sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("one", "two")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    with pytest.raises(ValueError, match="listing"):
        make(RealBokeh3mp(root, max_per_scene=1, sharpest=4), tmp_path / "one")


def test_several_sources_make_one_set(sets: Path, tmp_path: Path) -> None:
    source = CombinedSource(
        {
            "dpdd": declared("dpdd", sets / "dpdd"),
            "realbokeh_3mp": RealBokeh3mp(sets / "realbokeh", sharpest=3),
        }
    )
    summary = make(source, tmp_path)
    assert summary["written"] == {"train": 5, "val": 0, "test": 2}
    names = {one["name"].split("/")[0] for one in read_lines(tmp_path / "samples.jsonl")}
    assert names == {"dpdd", "realbokeh_3mp"}
    with pytest.raises(ValueError, match="without a source"):
        CombinedSource({})
