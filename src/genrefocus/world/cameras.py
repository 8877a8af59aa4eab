"""The simulated cameras and lenses: all their parameters, and where their ranges come from.

- blades: 5 to 9, straight or rounded, as makers of lenses state.
- spherical: blur discs of real lenses are bright at the rim on one side of the focus and soft on
  the other (H. Nasse, "Depth of Field and Bokeh", Zeiss 2010; J. Kasson, "The relationship of
  defocus and spherical aberration", blog.kasson.com). 0.1 to 0.5 mm between the focus of rim and
  middle of a fast lens of 50 mm are 0.04 to 0.2 1/m in front of it (length over f^2).
- chromatic: red and blue focus farther than green, so that fringes are magenta in front and green
  behind (E. Dozier, "How to analyze lens longitudinal chromatic aberration"; J. Kasson, "Another
  medium tele test: direct LoCA measurement"). Shifts of 0.02 to 0.1 mm, for 35 to 50 mm, are 0.02
  to 0.06 1/m. The lenses here are at the strong end, so that it shows at 64 px: about 10 % of a
  typical radius.
- vignetting: a fast lens loses half a stop to a stop and a half in the corners wide open (P. van
  Walree, "Vignetting", toothwalker.org). Two discs of radius 1 share 0.71 of their area at a shift
  of 0.46, 0.5 at 0.81 and 0.38 at 1.
- contrast: JPEG tone curves of cameras are S-shaped (M. Grossberg, S. Nayar, "Modeling the space of
  camera response functions", PAMI 2004).
- noise: photon noise of a full well of 50,000 electrons at ISO 100, read-out of some ten.
"""

from dataclasses import dataclass

from numpy.random import Generator

from genrefocus.render.apertures import Aperture, disk, polygon
from genrefocus.render.lens import LensCharacter

SHARP_F_NUMBER = 22.0
"""Of photographs that stand for sharp ones."""


@dataclass(frozen=True)
class Lens:
    """A lens wide open: its name, the shape of its opening and its character."""

    name: str
    aperture: Aperture
    character: LensCharacter


@dataclass(frozen=True)
class CameraBody:
    """A camera: sensor, tone curve, and what the lenses made for it can be set to.

    Attributes:
        model: in EXIF.
        sensor_width_mm: long side.
        focal_lengths_mm, f_numbers: ascending; the first F-number is wide open.
        contrast: of the tone curve, see ``render.tone.with_contrast``.
    """

    model: str
    sensor_width_mm: float
    focal_lengths_mm: tuple[float, ...]
    f_numbers: tuple[float, ...]
    contrast: float


LENSES: tuple[Lens, ...] = (
    Lens("Double Gauss", polygon(8, 0.2, 0.5), LensCharacter(0.16, (-0.05, 0.0, -0.06), 0.7)),
    Lens("Modern", disk(), LensCharacter(0.06, (-0.03, 0.0, -0.03), 0.5)),
    Lens("Portrait", polygon(9, 0.5, 0.9), LensCharacter(0.1, (-0.04, 0.0, -0.06), 0.4)),
    Lens("Vintage", polygon(6, 0.3), LensCharacter(0.2, (-0.06, 0.0, -0.04), 0.8)),
    Lens("Compact", polygon(7, 0.9, 0.3), LensCharacter(0.1, (-0.05, 0.0, -0.07), 0.9)),
)
"""Lenses that every split may have been photographed with."""

HELDOUT_LENS = Lens(
    "Soap Bubble", polygon(5, 0.7, 0.2), LensCharacter(0.18, (-0.06, 0.0, -0.08), 0.6)
)
"""The lens that only test sets have been photographed with."""

HELDOUT_SHARE = 0.25
"""Of the photographs of test sets."""

BODIES: tuple[CameraBody, ...] = (
    CameraBody(
        "SIM-FF", 36.0, (24, 35, 50, 85, 105, 135), (1.4, 1.8, 2.0, 2.8, 4.0, 5.6, 8.0), 0.3
    ),
    CameraBody(
        "SIM-APSC", 23.5, (16, 23, 35, 50, 56, 90), (1.2, 1.4, 1.8, 2.0, 2.8, 4.0, 5.6), 0.4
    ),
    CameraBody(
        "SIM-FT", 17.3, (12, 17, 25, 42.5, 45, 75), (1.2, 1.4, 1.7, 1.8, 2.8, 4.0, 5.6), 0.5
    ),
    CameraBody("SIM-1IN", 13.2, (8.8, 12.4, 18.5, 25.7, 36.8, 72), (1.8, 2.0, 2.8, 4.0), 0.6),
)


def draw_lens(rng: Generator, split: str) -> Lens:
    """Draw the lens of a photograph; the held-out one where the split is ``test``, at times."""
    if split == "test" and rng.random() < HELDOUT_SHARE:
        return HELDOUT_LENS
    return LENSES[int(rng.integers(len(LENSES)))]


def draw_body(rng: Generator) -> CameraBody:
    """Draw a camera."""
    return BODIES[int(rng.integers(len(BODIES)))]
