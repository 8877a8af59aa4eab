"""What rendered routes render: real sharp pictures with estimated depth, and procedural scenes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genrefocus.data.sample import SPLITS
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.preparation.item import Item
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import srgb_to_linear
from genrefocus.world.night import night_scene
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

Render = Callable[[Tensor, float, BlurStrength, Aperture], tuple[Tensor, str]]
"""(image, focus disparity, K, aperture) -> image, both (3, H, W) linear light; and by what."""

KINDS = ("day", "night")
# Positions on the aperture: so many for 2 px of blur keep the error beyond 50 dB by day. Discs of
# lights far above white show every position, and want so many for each px of their area; where that
# is more than what follows, one image with its depth is rendered instead.
_POSITIONS_PER_2_PX = 32
_POSITIONS_PER_LIT_PX = 2
_MOST_POSITIONS = 1024

LENS, LAYERED = "lens sampled", "layered"


@dataclass(frozen=True)
class Subject:
    """A sharp picture that depth of field can be rendered into.

    Attributes:
        image: (3, H, W) linear light, >= 0.
        disparity: (H, W) in 1/m.
        render: its renderer.
        range: least and greatest disparity in 1/m of all surfaces, hidden ones included.
        is_scene: whether it is procedural.
        provenance: renderer and origin of depth, by name.
    """

    image: Tensor
    disparity: Tensor
    render: Render
    range: tuple[float, float]
    is_scene: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProceduralScenes:
    """Procedural scenes as a source: no pictures, exact depth, rendered through a sampled lens.

    Scenes of val and test are made of texture families that train never sees.

    Attributes:
        counts: split -> number of scenes.
        seed: of all of them.
        height, width: px.
        kind: ``day``, or ``night`` with many point lights.
    """

    counts: Mapping[str, int]
    seed: int
    height: int
    width: int
    kind: str = "day"

    roles = frozenset({"scene"})

    def __post_init__(self) -> None:
        if set(self.counts) - set(SPLITS):
            raise ValueError(f"counts for {', '.join(self.counts)}; splits are {', '.join(SPLITS)}")
        if self.kind not in KINDS:
            raise ValueError(f"scenes of kind {self.kind!r}; choose from {', '.join(KINDS)}")

    @property
    def name(self) -> str:
        return f"procedural {self.kind} scenes, {self.height}x{self.width} px, seed {self.seed}"

    def items(self) -> list[Item]:
        return [
            Item(
                name=f"{self.kind}-{split}-{number:06d}",
                scene=f"{self.kind}-{split}-{number:06d}",
                pictures={},
                facts={
                    "kind": self.kind,
                    "size": [self.height, self.width],
                    "seed": self.seed,
                    "held_out": split != "train",
                },
                split=split,
            )
            for split in SPLITS
            for number in range(self.counts.get(split, 0))
        ]

    def problems(self) -> list[tuple[str, Rejected]]:
        return []


def subject_of_image(image: Tensor, disparity: Tensor, depth: str, edge_width: int) -> Subject:
    """A sharp image (3, H, W) sRGB in [0, 1] with disparity (H, W) in 1/m.

    Args:
        image, disparity: what is rendered.
        depth: name of the estimator.
        edge_width: px of smeared depth edges, see ``render.layered``.
    """

    def render(
        light: Tensor, focus: float, strength: BlurStrength, aperture: Aperture
    ) -> tuple[Tensor, str]:
        return _in_layers(light, disparity, focus, strength, aperture, edge_width)

    low, high = (float(x) for x in disparity.aminmax())
    return Subject(srgb_to_linear(image), disparity, render, (low, high), False, {"depth": depth})


def subject_of_scene(facts: Mapping[str, Any], seed: int, most_radius: float) -> Subject:
    """A procedural scene.

    Args:
        facts: of an item of :class:`ProceduralScenes`.
        seed: of the scene.
        most_radius: largest blur radius, in parts of the long edge, that it is drawn for.
    """
    height, width = facts["size"]
    margin = max(8, math.ceil(1.5 * most_radius * max(height, width)) + 2)
    draw = night_scene if facts["kind"] == "night" else procedural_scene
    families = HELDOUT_FAMILIES if facts["held_out"] else TRAIN_FAMILIES
    scene = draw(seed, height, width, families=families, margin=margin)
    disparity = scene_disparity(scene)

    def render(
        light: Tensor, focus: float, strength: BlurStrength, aperture: Aperture
    ) -> tuple[Tensor, str]:
        greatest = float(blur_radius(disparity, focus, strength).max())
        count = _POSITIONS_PER_2_PX * max(1, math.ceil(greatest / 2))
        if facts["kind"] == "night":
            count = max(count, math.ceil(_POSITIONS_PER_LIT_PX * math.pi * greatest**2))
        if count > _MOST_POSITIONS:
            return _in_layers(light, disparity, focus, strength, aperture, 0)
        positions = aperture.positions(count)
        return (
            render_lens(scene, focus_disparity=focus, strength=strength, positions=positions),
            LENS,
        )

    provenance = {
        "depth": "exact",
        "textures": "held out" if facts["held_out"] else "train",
        "scene_seed": seed,
    }
    planes = torch.stack([one.plane.over(height, width) for one in scene.layers])
    low, high = (float(x) for x in planes.aminmax())
    return Subject(scene_aif(scene), disparity, render, (low, high), True, provenance)


def _in_layers(
    image: Tensor,
    disparity: Tensor,
    focus: float,
    strength: BlurStrength,
    aperture: Aperture,
    edge_width: int,
) -> tuple[Tensor, str]:
    light = render_layered(
        image,
        disparity,
        focus_disparity=focus,
        strength=strength,
        aperture=aperture,
        edge_width=edge_width,
    )
    return light, LAYERED
