"""The embedded data: everything that the scheme trains on by default, made from seeds.

Four kinds of sets, each with its splits::

    synthetic    shards: all-in-focus picture, lens-sampled bokeh, exact disparity, K and focus; and
                 ``blurry``, the scene photographed with another focus and K
    deblur       shards: the same without ``blurry``; here the bokeh is the input
    sweep        shards: as synthetic, held-out scenes at the values of K that LVCorr is measured at
    camera_roll  photos/*.jpg by a simulated camera with EXIF; depth/*.npy (metres) and mask/*.png
                 as estimators would give them, errors included

Scenes of val and test are made of texture families that training never sees. Sample number n of
``synthetic`` and of ``deblur`` shows the same scene in val and test, and the ``blurry`` of the
former is the bokeh of the latter: a photograph, what is sharp in it, and its refocused truth.

Every file is a pure function of seed, set and number, for any number of worker processes.
"""

import functools
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from torch import Tensor

from genrefocus import __version__
from genrefocus.data.images import save_image
from genrefocus.data.processes import OrderedMap, ordered_map
from genrefocus.data.sample import SPLITS, Sample, encode
from genrefocus.data.shards import (
    ShardWriter,
    is_finished,
    read_index,
    require_same,
)
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.progress import Bars
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.camera import draw_exposure, take_photo
from genrefocus.world.estimates import estimate
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 3
"""Raised with every change that makes other pictures of the same seed."""

Kind = Literal["synthetic", "deblur", "sweep", "camera_roll"]
KINDS: tuple[Kind, ...] = ("synthetic", "deblur", "sweep", "camera_roll")

DEFAULT_COUNTS: Mapping[str, Mapping[str, int]] = {
    "synthetic": {"train": 2000, "val": 64, "test": 64},
    "deblur": {"train": 2500, "val": 64, "test": 64},
    "sweep": {"val": 16, "test": 64},
    "camera_roll": {"train": 600, "val": 64, "test": 64},
}

ROLL_NAME = "roll.json"

# At 64 px; they scale with the size. The margin holds the shift of the greatest blur.
_LEAST_BLUR_PX = {"synthetic": 0.5, "deblur": 0.5, "sweep": 3.0, "camera_roll": 0.8}
_GREATEST_BLUR_PX = 6.0
_MARGIN_PX = 12
_POSITIONS_PER_2_PX = 32  # keeps the error of sampling the aperture beyond 50 dB


@dataclass(frozen=True)
class EmbeddedSet:
    """One set to be made: ``count`` samples of a kind and split at ``size`` px."""

    kind: Kind
    split: str
    count: int
    seed: int
    size: int

    @property
    def folder(self) -> str:
        """Below the root of the data."""
        return f"{self.kind}/{self.split}"

    @property
    def families(self) -> tuple[str, ...]:
        return TRAIN_FAMILIES if self.split == "train" else HELDOUT_FAMILIES

    @property
    def blur_px(self) -> tuple[float, float]:
        """Range of the greatest blur radius in a frame, px; the draw is log-uniform."""
        return self.px(_LEAST_BLUR_PX[self.kind]), self.px(_GREATEST_BLUR_PX)

    def parameters(self) -> dict[str, Any]:
        """All that determines the bytes of the set."""
        return {
            "kind": self.kind,
            "split": self.split,
            "count": self.count,
            "seed": self.seed,
            "size": self.size,
            "families": list(self.families),
            "generator_version": GENERATOR_VERSION,
        }

    def scene_seed(self, number: int) -> int:
        """Shared by the held-out pairs of ``synthetic`` and ``deblur``, else of this set alone."""
        paired = self.split != "train" and self.kind in ("synthetic", "deblur")
        name = self.split if paired else self.folder
        state = SeedSequence((self.seed, zlib.crc32(name.encode()), number)).generate_state(2)
        return int(state[0]) << 31 | int(state[1]) >> 1

    def generator(self, number: int) -> Generator:
        """For everything about a sample but its scene."""
        return np.random.default_rng((self.seed, zlib.crc32(self.folder.encode()), number, 1))

    def px(self, at_64: float) -> float:
        """A length at 64 px, at this size."""
        return at_64 * self.size / 64


def build_embedded(
    root: str | Path,
    *,
    seed: int,
    counts: Mapping[str, Mapping[str, int]] = DEFAULT_COUNTS,
    size: int = 64,
    workers: int = 2,
    command: str = "",
    progress: bool = True,
) -> list[EmbeddedSet]:
    """Make the sets that are not there yet, and a card README.md about all of them.

    Args:
        root: folder of the data, created where missing.
        seed: of everything.
        counts: kind -> split -> samples; what is left out or 0 is not made.
        size: edge of the square pairs and short edge of the photographs, px, >= 16.
        workers: processes; 0 works in this one.
        command: for the card, what the user typed.
        progress: show a bar with the time that is left on stderr.

    Returns:
        All sets of ``counts``, made now or before.

    Raises:
        ValueError: an unknown kind or split, or a folder that holds a set of other parameters.
    """
    root = Path(root)
    sets = _sets(counts, seed, size)
    missing = [one for one in sets if not _is_there(root, one)]
    if missing:
        with ordered_map(workers) as mapper, Bars(progress) as bar:
            for one in missing:
                make = _make_roll if one.kind == "camera_roll" else _make_shards
                make(root / one.folder, one, mapper, bar)
    write_atomically(root / "README.md", dataset_card(root, sets, command).encode())
    return sets


def make_pair(one: EmbeddedSet, number: int) -> Sample:
    """The ``number``-th sample of a set of pairs: ``synthetic``, ``deblur`` or ``sweep``."""
    scene_seed = one.scene_seed(number)
    margin = max(8, round(one.px(_MARGIN_PX)))
    scene = procedural_scene(scene_seed, one.size, one.size, families=one.families, margin=margin)
    focus, strength = _draw_blur(one, scene, number)
    extras = {}
    if one.kind != "deblur":
        extras["blurry"] = _through_lens(
            scene, *_draw_blur(replace(one, kind="deblur"), scene, number)
        )
    if one.kind == "sweep":
        for k in PROTOCOL_K[:-1]:
            weaker = replace(strength, k=strength.k * k / PROTOCOL_K[-1])
            extras[f"sweep_{k:g}"] = _through_lens(scene, focus, weaker)
    return Sample(
        key=f"{'sweep-' if one.kind == 'sweep' else ''}{one.split}-{number:06d}",
        route="deblur" if one.kind == "deblur" else "synthetic",
        split=one.split,
        aif=to_bytes(scene_aif(scene)),
        bokeh=_through_lens(scene, focus, strength),
        disparity=scene_disparity(scene),
        strength=strength,
        focus_disparity=focus,
        extras=extras,
        provenance={
            "source": "procedural scene, simulated",
            "scene_seed": scene_seed,
            "textures": "train" if one.families == TRAIN_FAMILIES else "held out",
            "renderer": "lens sampled",
            "aperture": "disk",
            "depth": "exact",
            "generator_version": GENERATOR_VERSION,
            "code_version": __version__,
        },
    )


def take_roll_photo(one: EmbeddedSet, folder: Path, number: int) -> str:
    """Write photograph, depth and mask of the ``number``-th shot of a ``camera_roll`` set."""
    rng = one.generator(number)
    scene = roll_scene(one, number, rng)
    low, high = one.blur_px
    exposure = draw_exposure(scene, rng, low=low, high=high)
    name = f"IMG_{number:05d}"
    shot = take_photo(scene, exposure, folder / "photos" / f"{name}.jpg", rng=rng)
    estimates = estimate(shot, rng)
    np.save(folder / "depth" / f"{name}.npy", estimates.depth)
    mask = torch.from_numpy(estimates.mask.astype(np.uint8)) * 255
    save_image(mask, folder / "mask" / f"{name}.png")
    return name


def roll_scene(one: EmbeddedSet, number: int, rng: Generator) -> Scene:
    """The scene of the ``number``-th shot; ``rng`` is the set's generator for it, just begun."""
    edges = [one.size, one.size * 3 // 2]
    height, width = edges if rng.random() < 2 / 3 else edges[::-1]
    margin = max(8, round(one.px(1.5 * _MARGIN_PX)))
    return procedural_scene(
        one.scene_seed(number), height, width, families=one.families, margin=margin
    )


def _sets(counts: Mapping[str, Mapping[str, int]], seed: int, size: int) -> list[EmbeddedSet]:
    for kind, splits in counts.items():
        if kind not in KINDS or set(splits) - set(SPLITS):
            raise ValueError(
                f"counts of {kind} for {', '.join(splits)}; kinds are {', '.join(KINDS)}, "
                f"splits {', '.join(SPLITS)}"
            )
    wanted = (
        (kind, split, counts.get(kind, {}).get(split, 0)) for kind in KINDS for split in SPLITS
    )
    return [EmbeddedSet(kind, split, count, seed, size) for kind, split, count in wanted if count]


def _is_there(root: Path, one: EmbeddedSet) -> bool:
    folder = root / one.folder
    if one.kind != "camera_roll":
        return is_finished(folder, one.parameters())
    if not (folder / ROLL_NAME).is_file():
        return False
    found = json.loads((folder / ROLL_NAME).read_bytes())
    require_same(folder, found, {"parameters": one.parameters()})
    return True


def _make_shards(folder: Path, one: EmbeddedSet, mapper: OrderedMap, bar: Bars) -> None:
    with ShardWriter(folder, parameters=one.parameters(), samples_per_shard=500) as writer:
        start = len(writer.written)
        task = bar.add_task(f"making {one.folder}", total=one.count, completed=start)
        for key, members in mapper(functools.partial(_encoded_pair, one), range(start, one.count)):
            writer.write_encoded(key, members)
            bar.advance(task)


def _make_roll(folder: Path, one: EmbeddedSet, mapper: OrderedMap, bar: Bars) -> None:
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in ("photos", "depth", "mask"):
        (unfinished / name).mkdir(parents=True)
    task = bar.add_task(f"making {one.folder}", total=one.count)
    for _ in mapper(functools.partial(take_roll_photo, one, unfinished), range(one.count)):
        bar.advance(task)
    digest = hashlib.sha256()
    for path in sorted(unfinished.glob("*/*")):
        digest.update(path.relative_to(unfinished).as_posix().encode() + path.read_bytes())
    record = {"parameters": one.parameters(), "fingerprint": digest.hexdigest()}
    write_atomically(unfinished / ROLL_NAME, json.dumps(record, sort_keys=True).encode() + b"\n")
    unfinished.rename(folder)


def _encoded_pair(one: EmbeddedSet, number: int) -> tuple[str, dict[str, bytes]]:
    # Bytes and no tensors: torch would hand those between processes through shared memory.
    sample = make_pair(one, number)
    return sample.key, encode(sample)


def _draw_blur(one: EmbeddedSet, scene: Scene, number: int) -> tuple[float, BlurStrength]:
    rng = one.generator(number)
    focus = draw_focus(scene, rng)
    low, high = one.blur_px
    return focus, draw_strength(scene, focus, rng, low=low, high=high)


def _through_lens(scene: Scene, focus: float, strength: BlurStrength) -> Tensor:
    """The photograph, (3, H, W) uint8, with as many aperture positions as its blur needs."""
    greatest = float(blur_radius(scene_disparity(scene), focus, strength).max())
    positions = disk().positions(_POSITIONS_PER_2_PX * max(1, math.ceil(greatest / 2)))
    light = render_lens(scene, focus_disparity=focus, strength=strength, positions=positions)
    return to_bytes(light)


def dataset_card(root: Path, sets: list[EmbeddedSet], command: str) -> str:
    """README.md of the data, in Markdown: what they are, how they were made, how to make them."""
    rows = [f"| {one.folder} | {one.count} | {_fingerprint(root, one)[:16]} |" for one in sets]
    parameters = {"seed": sets[0].seed, "size": sets[0].size} if sets else {}
    counts = {one.folder: one.count for one in sets}
    template = resources.files("genrefocus.data").joinpath("embedded_card.md").read_text("utf-8")
    return template.format(
        rows="\n".join(rows),
        command=command or "build_embedded(...), see genrefocus.data.embedded",
        parameters=json.dumps({**parameters, "counts": counts}),
        generator=GENERATOR_VERSION,
        code=__version__,
        train=", ".join(TRAIN_FAMILIES),
        heldout=", ".join(HELDOUT_FAMILIES),
        least=_LEAST_BLUR_PX,
        greatest=_GREATEST_BLUR_PX,
    )


def _fingerprint(root: Path, one: EmbeddedSet) -> str:
    folder = root / one.folder
    if one.kind == "camera_roll":
        return str(json.loads((folder / ROLL_NAME).read_bytes())["fingerprint"])
    return str(read_index(folder)["fingerprint"])
