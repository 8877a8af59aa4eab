"""The embedded data: everything that the scheme trains on by default, made from seeds.

Five kinds of sets, each with its splits::

    synthetic    train: sharp scenes with estimated disparity, blurred by the layered renderer with
                 an ideal disc; ``blurry`` is the scene with another focus and K. val and test:
                 photographs, see below, ``blurry`` among them
    deblur       photographs: the bokeh is the input, taken wide open; the sharp image was taken at
                 f/22, without noise
    sweep        as synthetic in val and test, at the values of K that LVCorr is measured at
    camera_roll  photos/*.jpg by a simulated camera with EXIF; depth/*.npy (metres) and mask/*.png
                 as estimators would give them, errors included
    point_lights night scenes with point lights, rendered with shaped apertures; only where they are
                 asked for, see ``embedded.lights``

Photographs show what lenses and cameras do, see ``world.cameras``: rims, colours, cat's eyes, tone
curve, noise, JPEG. Disparity is what an estimator would say in all sets, and the focus disparity is
read from it; K is true.

Scenes of val and test are made of texture families that training never sees, and a quarter of test
is photographed with a lens that nothing else is. Sample number n of ``synthetic`` and of ``deblur``
shows the same scene in val and test, and the ``blurry`` of the former is the bokeh of the latter: a
photograph, what is sharp in it, and its refocused truth.

Every file is a pure function of seed, set and number, for any number of worker processes.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.random import Generator

from genrefocus import __version__
from genrefocus.data.images import save_image
from genrefocus.data.sample import SPLITS
from genrefocus.data.shards import INDEX_NAME, read_index
from genrefocus.embedded.files import RECORD_NAME, make_files
from genrefocus.embedded.lights import make_night
from genrefocus.embedded.pairs import (
    GENERATOR_VERSION,
    GREATEST_BLUR_PX,
    LEAST_BLUR_PX,
    LEAST_HELDOUT_BLUR_PX,
    MARGIN_PX,
    NIGHT,
    PAIRS,
    ROLL,
    EmbeddedSet,
    SetKind,
    make_pair,
)
from genrefocus.preparation.route import Prepared, Route
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.sources.numbered import NumberedScenes
from genrefocus.render.scene import Scene
from genrefocus.world.camera import Exposure, draw_exposure, take_photo
from genrefocus.world.cameras import HELDOUT_LENS, HELDOUT_SHARE, LENSES
from genrefocus.world.estimates import estimate
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES
from genrefocus.writing import write_atomically

DEFAULT_COUNTS: Mapping[str, Mapping[str, int]] = {
    "synthetic": {"train": 1600, "val": 64, "test": 96},
    "deblur": {"train": 1600, "val": 64, "test": 96},
    "sweep": {"val": 16, "test": 64},
    "camera_roll": {"train": 500, "val": 64, "test": 64},
}
_KINDS = (*PAIRS, ROLL, NIGHT)
POINT_LIGHTS: Mapping[str, int] = {"train": 640, "val": 32, "test": 96}


@dataclass(frozen=True)
class EmbeddedPairs(Route):
    """The pairs of a kind as a route, see :func:`make_pair` and :func:`make_night`."""

    kind: SetKind
    seed: int
    size: int
    generator_version: int = GENERATOR_VERSION
    batch_size: int = 1

    @property
    def name(self) -> str:
        return self.kind if self.kind in ("deblur", NIGHT) else "synthetic"

    def sample(self, candidate: Candidate, estimated: object) -> Prepared:
        one = EmbeddedSet(self.kind, candidate.split, self.seed, self.size)
        make = make_night if self.kind == NIGHT else make_pair
        return Prepared(make(one, candidate.item.facts["number"]), {})


def build_embedded(
    root: str | Path,
    *,
    seed: int,
    counts: Mapping[str, Mapping[str, int]] = DEFAULT_COUNTS,
    point_lights: bool = False,
    size: int = 64,
    workers: int = 2,
    command: str = "",
    progress: bool = True,
) -> None:
    """Make the sets that are not there yet, and a card README.md about all of them.

    Args:
        root: folder of the data, created where missing.
        seed: of everything.
        counts: kind -> split -> samples; splits that are missing or 0 are not made.
        point_lights: make these night scenes too, ``POINT_LIGHTS`` of them unless ``counts`` says
            how many.
        size: edge of the square pairs and short edge of the photographs, px, >= 16.
        workers: processes; 0 works in this one.
        command: for the card, what the user typed.
        progress: show bars with the time that is left on stderr.

    Raises:
        ValueError: an unknown kind or split, or a folder that holds a set of other parameters.
    """
    counts = {NIGHT: POINT_LIGHTS, **counts} if point_lights else counts
    root, wanted = Path(root), _wanted(counts)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".make.lock"):  # runs that begin at the same time wait for one of them
        _build_sets(root, wanted, seed, size, workers, progress)
        card = dataset_card(root, seed, size, command)
        write_atomically(root / "README.md", card.encode())


def _build_sets(
    root: Path,
    wanted: Mapping[str, Mapping[str, int]],
    seed: int,
    size: int,
    workers: int,
    progress: bool,
) -> None:
    prefixes = {"sweep": "sweep-", NIGHT: "lights-"}
    for kind in (*PAIRS, NIGHT):
        if own := wanted.get(kind):
            prepare(
                EmbeddedPairs(kind, seed, size),
                NumberedScenes(f"embedded {kind}", own, prefix=prefixes.get(kind, "")),
                root / kind,
                seed=seed,
                items_per_shard=500,
                splits=dict.fromkeys(own, 1 / len(own)),
                workers=workers,
                progress=progress,
            )
    for split, count in wanted.get(ROLL, {}).items():
        one = EmbeddedSet(ROLL, split, seed, size)
        make_files(
            root / one.folder,
            functools.partial(take_roll_photo, one),
            range(count),
            parameters={**asdict(one), "count": count, "generator_version": GENERATOR_VERSION},
            workers=workers,
            progress=progress,
        )


def take_roll_photo(one: EmbeddedSet, folder: Path, number: int) -> None:
    """Write photograph, depth and mask of the ``number``-th shot of a ``camera_roll`` set."""
    for place in ("photos", "depth", "mask"):
        (folder / place).mkdir(exist_ok=True)
    scene, exposure, rng = draw_roll_shot(one, number)
    name = f"IMG_{number:05d}"
    shot = take_photo(scene, exposure, folder / "photos" / f"{name}.jpg", rng=rng)
    estimates = estimate(shot, rng)
    np.save(folder / "depth" / f"{name}.npy", estimates.depth)
    mask = torch.from_numpy(estimates.mask.astype(np.uint8)) * 255
    save_image(mask, folder / "mask" / f"{name}.png")


def draw_roll_shot(one: EmbeddedSet, number: int) -> tuple[Scene, Exposure, Generator]:
    """Scene and exposure of the ``number``-th shot, and the generator that the rest is drawn by."""
    rng = one.generator(number)
    edges = [one.size, one.size * 3 // 2]
    height, width = edges if rng.random() < 2 / 3 else edges[::-1]
    margin = max(8, round(one.px(1.5 * MARGIN_PX)))
    scene = procedural_scene(
        one.scene_seed(number), height, width, families=one.families, margin=margin
    )
    low, high = one.blur_px
    return scene, draw_exposure(scene, rng, split=one.split, low=low, high=high), rng


def _wanted(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Kind -> split -> samples, of what is to be made, in order."""
    for kind, splits in counts.items():
        if kind not in _KINDS or set(splits) - set(SPLITS):
            raise ValueError(
                f"counts of {kind} for {', '.join(splits)}; kinds are {', '.join(_KINDS)}, "
                f"splits {', '.join(SPLITS)}"
            )
    return {
        kind: {split: counts[kind][split] for split in SPLITS if counts[kind].get(split)}
        for kind in _KINDS
        if kind in counts
    }


def dataset_card(root: Path, seed: int, size: int, command: str) -> str:
    """README.md of the data, in Markdown: what they are, how they were made, how to make them."""
    folders = [f"{kind}/{split}" for kind in _KINDS for split in SPLITS]
    made = {folder: found for folder in folders if (found := _made(root / folder))}
    sets = {folder: count for folder, (count, _) in made.items()}
    rows = [f"| {folder} | {count} | {digest[:16]} |" for folder, (count, digest) in made.items()]
    template = resources.files("genrefocus.embedded").joinpath("card.md").read_text("utf-8")
    return template.format(
        rows="\n".join(rows),
        command=command or "build_embedded(...), see genrefocus.embedded",
        parameters=json.dumps({"seed": seed, "size": size, "counts": sets}),
        generator=GENERATOR_VERSION,
        code=__version__,
        train=", ".join(TRAIN_FAMILIES),
        heldout=", ".join(HELDOUT_FAMILIES),
        least=LEAST_BLUR_PX,
        least_heldout=LEAST_HELDOUT_BLUR_PX,
        greatest=GREATEST_BLUR_PX,
        lenses=", ".join(lens.name for lens in LENSES),
        heldout_lens=HELDOUT_LENS.name,
        heldout_share=HELDOUT_SHARE,
    )


def _made(folder: Path) -> tuple[int, str] | None:
    """Samples and fingerprint of a finished set; None where there is none, or an empty one."""
    if (record := folder / RECORD_NAME).is_file():
        made = json.loads(record.read_bytes())
        count = made["parameters"]["count"]
    elif (folder / INDEX_NAME).is_file():
        made = read_index(folder)
        count = made["samples"]
    else:
        return None
    return (count, made["fingerprint"]) if count else None
