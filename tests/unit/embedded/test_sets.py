"""The embedded data: bytes that follow from the seed, labels, held-out scenes and lens."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from genrefocus.data.images import load_image, load_mask
from genrefocus.data.sample import to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.lights import make_night
from genrefocus.embedded.pairs import EmbeddedSet, make_pair
from genrefocus.embedded.sets import build_embedded
from genrefocus.metrics.aperture_shape import Light, shape_scores
from genrefocus.metrics.lvcorr import PROTOCOL_K, laplacian_variance
from genrefocus.optics import blur_radius, visible_blur
from genrefocus.photograph.exif import read_exposure
from genrefocus.render.apertures import described, disk
from genrefocus.render.layered import render_layered
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.cameras import HELDOUT_LENS, LENSES
from genrefocus.world.scenes import procedural_scene
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
    listed = ("samples.jsonl", "rejections.jsonl", ".lock")  # keys alone, or nothing
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
    for sample in [*_samples(data / "synthetic/train"), *_samples(data / "deblur/val")]:
        radius = blur_radius(sample.disparity, sample.focus_disparity, sample.strength)
        assert 0 <= float(radius.min()) < 0.1
        difference = (to_float(sample.aif) - to_float(sample.bokeh)).abs().mean(0)
        if float(radius.max()) > 1:
            assert difference[radius < 0.1].mean() < difference[radius > 1].mean()
        assert sample.provenance["source"].endswith("simulated")
        assert sample.provenance["depth"] == "simulated estimate"


def test_a_training_pair_is_what_a_simulator_makes_of_estimated_depth() -> None:
    """Nothing that an exact lens or exact depth would give is in it."""
    one = EmbeddedSet("synthetic", "train", 3, 32)
    scales = []
    for number in range(12):
        sample = make_pair(one, number)
        scene = procedural_scene(one.scene_seed(number), 32, 32, families=one.families, margin=0)
        light = scene_aif(scene)
        assert torch.equal(sample.aif, to_bytes(light))
        rendered = render_layered(
            light,
            sample.disparity,
            focus_disparity=sample.focus_disparity,
            strength=sample.strength,
            aperture=disk(),
            edge_width=2,
        )
        assert torch.equal(sample.bokeh, to_bytes(rendered))
        assert "lens" not in sample.provenance
        scales.append(float((sample.disparity / scene_disparity(scene)).median().log()))
    assert 0.02 < np.std(scales) < 0.1


def test_photographs_name_their_lens_and_sharp_ones_are_stopped_down() -> None:
    held_out = []
    for number in range(16):
        sample = make_pair(EmbeddedSet("deblur", "test", 3, 32), number)
        facts = sample.provenance
        names = {lens.name for lens in LENSES}
        assert facts["held_out_lens"] == (facts["lens"] == HELDOUT_LENS.name)
        assert facts["held_out_lens"] or facts["lens"] in names
        held_out.append(facts["held_out_lens"])
        # The same tone curve, a sharper image.
        sharp, photo = to_float(sample.aif), to_float(sample.bokeh)
        assert float((sharp.mean() - photo.mean()).abs()) < 0.02
        variance = laplacian_variance(torch.stack([sharp, photo]))
        assert variance[0] > variance[1]
    assert 0 < sum(held_out) < 16
    for kind in ("synthetic", "deblur"):
        sample = make_pair(EmbeddedSet(kind, "val", 3, 32), 0)
        assert not sample.provenance["held_out_lens"]


@pytest.mark.parametrize(("split", "low"), [("train", 0.5), ("test", 1.2)])
def test_visible_blur_is_log_uniform(split: str, low: float) -> None:
    one = EmbeddedSet("deblur", split, 0, 32)
    radii = []
    for number in range(32):
        sample = make_pair(one, number)
        radii.append(visible_blur(sample.disparity, sample.focus_disparity, sample.strength))
    ends = np.log([low / 2, 3.0])  # at 32 px
    for quantile in (0.1, 0.5, 0.9):
        wanted = ends[0] + quantile * (ends[1] - ends[0])
        assert np.log(np.quantile(radii, quantile)) == pytest.approx(wanted, abs=0.35)


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


def test_night_scenes_show_the_shape_on_a_light_that_lies_alone() -> None:
    kinds = set()
    for number in range(8):
        sample = make_night(EmbeddedSet("point_lights", "test", 3, 64), number)
        aperture = described(sample.aperture)
        kinds.add(aperture.name)
        lights = [
            Light(one["x"], one["y"], one["disparity"]) for one in sample.provenance["lights"]
        ]
        given = sample.disparity, sample.focus_disparity, sample.strength, aperture, lights
        found = shape_scores(to_float(sample.bokeh), *given)
        assert found and all(score > 0.85 and told for score, told in found)
        assert max(score for score, _ in shape_scores(to_float(sample.aif), *given)) < 0.6
        assert (sample.aif == 255).all(0).sum() >= 1  # far above white, and clipped
        assert (sample.disparity > sample.focus_disparity).float().mean() <= 0.02
    assert len(kinds) > 3
    assert make_night(EmbeddedSet("point_lights", "train", 3, 64), 0).split == "train"


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
    assert HELDOUT_LENS.name in card
    assert "{" not in card.replace('{"seed', "").replace('{"synthetic', "")


def _samples(folder: Path) -> list:
    dataset = ShardDataset(folder)
    return [dataset[n] for n in range(len(dataset))]


def test_runs_that_begin_at_the_same_time_make_the_data_once(tmp_path: Path) -> None:
    counts = {"deblur": {"val": 2}, "camera_roll": {"train": 2}}

    def make(_: int) -> None:
        build_embedded(tmp_path, seed=1, counts=counts, size=32, workers=0, progress=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, range(2)))
    assert len(list((tmp_path / "camera_roll/train/photos").iterdir())) == 2
