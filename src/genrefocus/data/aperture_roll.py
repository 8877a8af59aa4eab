"""Simulated aperture series: scenes photographed at f/22 and at wider apertures of one lens.

The files are laid out as RealBokeh_3MP is, with depth beside them as an estimator would give it
for the f/22 frame, errors included::

    pictures/<split>/in/<scene>_f22.JPG, gt/<scene>/<scene>_f<number>.JPG, metadata/<scene>.json
    depth/<split>/gt/<scene>/<scene>_f<number>.npy     metres, the same for all frames of a scene

Splits are ``train``, ``validation`` and ``test``; the latter two show texture families that
training never sees. Every file is a pure function of seed, split, size and number.
"""

import functools
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import SeedSequence

from genrefocus.data.processes import ordered_map
from genrefocus.data.shards import require_same
from genrefocus.optics import blur_radius
from genrefocus.render.scene import Scene, scene_disparity
from genrefocus.world.camera import Exposure, draw_exposure, take_photo
from genrefocus.world.estimates import estimate
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 1
"""Raised with every change that makes other pictures of the same seed."""

SPLITS = ("train", "validation", "test")
RECORD_NAME = "series.json"
SHARP_F_NUMBER = 22.0

# At 64 px; they scale with the size.
_WIDEST_BLUR_PX = (2.0, 6.0)
_MARGIN_PX = 18
_POSITIONS_PER_2_PX = 32  # keeps the error of sampling the aperture beyond 50 dB
_FOCUS_UNCERTAINTY = 0.1  # of the distance, as the camera states it


@dataclass(frozen=True)
class SeriesSet:
    """One split to be made: ``count`` scenes of ``size`` x 3/2 ``size`` px (HxW)."""

    split: str
    count: int
    seed: int
    size: int
    frames: int
    generator_version: int = GENERATOR_VERSION

    def px(self, at_64: float) -> float:
        """A length at 64 px, at this size."""
        return at_64 * self.size / 64


def build_series(
    root: str | Path,
    *,
    seed: int,
    counts: Mapping[str, int],
    size: int,
    frames: int,
    workers: int,
) -> None:
    """Make the splits that are not there yet.

    Args:
        root: folder of the series, created where missing.
        seed: of everything.
        counts: split -> scenes; what is left out or 0 is not made.
        size: short edge of the photographs, px; pairs can be measured from 96 px on.
        frames: apertures of a scene beside f/22 at most; a lens may have fewer.
        workers: processes; 0 works in this one.

    Raises:
        ValueError: an unknown split, or a folder that holds series of other parameters.
    """
    if unknown := set(counts) - set(SPLITS):
        raise ValueError(f"counts of {', '.join(sorted(unknown))}; splits are {', '.join(SPLITS)}")
    for split, count in counts.items():
        if count:
            _build_split(Path(root), SeriesSet(split, count, seed, size, frames), workers)


def take_series(one: SeriesSet, folder: Path, number: int) -> None:
    """Write photographs, metadata and depth of the ``number``-th scene of a split."""
    key = zlib.crc32(f"aperture_series/{one.split}".encode())
    scene_seed, own_seed = SeedSequence((one.seed, key, number)).generate_state(2).tolist()
    families = TRAIN_FAMILIES if one.split == "train" else HELDOUT_FAMILIES
    margin = max(8, math.ceil(one.px(_MARGIN_PX)))
    scene = procedural_scene(
        scene_seed, one.size, one.size * 3 // 2, families=families, margin=margin
    )
    rng = np.random.default_rng(own_seed)
    low, high = (one.px(x) for x in _WIDEST_BLUR_PX)
    exposure = draw_exposure(scene, rng, low=low, high=high)
    name, pictures = f"{number:05d}", folder / "pictures"
    for place in (pictures / "in", pictures / "gt" / name, pictures / "metadata"):
        place.mkdir(parents=True, exist_ok=True)
    narrow = replace(exposure, f_number=SHARP_F_NUMBER)
    sharp = f"in/{name}_f22.JPG"
    shot = take_photo(scene, narrow, pictures / sharp, rng=rng, samples=_positions(scene, narrow))
    depth = estimate(shot, rng).depth
    wider = [n for n in exposure.body.f_numbers if n >= exposure.f_number][: one.frames]
    files = [f"gt/{name}/{name}_f{n:.1f}.JPG" for n in wider]
    (folder / "depth" / "gt" / name).mkdir(parents=True)
    for f_number, file in zip(wider, files, strict=True):
        at = replace(exposure, f_number=f_number)
        take_photo(scene, at, pictures / file, rng=rng, samples=_positions(scene, at))
        np.save((folder / "depth" / file).with_suffix(".npy"), depth)
    distance = 1 / exposure.focus_disparity
    metadata = {
        "focal_length": exposure.focal_length_mm,
        "source_av": SHARP_F_NUMBER,
        "source_image": sharp,
        "target_avs": wider,
        "target_images": files,
        "focus_plane_distance": distance,
        "focus_plane_uncertainty": _FOCUS_UNCERTAINTY * distance,
    }
    (pictures / f"metadata/{name}.json").write_text(json.dumps(metadata) + "\n")


def _positions(scene: Scene, exposure: Exposure) -> int:
    strength = exposure.strength(scene.height, scene.width)
    radius = blur_radius(scene_disparity(scene), exposure.focus_disparity, strength)
    return _POSITIONS_PER_2_PX * max(1, math.ceil(float(radius.max()) / 2))


def _build_split(root: Path, one: SeriesSet, workers: int) -> None:
    record = root / "pictures" / one.split / RECORD_NAME
    if record.is_file():
        require_same(record.parent, json.loads(record.read_bytes()), {"parameters": asdict(one)})
        return
    unfinished = root / f".{one.split}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with ordered_map(workers) as mapper:
        for _ in mapper(functools.partial(take_series, one, unfinished), range(one.count)):
            pass
    digest = hashlib.sha256()
    for path in sorted(path for path in unfinished.rglob("*") if path.is_file()):
        digest.update(path.relative_to(unfinished).as_posix().encode() + path.read_bytes())
    # The record moves with the pictures, last: a split without it is made again.
    content = {"parameters": asdict(one), "fingerprint": digest.hexdigest()}
    write_atomically(
        unfinished / "pictures" / RECORD_NAME, json.dumps(content, sort_keys=True).encode() + b"\n"
    )
    for name in ("depth", "pictures"):
        target = root / name / one.split
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).rename(target)
    unfinished.rmdir()
