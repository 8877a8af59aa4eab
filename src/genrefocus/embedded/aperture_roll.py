"""Simulated aperture series: scenes photographed at f/22 and at wider apertures of one lens.

The files are laid out as RealBokeh_3MP is, with depth beside them as an estimator would give it
for the f/22 frame, errors included::

    images/<split>/in/<scene>_f22.JPG, gt/<scene>/<scene>_f<number>.JPG, metadata/<scene>.json
    depth/<split>/gt/<scene>/<scene>_f<number>.npy     metres, the same for all frames of a scene

Splits are ``train``, ``validation`` and ``test``; the latter two show texture families that
training never sees. Every file is a pure function of seed, split, size and number.
"""

import functools
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.random import SeedSequence

from genrefocus.embedded.files import make_files
from genrefocus.preparation.sources.listing import Scan
from genrefocus.preparation.sources.realbokeh import RealBokeh3mp
from genrefocus.world.camera import draw_exposure, take_photo
from genrefocus.world.cameras import SHARP_F_NUMBER
from genrefocus.world.estimates import estimate
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

GENERATOR_VERSION = 2
"""Raised with every change that makes other images of the same seed."""

SPLITS = ("train", "validation", "test")

# At 64 px; they scale with the size.
_WIDEST_BLUR_PX = (2.0, 6.0)
_MARGIN_PX = 18
_FOCUS_UNCERTAINTY = 0.1  # of the distance, as the camera states it


@dataclass(frozen=True)
class ApertureRollSet:
    """Scenes of ``size`` x 3/2 ``size`` px (HxW), each at f/22 and at some wider apertures.

    Attributes:
        seed: of everything.
        counts: split -> scenes; splits that are missing or 0 are not made.
        size: short edge of the photographs, px; pairs can be measured from 96 px on.
        frames: apertures of a scene in addition to f/22, at most; a lens may have fewer.
    """

    seed: int
    counts: Mapping[str, int]
    size: int
    frames: int
    generator_version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        if unknown := set(self.counts) - set(SPLITS):
            raise ValueError(
                f"counts of {', '.join(sorted(unknown))}; splits are {', '.join(SPLITS)}"
            )

    def px(self, at_64: float) -> float:
        """A length at 64 px, at this size."""
        return at_64 * self.size / 64

    def build(self, root: str | Path, *, workers: int) -> None:
        """Make the files where they are not there yet; see :func:`make_files`."""
        scenes = [
            (split, number) for split in SPLITS for number in range(self.counts.get(split, 0))
        ]
        make_files(
            Path(root),
            functools.partial(take_series, self),
            scenes,
            parameters=asdict(self),
            workers=workers,
            progress=True,
        )


@dataclass(frozen=True)
class ApertureRoll(RealBokeh3mp):
    """The series as a source, made on first use; estimated depth lies in ``depth`` beside ``root``.

    Args:
        root: folder ``images`` of the series.
        seed, counts, size, frames: see :class:`ApertureRollSet`.
        workers: processes that make it.
    """

    seed: int = field(kw_only=True)
    counts: Mapping[str, int] = field(kw_only=True)
    size: int = field(kw_only=True)
    frames: int = field(kw_only=True)
    workers: int = field(kw_only=True)

    name = "aperture_roll"

    def _scan(self, found: Scan) -> None:
        series = ApertureRollSet(self.seed, self.counts, self.size, self.frames)
        series.build(found.root.parent, workers=self.workers)
        super()._scan(found)


def take_series(one: ApertureRollSet, folder: Path, scene_of: tuple[str, int]) -> None:
    """Write photographs, metadata and depth of a scene, given as split and number."""
    split, number = scene_of
    key = zlib.crc32(f"aperture_series/{split}".encode())
    scene_seed, own_seed = SeedSequence((one.seed, key, number)).generate_state(2).tolist()
    families = TRAIN_FAMILIES if split == "train" else HELDOUT_FAMILIES
    margin = max(8, math.ceil(one.px(_MARGIN_PX)))
    scene = procedural_scene(
        scene_seed, one.size, one.size * 3 // 2, families=families, margin=margin
    )
    rng = np.random.default_rng(own_seed)
    low, high = (one.px(x) for x in _WIDEST_BLUR_PX)
    exposure = draw_exposure(scene, rng, split=split, low=low, high=high)
    name, images = f"{number:05d}", folder / "images" / split
    depths = folder / "depth" / split
    for place in (images / "in", images / "gt" / name, images / "metadata"):
        place.mkdir(parents=True, exist_ok=True)
    narrow = replace(exposure, f_number=SHARP_F_NUMBER)
    sharp = f"in/{name}_f22.JPG"
    shot = take_photo(scene, narrow, images / sharp, rng=rng, noise=False)
    depth = estimate(shot, rng).depth
    wider = [n for n in exposure.body.f_numbers if n >= exposure.f_number][: one.frames]
    files = [f"gt/{name}/{name}_f{n:.1f}.JPG" for n in wider]
    (depths / "gt" / name).mkdir(parents=True)
    for f_number, file in zip(wider, files, strict=True):
        at = replace(exposure, f_number=f_number)
        take_photo(scene, at, images / file, rng=rng)
        np.save((depths / file).with_suffix(".npy"), depth)
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
    (images / f"metadata/{name}.json").write_text(json.dumps(metadata) + "\n")
