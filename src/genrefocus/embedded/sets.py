"""The embedded data: everything that the scheme trains on by default, made from seeds.

Four kinds of sets, each with its splits::

    synthetic    train: sharp scenes with estimated disparity, blurred by the layered renderer with
                 an ideal disc; ``blurry`` is the scene with another focus and K. val and test:
                 photographs, see below, ``blurry`` among them
    deblur       photographs: the bokeh is the input, taken wide open; the sharp image was taken at
                 f/22, without noise
    sweep        as synthetic in val and test, at the values of K that LVCorr is measured at
    camera_roll  photos/*.jpg by a simulated camera with EXIF; depth/*.npy (metres) and mask/*.png
                 as estimators would give them, errors included

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
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from torch import Tensor

from genrefocus import __version__
from genrefocus.data.images import save_image
from genrefocus.data.sample import SPLITS, Sample
from genrefocus.data.shards import read_index
from genrefocus.embedded.files import RECORD_NAME, make_files
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, focus_disparity
from genrefocus.preparation.route import Prepared, Route
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.sources.numbered import Numbered
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.camera import as_jpeg, draw_exposure, draw_iso, photograph, take_photo
from genrefocus.world.cameras import (
    HELDOUT_LENS,
    SHARP_F_NUMBER,
    CameraBody,
    Lens,
    draw_body,
    draw_lens,
)
from genrefocus.world.estimates import estimate, estimate_depth
from genrefocus.world.scenes import draw_strength, draw_surface, procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 4
"""Raised with every change that makes other images of the same seed."""

Kind = Literal["synthetic", "deblur", "sweep", "camera_roll"]
PAIRS: tuple[Kind, ...] = ("synthetic", "deblur", "sweep")
ROLL: Kind = "camera_roll"

DEFAULT_COUNTS: Mapping[str, Mapping[str, int]] = {
    "synthetic": {"train": 2000, "val": 64, "test": 96},
    "deblur": {"train": 2000, "val": 64, "test": 96},
    "sweep": {"val": 16, "test": 64},
    "camera_roll": {"train": 600, "val": 64, "test": 64},
}

# At 64 px; they scale with the size. The margin holds the shift of the greatest blur.
_LEAST_BLUR_PX = {"synthetic": 0.5, "deblur": 0.5, "sweep": 3.0, "camera_roll": 0.8}
_LEAST_HELDOUT_BLUR_PX = 1.2  # so that two in three have 2 px or more
_GREATEST_BLUR_PX = 6.0
_MARGIN_PX = 14
# Where a scene has little depth, a stronger lens would blur what is in focus.
_GREATEST_K = 12.0
_F_NUMBER = 2.0  # wide open
_EDGE_WIDTH_PX = 2  # of estimated depth, at any size


@dataclass(frozen=True)
class EmbeddedSet:
    """The samples of a kind and split at ``size`` px, by their numbers."""

    kind: Kind
    split: str
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
        """Range of the visible blur of a sample, px; the draw is log-uniform."""
        least = _LEAST_BLUR_PX[self.kind]
        if self.split != "train":
            least = max(least, _LEAST_HELDOUT_BLUR_PX)
        return self.px(least), self.px(_GREATEST_BLUR_PX)

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


@dataclass(frozen=True)
class EmbeddedPairs(Route):
    """The pairs of a kind as a route, see :func:`make_pair`."""

    kind: Kind
    seed: int
    size: int
    generator_version: int = GENERATOR_VERSION
    batch_size: int = 1

    @property
    def name(self) -> str:
        return "deblur" if self.kind == "deblur" else "synthetic"

    def sample(self, candidate: Candidate, estimated: object) -> Prepared:
        one = EmbeddedSet(self.kind, candidate.split, self.seed, self.size)
        return Prepared(make_pair(one, candidate.item.facts["number"]), {})


def build_embedded(
    root: str | Path,
    *,
    seed: int,
    counts: Mapping[str, Mapping[str, int]] = DEFAULT_COUNTS,
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
        size: edge of the square pairs and short edge of the photographs, px, >= 16.
        workers: processes; 0 works in this one.
        command: for the card, what the user typed.
        progress: show bars with the time that is left on stderr.

    Raises:
        ValueError: an unknown kind or split, or a folder that holds a set of other parameters.
    """
    root, wanted = Path(root), _wanted(counts)
    for kind in PAIRS:
        if own := wanted.get(kind):
            prepare(
                EmbeddedPairs(kind, seed, size),
                Numbered(f"embedded {kind}", own, prefix="sweep-" if kind == "sweep" else ""),
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
    card = dataset_card(root, wanted, seed, size, command)
    write_atomically(root / "README.md", card.encode())


def make_pair(one: EmbeddedSet, number: int) -> Sample:
    """The ``number``-th sample of a set of pairs: ``synthetic``, ``deblur`` or ``sweep``."""
    subject = _Subject.drawn(one, number)
    rendered = one.kind == "synthetic" and one.split == "train"
    photo = _render if rendered else _photograph
    own, other = (_draw_blur(x, subject, number) for x in (one, replace(one, kind="deblur")))
    extras = {}
    if one.kind != "deblur":
        extras["blurry"] = photo(subject, other)
    if one.kind == "sweep":
        for k in PROTOCOL_K[:-1]:
            weaker = replace(own.strength, k=own.strength.k * k / PROTOCOL_K[-1])
            extras[f"sweep_{k:g}"] = photo(subject, replace(own, strength=weaker))
    how = {"renderer": "layered", "aperture": "disk"} if rendered else subject.camera_facts
    return Sample(
        key=f"{'sweep-' if one.kind == 'sweep' else ''}{one.split}-{number:06d}",
        route="deblur" if one.kind == "deblur" else "synthetic",
        split=one.split,
        aif=to_bytes(scene_aif(subject.scene)) if rendered else _stopped_down(subject, other),
        bokeh=photo(subject, own),
        disparity=subject.estimated,
        strength=own.strength,
        focus_disparity=own.estimated_focus,
        extras=extras,
        provenance={
            "source": "procedural scene, simulated",
            "scene_seed": one.scene_seed(number),
            "textures": "train" if one.families == TRAIN_FAMILIES else "held out",
            **how,
            "depth": "simulated estimate",
            "generator_version": GENERATOR_VERSION,
            "code_version": __version__,
        },
    )


@dataclass(frozen=True)
class _Subject:
    """A scene, its disparity (H, W) as an estimator gives it, and what it is photographed with."""

    scene: Scene
    estimated: Tensor
    body: CameraBody
    lens: Lens

    @classmethod
    def drawn(cls, one: EmbeddedSet, number: int) -> "_Subject":
        seed, margin = one.scene_seed(number), max(8, round(one.px(_MARGIN_PX)))
        scene = procedural_scene(seed, one.size, one.size, families=one.families, margin=margin)
        rng = np.random.default_rng((seed, 1))
        depth = estimate_depth(scene_disparity(scene).numpy(), rng)
        estimated = 1.0 / torch.from_numpy(depth.astype(np.float32))
        return cls(scene, estimated, draw_body(rng), draw_lens(rng, one.split))

    @property
    def camera_facts(self) -> dict[str, str | bool]:
        """For the provenance of photographs."""
        return {
            "renderer": "lens sampled",
            "camera": self.body.model,
            "lens": self.lens.name,
            "held_out_lens": self.lens == HELDOUT_LENS,
        }


@dataclass(frozen=True)
class _Blur:
    """Focus and K of an image, and the seed of its noise."""

    focus: float
    estimated_focus: float
    strength: BlurStrength
    noise_seed: int


def _draw_blur(one: EmbeddedSet, subject: _Subject, number: int) -> _Blur:
    rng = one.generator(number)
    surface, disparity = draw_surface(subject.scene, rng), scene_disparity(subject.scene)
    focus = float(disparity[surface].median())
    low, high = one.blur_px
    strength = draw_strength(
        subject.scene, focus, rng, low=low, high=high, character=subject.lens.character
    )
    strength = replace(strength, k=min(strength.k, one.px(_GREATEST_K)))
    estimated = focus_disparity(subject.estimated, surface)
    return _Blur(focus, estimated, strength, int(rng.integers(2**32)))


def _render(subject: _Subject, blur: _Blur) -> Tensor:
    """What a simulator makes of the sharp scene and its estimated depth: (3, H, W) uint8."""
    light = render_layered(
        scene_aif(subject.scene),
        subject.estimated,
        focus_disparity=blur.estimated_focus,
        strength=blur.strength,
        aperture=disk(),
        edge_width=_EDGE_WIDTH_PX,
    )
    return to_bytes(light)


def _photograph(subject: _Subject, blur: _Blur) -> Tensor:
    """The photograph wide open, (3, H, W) uint8."""
    rng = np.random.default_rng(blur.noise_seed)
    image = photograph(
        subject.scene,
        body=subject.body,
        lens=subject.lens,
        focus_disparity=blur.focus,
        strength=blur.strength,
        noise=(draw_iso(rng), rng),
    )
    return as_jpeg(image)


def _stopped_down(subject: _Subject, blur: _Blur) -> Tensor:
    """The same photograph at f/22, without noise: what stands for the sharp image."""
    stop = _F_NUMBER / SHARP_F_NUMBER
    return photograph(
        subject.scene,
        body=subject.body,
        lens=subject.lens,
        focus_disparity=blur.focus,
        strength=replace(blur.strength, k=stop * blur.strength.k),
        stop=stop,
        noise=None,
    )


def take_roll_photo(one: EmbeddedSet, folder: Path, number: int) -> None:
    """Write photograph, depth and mask of the ``number``-th shot of a ``camera_roll`` set."""
    for place in ("photos", "depth", "mask"):
        (folder / place).mkdir(exist_ok=True)
    rng = one.generator(number)
    scene = roll_scene(one, number, rng)
    low, high = one.blur_px
    exposure = draw_exposure(scene, rng, split=one.split, low=low, high=high)
    name = f"IMG_{number:05d}"
    shot = take_photo(scene, exposure, folder / "photos" / f"{name}.jpg", rng=rng)
    estimates = estimate(shot, rng)
    np.save(folder / "depth" / f"{name}.npy", estimates.depth)
    mask = torch.from_numpy(estimates.mask.astype(np.uint8)) * 255
    save_image(mask, folder / "mask" / f"{name}.png")


def roll_scene(one: EmbeddedSet, number: int, rng: Generator) -> Scene:
    """The scene of the ``number``-th shot; ``rng`` is the set's generator for it, just begun."""
    edges = [one.size, one.size * 3 // 2]
    height, width = edges if rng.random() < 2 / 3 else edges[::-1]
    margin = max(8, round(one.px(1.5 * _MARGIN_PX)))
    return procedural_scene(
        one.scene_seed(number), height, width, families=one.families, margin=margin
    )


def _wanted(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Kind -> split -> samples, of what is to be made, in order."""
    for kind, splits in counts.items():
        if kind not in (*PAIRS, ROLL) or set(splits) - set(SPLITS):
            raise ValueError(
                f"counts of {kind} for {', '.join(splits)}; kinds are {', '.join((*PAIRS, ROLL))}, "
                f"splits {', '.join(SPLITS)}"
            )
    return {
        kind: {split: counts[kind][split] for split in SPLITS if counts[kind].get(split)}
        for kind in (*PAIRS, ROLL)
        if kind in counts
    }


def dataset_card(
    root: Path, counts: Mapping[str, Mapping[str, int]], seed: int, size: int, command: str
) -> str:
    """README.md of the data, in Markdown: what they are, how they were made, how to make them."""
    sets = {
        f"{kind}/{split}": count for kind, own in counts.items() for split, count in own.items()
    }
    rows = [
        f"| {folder} | {count} | {_fingerprint(root / folder)[:16]} |"
        for folder, count in sets.items()
    ]
    template = resources.files("genrefocus.embedded").joinpath("card.md").read_text("utf-8")
    return template.format(
        rows="\n".join(rows),
        command=command or "build_embedded(...), see genrefocus.embedded",
        parameters=json.dumps({"seed": seed, "size": size, "counts": sets}),
        generator=GENERATOR_VERSION,
        code=__version__,
        train=", ".join(TRAIN_FAMILIES),
        heldout=", ".join(HELDOUT_FAMILIES),
        least=_LEAST_BLUR_PX,
        greatest=_GREATEST_BLUR_PX,
    )


def _fingerprint(folder: Path) -> str:
    record = folder / RECORD_NAME
    made = json.loads(record.read_bytes()) if record.is_file() else read_index(folder)
    return str(made["fingerprint"])
