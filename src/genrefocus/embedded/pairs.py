"""The pairs of the embedded data: photographs, and what a simulator makes of sharp scenes."""

import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from torch import Tensor

from genrefocus import __version__
from genrefocus.data.sample import Sample
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, focus_disparity
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import strongest
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.camera import as_jpeg, draw_iso, photograph
from genrefocus.world.cameras import (
    HELDOUT_LENS,
    SHARP_F_NUMBER,
    CameraBody,
    Lens,
    draw_body,
    draw_lens,
)
from genrefocus.world.estimates import estimate_depth
from genrefocus.world.scenes import draw_strength, draw_surface, procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

GENERATOR_VERSION = 4
"""Raised with every change that makes other images of the same seed."""

SetKind = Literal["synthetic", "deblur", "sweep", "camera_roll", "point_lights"]
PAIRS: tuple[SetKind, ...] = ("synthetic", "deblur", "sweep")
ROLL: SetKind = "camera_roll"
NIGHT: SetKind = "point_lights"

# At 64 px; they scale with the size. The margin holds the shift of the greatest blur.
LEAST_BLUR_PX = {"synthetic": 0.5, "deblur": 0.5, "sweep": 3.0, "camera_roll": 0.8}
LEAST_HELDOUT_BLUR_PX = 1.2  # so that two in three have 2 px or more
GREATEST_BLUR_PX = 6.0
MARGIN_PX = 14
# Where a scene has little depth, a stronger lens would blur what is in focus.
_GREATEST_K = 12.0
_VISIBLE_PX = 2.0
_F_NUMBER = 2.0  # wide open
EDGE_WIDTH_PX = 2  # of estimated depth, at any size


@dataclass(frozen=True)
class EmbeddedSet:
    """The samples of a kind and split at ``size`` px, by their numbers."""

    kind: SetKind
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
        least = LEAST_BLUR_PX[self.kind]
        if self.split != "train":
            least = max(least, LEAST_HELDOUT_BLUR_PX)
        return self.px(least), self.px(GREATEST_BLUR_PX)

    @property
    def rendered(self) -> bool:
        """Whether its images are a simulator's, and no photographs."""
        return self.kind == "synthetic" and self.split == "train"

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


def make_pair(one: EmbeddedSet, number: int) -> Sample:
    """The ``number``-th sample of a set of pairs: ``synthetic``, ``deblur`` or ``sweep``."""
    subject = _PhotographedScene.drawn(one, number)
    rendered = one.rendered
    photo = _render if rendered else _photograph
    own = other = _draw_blur(one, subject, number)
    if one.kind != "deblur":
        other = _draw_blur(replace(one, kind="deblur"), subject, number)
    extras = {}
    if one.kind != "deblur":
        extras["blurry"] = photo(subject, other)
    if one.kind == "sweep":
        for k in PROTOCOL_K[:-1]:
            weaker = replace(own.strength, k=own.strength.k * k / PROTOCOL_K[-1])
            extras[f"sweep_{k:g}"] = photo(subject, replace(own, strength=weaker))
    source = {"source_focus_disparity": other.estimated_focus, "source_k": other.strength.k}
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
            **(source if "blurry" in extras else {}),
            "depth": "simulated estimate",
            "generator_version": GENERATOR_VERSION,
            "code_version": __version__,
        },
    )


@dataclass(frozen=True)
class _PhotographedScene:
    """A scene, its disparity (H, W) as an estimator gives it, and what it is photographed with."""

    scene: Scene
    estimated: Tensor
    body: CameraBody
    lens: Lens

    @classmethod
    def drawn(cls, one: EmbeddedSet, number: int) -> "_PhotographedScene":
        # What is rendered from the image alone needs no margin.
        margin = 0 if one.rendered else max(8, round(one.px(MARGIN_PX)))
        seed = one.scene_seed(number)
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


def _draw_blur(one: EmbeddedSet, subject: _PhotographedScene, number: int) -> _Blur:
    rng = one.generator(number)
    surface, disparity = draw_surface(subject.scene, rng), scene_disparity(subject.scene)
    focus = float(disparity[surface].median())
    low, high = one.blur_px
    if one.split != "train" and low < (middle := one.px(_VISIBLE_PX)):
        # One in three below, as a log-uniform draw has it, and not by chance.
        below = (number + PAIRS.index(one.kind)) % 3 == 0
        low, high = (low, middle) if below else (middle, high)
    most = one.px(_GREATEST_K)
    if subject.scene.margin:
        most = min(most, strongest(subject.scene, focus, subject.lens.character).k)
    strength = draw_strength(subject.scene, focus, rng, low=low, high=high, most=most)
    estimated = focus_disparity(subject.estimated, surface)
    return _Blur(focus, estimated, strength, int(rng.integers(2**32)))


def _render(subject: _PhotographedScene, blur: _Blur) -> Tensor:
    """What a simulator makes of the sharp scene and its estimated depth: (3, H, W) uint8."""
    light = render_layered(
        scene_aif(subject.scene),
        subject.estimated,
        focus_disparity=blur.estimated_focus,
        strength=blur.strength,
        aperture=disk(),
        edge_width=EDGE_WIDTH_PX,
    )
    return to_bytes(light)


def _photograph(subject: _PhotographedScene, blur: _Blur) -> Tensor:
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


def _stopped_down(subject: _PhotographedScene, blur: _Blur) -> Tensor:
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
