"""Routes on real input at small size: labels are right, from the source's files to the shards."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor

from datamodules.examples import to_example
from genrefocus.data.images import load_image, save_image
from genrefocus.data.sample import to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.estimators import DetailRetention, RefinedMask, SidecarDepth, SidecarMask
from genrefocus.k_search import KRange
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.metrics.psnr import psnr
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.preparation.aperture_series import ApertureSeries
from genrefocus.preparation.deblur_pairs import DeblurPairs
from genrefocus.preparation.draws import LikePhotographs, LogUniformRadius
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import Source
from genrefocus.preparation.ledger import read_lines
from genrefocus.preparation.rendered import Lights, PointLights, Shapes, Synthetic
from genrefocus.preparation.route import Route
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import LeakageCheck
from genrefocus.preparation.sources import Folder, Pairs, RealBokeh3mp, procedural_scenes
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import srgb_to_linear, to_bytes
from genrefocus.world.scenes import draw_focus, procedural_scene
from genrefocus.world.textures import TRAIN_FAMILIES

HEIGHT, WIDTH = 112, 144
RADII = {1.8: 4.0, 4.0: 2.5}
BLUR = LogUniformRadius(low=0.005, high=0.05, least_px=1.0, most_px=6.0)
DISK = Shapes({"disk": 1.0})


def make(route: Route, source: Source, out: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "splits": {"train": 1.0},
        "gates": Gates({}),
        "leakage": LeakageCheck(against=(), distance=0, allow=()),
        "seed": 1,
        "items_per_shard": 8,
        "progress": False,
    }
    summary = prepare(route, source, out, **(arguments | changes))
    assert summary is not None
    return summary


def photograph(scene: Scene, focus: float, strength: BlurStrength) -> Tensor:
    positions = disk().positions(128)
    return to_bytes(
        render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
    )


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RealBokeh_3MP in miniature, of procedural scenes with exact depth and known K."""
    root = tmp_path_factory.mktemp("series")
    truth: dict[str, float] = {}
    for number in range(3):
        scene = procedural_scene(40 + number, HEIGHT, WIDTH, lights=0.0, margin=64)
        disparity = scene_disparity(scene)
        focus = draw_focus(scene, default_rng(number))
        unit = BlurStrength(1.0, HEIGHT, WIDTH)
        radius = blur_radius(disparity, focus, unit)
        name = str(100 + number)
        base = root / "set/train"
        for folder in ("in", f"gt/{name}", "metadata"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        sharp = to_bytes(scene_aif(scene))
        save_image(sharp, base / f"in/{name}_f22.JPG")
        frames = []
        for f_number, largest in RADII.items():
            strength = BlurStrength(largest / float(radius.max()), HEIGHT, WIDTH)
            file = f"gt/{name}/{name}_f{f_number}.JPG"
            save_image(photograph(scene, focus, strength), base / file)
            frames.append(file)
            truth[f"train/{file}"] = strength.k
            for kind in ("depth", "mask"):
                (root / kind / f"train/gt/{name}").mkdir(parents=True, exist_ok=True)
            stem = root / "depth" / f"train/{file}"
            np.save(stem.with_suffix(".npy"), (1 / disparity).numpy().astype(np.float32))
            mask = (radius <= 0.02 * radius.max()).to(torch.uint8) * 255
            save_image(mask, (root / "mask" / f"train/{file}").with_suffix(".png"))
        meta = {
            "focal_length": 50.0,
            "source_av": 22.0,
            "source_image": f"in/{name}_f22.JPG",
            "target_avs": list(RADII),
            "target_images": frames,
            "focus_plane_distance": 1 / focus,
            "focus_plane_uncertainty": 0.1,
        }
        (base / f"metadata/{name}.json").write_text(json.dumps(meta))
    (root / "truth.json").write_text(json.dumps(truth))
    return root


def calibration(series: Path, **changes: Any) -> ApertureSeries:
    arguments: dict[str, Any] = {
        "depth": SidecarDepth(series / "depth"),
        "mask": SidecarMask(series / "mask"),
        "aperture": disk(),
        "long_edge": 1024,
        "least_edge": 64,
        "correct": False,
        "k_range": KRange(0.002, 0.08, 20),
        "edge_width": 0,
    }
    return ApertureSeries(**(arguments | changes))


def test_an_aperture_series_finds_the_k_that_it_was_rendered_with(
    series: Path, tmp_path: Path
) -> None:
    summary = make(calibration(series), RealBokeh3mp(series / "set"), tmp_path, workers=2)
    truth = json.loads((series / "truth.json").read_text())
    dataset = ShardDataset(tmp_path / "train")
    assert summary["found"] == len(truth)
    found = {}
    for number in range(len(dataset)):
        sample = dataset[number]
        assert sample.strength is not None
        found[sample.provenance["source"]] = sample.strength.k
        curve = sample.provenance["calibration"]["curve"]
        assert len(curve) <= 20
        assert max(score for _, score in curve) == sample.provenance["measures"]["ssim"]
        assert sample.provenance["facts"]["f_number"] in RADII
    rejected = {x["name"]: x for x in read_lines(tmp_path / "rejections.jsonl")}
    assert len(found) + len(rejected) == len(truth)
    assert len(found) >= 4
    for name, k in found.items():
        largest = RADII[float(name.rpartition("_f")[2].removesuffix(".JPG"))]
        assert abs(k / truth[name] - 1) * largest < 0.3, name  # px of blur radius
    for entry in rejected.values():
        assert entry["reason"] in ("k_at_bound", "score_flat", "score_multimodal")
        assert len(entry["value"]["curve"]) > 5


def test_a_k_beyond_the_bounds_is_rejected_with_its_curve(series: Path, tmp_path: Path) -> None:
    narrow = calibration(
        series, k_range=KRange(0.0005, 0.004, 20)
    )  # up to 0.6 px; the truth is 2.5 up
    with pytest.raises(ValueError, match=r"nothing of 6 found.*6 k_at_bound"):
        make(narrow, RealBokeh3mp(series / "set"), tmp_path)
    [first, *_] = read_lines(tmp_path / "rejections.jsonl")
    assert first["value"]["k"] == max(k for k, _ in first["value"]["curve"])


def test_saliency_is_held_against_what_is_sharp(series: Path, tmp_path: Path) -> None:
    """A mask of the opposite is replaced by detail retention, and the sample says so."""
    opposite = tmp_path / "opposite"
    for path in (series / "mask").rglob("*.png"):
        target = opposite / path.relative_to(series / "mask")
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(255 - (load_image(path)[0] * 255).to(torch.uint8), target)
    retention = DetailRetention(window=7)
    for folder, origin in ((series / "mask", "sidecar mask"), (opposite, "detail retention")):
        mask = RefinedMask(SidecarMask(folder), retention, min_agreement=0.75)
        make(calibration(series, mask=mask), RealBokeh3mp(series / "set"), tmp_path / origin)
        dataset = ShardDataset(tmp_path / origin / "train")
        origins = [dataset.metadata(n)["provenance"]["mask"] for n in range(len(dataset))]
        assert sum(one.startswith(origin) for one in origins) >= 0.6 * len(origins)
        assert all("agreement" in one for one in origins)


def test_pairs_are_measured_and_corrected(series: Path, tmp_path: Path) -> None:
    for folder in ("sharp", "blurred"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
    for path in sorted((series / "set/train/in").glob("*.JPG")):
        number = path.stem.split("_")[0]
        photo = load_image(series / f"set/train/gt/{number}/{number}_f4.0.JPG")
        brighter = (srgb_to_linear(photo) * 1.25).clamp(0, 1)
        save_image(to_bytes(brighter), tmp_path / f"pairs/blurred/{number}.png")
        save_image(
            (load_image(path) * 255).round().to(torch.uint8), tmp_path / f"pairs/sharp/{number}.png"
        )
    source = Pairs(tmp_path / "pairs", sharp="sharp", photo="blurred")
    route = DeblurPairs(long_edge=1024, least_edge=64, correct=True)
    make(route, source, tmp_path / "out")
    dataset = ShardDataset(tmp_path / "out/train")
    assert len(dataset) == 3
    for number in range(3):
        sample = dataset[number]
        measures = sample.provenance["measures"]
        assert measures["exposure_shift"] == pytest.approx(np.log2(1.25), abs=0.06)
        assert measures["registration_error"] < 0.3
        assert measures["sharpness_ratio"] < 0.97
        sharp = load_image(tmp_path / "pairs/sharp" / sample.provenance["source"].split("/")[-1])
        # Corrected, the sharp image has the brightness of the photograph.
        means = [
            float(srgb_to_linear(x).mean())
            for x in (sharp, to_float(sample.aif), to_float(sample.bokeh))
        ]
        assert abs(means[1] - means[2]) < 0.3 * abs(means[0] - means[2])
    gates = Gates({"exposure_shift": {"max": 0.1}})
    with pytest.raises(ValueError, match="3 gate_exposure_shift"):
        make(route, source, tmp_path / "gated", gates=gates)


def test_scenes_are_rendered_with_the_labels_they_carry(tmp_path: Path) -> None:
    source = procedural_scenes(counts={"train": 4, "val": 2}, seed=3, height=48, width=64)
    route = Synthetic(None, BLUR, DISK, long_edge=64, least_edge=16, most_radius=0.13)
    make(route, source, tmp_path)
    for split in ("train", "val"):
        dataset = ShardDataset(tmp_path / split)
        for number in range(len(dataset)):
            sample = dataset[number]
            assert sample.disparity is not None and sample.strength is not None
            assert sample.focus_disparity is not None
            largest = float(
                blur_radius(sample.disparity, sample.focus_disparity, sample.strength).max()
            )
            measures = sample.provenance["measures"]
            assert largest == pytest.approx(measures["largest_radius"], rel=1e-3)
            assert largest <= 6.0 * 1.001 + 0.01
            seed = sample.provenance["scene_seed"]
            assert sample.provenance["textures"] == ("train" if split == "train" else "held out")
            assert sample.provenance["seed"] == seed
            same = psnr(to_float(sample.aif)[None], to_float(sample.bokeh)[None])
            assert 15 < float(same) < 60


def test_scenes_hold_what_the_chain_and_lvcorr_are_measured_on(
    tmp_path: Path,
) -> None:
    """In the way that both networks read it, and without moving the rest of the sample."""
    source = procedural_scenes(counts={"train": 2}, seed=3, height=48, width=64)
    plain = Synthetic(None, BLUR, DISK, long_edge=64, least_edge=16, most_radius=0.13)
    make(plain, source, tmp_path / "plain")
    make(replace(plain, blurry=True, sweep=True), source, tmp_path / "more")
    bare, full = (ShardDataset(tmp_path / name / "train") for name in ("plain", "more"))
    for number in range(2):
        one, more = bare[number], full[number]
        assert torch.equal(one.bokeh, more.bokeh) and one.strength == more.strength
        assert set(more.extras) == {"blurry", *(f"sweep_{k:g}" for k in PROTOCOL_K[:-1])}
        assert not torch.equal(more.extras["blurry"], more.bokeh)
        series_of_k = [more.extras[f"sweep_{k:g}"] for k in PROTOCOL_K[:-1]] + [more.bokeh]
        errors = [float(psnr(to_float(x)[None], to_float(one.aif)[None])) for x in series_of_k]
        assert errors == sorted(errors, reverse=True)
        seed = one.provenance["scene_seed"]
        scene = procedural_scene(seed, 48, 64, families=TRAIN_FAMILIES, margin=15)
        weaker = replace(one.strength, k=one.strength.k * 5 / 15)
        truth = to_float(photograph(scene, one.focus_disparity, weaker))
        assert float(psnr(to_float(more.extras["sweep_5"])[None], truth[None])) > 45
    item = to_example(full[0], (48, 48), (0.5, 0.5), mirrored=False)
    assert item["blurry"].shape == item["sweep_1"].shape == (3, 48, 48)


def test_images_are_rendered_and_follow_a_set_of_photographs(series: Path, tmp_path: Path) -> None:
    make(calibration(series), RealBokeh3mp(series / "set"), tmp_path / "real")
    sharp = tmp_path / "sharp"
    (sharp / "gt").mkdir(parents=True)
    (tmp_path / "depth/gt").mkdir(parents=True)
    for path in sorted((series / "set/train/in").glob("*.JPG")):
        number = path.stem.split("_")[0]
        (sharp / f"gt/{number}.jpg").write_bytes(path.read_bytes())
        depth = series / f"depth/train/gt/{number}/{number}_f1.8.npy"
        (tmp_path / f"depth/gt/{number}.npy").write_bytes(depth.read_bytes())
    blur = LikePhotographs(tmp_path / "real")
    route = Synthetic(
        SidecarDepth(tmp_path / "depth"), blur, DISK, long_edge=72, least_edge=16, most_radius=0.2
    )
    make(route, Folder(sharp), tmp_path / "out")
    photographs, rendered = (
        ShardDataset(tmp_path / "real/train"),
        ShardDataset(tmp_path / "out/train"),
    )
    relative = {photographs.metadata(n)["k"] / WIDTH for n in range(len(photographs))}
    for number in range(len(rendered)):
        sample = rendered[number]
        assert max(sample.size) == 72
        assert sample.strength is not None
        assert min(abs(sample.strength.k / 72 / k - 1) for k in relative) < 1e-6
        assert sample.provenance["renderer"] == "layered"
        assert sample.provenance["depth"] == "sidecar depth"


def test_point_lights_carry_their_shape_and_their_lights(series: Path, tmp_path: Path) -> None:
    shapes = Shapes({"heart": 1.0, "star": 1.0})
    lights = Lights(count=(5, 9), energies=(20.0, 200.0), night=True, sharpen=0.3)
    arguments = {"long_edge": 96, "least_edge": 16, "most_radius": 0.13, "lights": lights}
    night = procedural_scenes(counts={"train": 3}, seed=3, height=48, width=64, kind="night")
    make(PointLights(None, BLUR, shapes, **arguments), night, tmp_path / "scenes")
    (tmp_path / "depth").mkdir()
    (tmp_path / "sharp").mkdir()
    for number in ("100", "101"):
        path = series / f"set/train/in/{number}_f22.JPG"
        (tmp_path / f"sharp/{number}.jpg").write_bytes(path.read_bytes())
        depth = series / f"depth/train/gt/{number}/{number}_f1.8.npy"
        (tmp_path / f"depth/{number}.npy").write_bytes(depth.read_bytes())
    route = PointLights(SidecarDepth(tmp_path / "depth"), BLUR, shapes, **arguments)
    make(route, Folder(tmp_path / "sharp"), tmp_path / "images")
    for folder in ("scenes", "images"):
        dataset = ShardDataset(tmp_path / folder / "train")
        for number in range(len(dataset)):
            sample = dataset[number]
            assert sample.route == "point_lights"
            assert sample.aperture["kind"] in ("heart", "star")
            assert sample.provenance["aperture"].startswith(sample.aperture["kind"])
            assert int((sample.aif == 255).sum()) > 5
            if folder == "images":
                assert 5 <= len(sample.provenance["lights"]) <= 9


def test_a_source_without_the_images_of_the_route_is_refused(series: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="route deblur needs images of role photo"):
        make(DeblurPairs(1024, 16, True), Folder(series / "set"), tmp_path)
