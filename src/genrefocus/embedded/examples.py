"""A few larger photographs to try things with, of the world that the embedded data are made of."""

from pathlib import Path

import numpy as np

from genrefocus.embedded.files import make_files
from genrefocus.world.camera import draw_exposure, take_photo
from genrefocus.world.estimates import estimate
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES

_SEEDS = (15, 22, 14, 12)  # of scenes with something near and something far
_SIZE = (320, 480)
_MARGIN_PX = 24
_BLUR_PX = (1.5, 5.0)  # visible; what the embedded networks know
_VERSION = 1  # raised with every change that makes other images of the same seeds


def build_examples(root: str | Path) -> list[tuple[Path, Path]]:
    """Files of photographs with EXIF, and of their depth as an estimator would give it, in metres.

    They are made in the folder ``examples`` of the embedded data on first use, which takes seconds.

    Args:
        root: of the embedded data; where there are none, there are no examples.
    """
    if not Path(root).is_dir():
        return []
    folder = Path(root) / "examples"
    parameters = {"seeds": _SEEDS, "size": _SIZE, "blur_px": _BLUR_PX, "version": _VERSION}
    make_files(folder, take_example, _SEEDS, parameters=parameters, workers=0, progress=True)
    names = [f"example_{seed}" for seed in _SEEDS]
    return [(folder / f"{name}.jpg", folder / f"{name}.npy") for name in names]


def take_example(folder: Path, seed: int) -> None:
    """Write photograph and depth of one seed."""
    rng = np.random.default_rng(seed)
    scene = procedural_scene(seed, *_SIZE, families=HELDOUT_FAMILIES, margin=_MARGIN_PX)
    low, high = _BLUR_PX
    exposure = draw_exposure(scene, rng, split="test", low=low, high=high)
    shot = take_photo(scene, exposure, folder / f"example_{seed}.jpg", rng=rng)
    np.save(folder / f"example_{seed}.npy", estimate(shot, rng).depth)
