"""What the controls of the page say."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from genrefocus.optics import Lens
from genrefocus.render.apertures import Aperture, disk, heart, polygon, raster, ring, star

# Upright behind the focus, where most lights are: there a shape is turned by 180 degrees.
SHAPES: Mapping[str, Aperture] = {
    "round": disk(),
    "5 blades": polygon(5, math.pi / 2),
    "6 blades": polygon(6),
    "7 blades": polygon(7, math.pi / 2),
    "9 blades": polygon(9, math.pi / 2),
    "ring, of a mirror lens": ring(0.45),
    "star": star(5, 0.4, math.pi / 2),
    "heart": heart(math.pi),
}
NETWORKS, RENDERER = "networks", "layered renderer"
F_NUMBERS = (1.0, 22.0)


class Controls(NamedTuple):
    """What the controls say; ``by_f``: the F-number was set last, and K follows it."""

    f_number: float
    k: float
    focal_mm: float | None
    sensor_mm: float | None
    shape: str = "round"
    own_shape: str | None = None
    by_f: bool = True

    @property
    def aperture(self) -> Aperture:
        """An image of the opening goes before the shapes that have names."""
        return SHAPES[self.shape] if self.own_shape is None else _drawn(self.own_shape)

    @property
    def is_round(self) -> bool:
        """Whether the aperture is the disc that networks have learned."""
        return self.aperture is SHAPES["round"]

    @property
    def lens(self) -> Lens | None:
        """None where it is not known."""
        return Lens(self.focal_mm, self.sensor_mm) if self.focal_mm and self.sensor_mm else None


@functools.lru_cache(maxsize=16)
def _drawn(path: str) -> Aperture:
    return raster(Path(path))
