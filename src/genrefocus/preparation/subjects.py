"""What rendered routes render: real sharp images with estimated depth, and procedural scenes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.render.apertures import Aperture
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import srgb_to_linear
from genrefocus.world.night import night_scene
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES

# Positions on the aperture: so many for 2 px of blur keep the error beyond 50 dB by day. Discs of
# lights far above white show every position, and want so many for each px of their area; where that
# is more than what follows, one image with its depth is rendered instead.
_POSITIONS_PER_2_PX = 32
_POSITIONS_PER_LIT_PX = 2
_MOST_POSITIONS = 1024


@dataclass(frozen=True)
class Subject:
    """A sharp image that depth of field can be rendered into.

    Attributes:
        image: (3, H, W) linear light, >= 0.
        disparity: (H, W) in 1/m.
        range: least and greatest disparity in 1/m of all surfaces, hidden ones included.
        provenance: origin of depth, by name.
        edge_width: px of smeared depth edges, see ``render.layered``.
        scene: where it is procedural; None for a real image.
        is_night: whether the scene has lights far above white.
    """

    image: Tensor
    disparity: Tensor
    range: tuple[float, float]
    provenance: Mapping[str, Any]
    edge_width: int = 0
    scene: Scene | None = None
    is_night: bool = False

    def render(
        self, image: Tensor, focus: float, strength: BlurStrength, aperture: Aperture
    ) -> tuple[Tensor, str]:
        """The photograph of an image of the subject, linear light, and the renderer's name.

        Args:
            image: ``self.image``, lights added or not.
            focus: disparity in 1/m.
            strength: K for the image's size.
            aperture: of the lens.
        """
        count = self._positions(focus, strength)
        if self.scene is not None and count <= _MOST_POSITIONS:
            positions = aperture.positions(count)
            light = render_lens(
                self.scene, focus_disparity=focus, strength=strength, positions=positions
            )
            return light, "lens sampled"
        light = render_layered(
            image,
            self.disparity,
            focus_disparity=focus,
            strength=strength,
            aperture=aperture,
            edge_width=self.edge_width,
        )
        return light, "layered"

    def _positions(self, focus: float, strength: BlurStrength) -> int:
        """How many positions on the aperture the blur needs."""
        greatest = float(blur_radius(self.disparity, focus, strength).max())
        count = _POSITIONS_PER_2_PX * max(1, math.ceil(greatest / 2))
        lit = math.ceil(_POSITIONS_PER_LIT_PX * math.pi * greatest**2)
        return max(count, lit) if self.is_night else count


def subject_of_image(image: Tensor, disparity: Tensor, depth: str, edge_width: int) -> Subject:
    """A sharp image (3, H, W) sRGB in [0, 1] with disparity (H, W) in 1/m.

    Args:
        image, disparity: what is rendered.
        depth: name of the estimator.
        edge_width: px of smeared depth edges, see ``render.layered``.
    """
    low, high = (float(x) for x in disparity.aminmax())
    return Subject(srgb_to_linear(image), disparity, (low, high), {"depth": depth}, edge_width)


def subject_of_scene(candidate: Candidate, most_radius: float) -> Subject:
    """A procedural scene; textures of val and test are never those of train.

    Args:
        candidate: of :func:`genrefocus.preparation.sources.procedural_scenes`.
        most_radius: largest blur radius, in parts of the long edge, that it is drawn for.
    """
    height, width = candidate.item.facts["size"]
    margin = max(8, math.ceil(1.5 * most_radius * max(height, width)) + 2)
    is_night, held_out = candidate.item.facts["kind"] == "night", candidate.split != "train"
    draw = night_scene if is_night else procedural_scene
    families = HELDOUT_FAMILIES if held_out else TRAIN_FAMILIES
    scene = draw(candidate.seed, height, width, families=families, margin=margin)
    provenance = {
        "depth": "exact",
        "textures": "held out" if held_out else "train",
        "scene_seed": candidate.seed,
    }
    planes = torch.stack([one.plane.over(height, width) for one in scene.layers])
    low, high = (float(x) for x in planes.aminmax())
    return Subject(
        scene_aif(scene),
        scene_disparity(scene),
        (low, high),
        provenance,
        scene=scene,
        is_night=is_night,
    )
