"""A simulated camera: scenes become JPEG photographs with honest EXIF.

The EXIF describes how a photograph was made, with the roundings of real cameras; make,
model and software say that it is simulated. The truth about depth, focus and K is returned for
tests and data cards; it is not in the file.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import piexif
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from genrefocus.optics import BlurStrength, blur_radius, blur_strength_from_exif
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import Scene
from genrefocus.render.tone import to_bytes
from genrefocus.world.scenes import draw_focus

MAKE = "Simulated"
SOFTWARE = "genrefocus simulated camera"

_FULL_FRAME_MM = 36.0
_ISO = (100, 200, 400, 800)
_SHUTTER = (30, 60, 125, 250, 500, 1000)


@dataclass(frozen=True)
class CameraBody:
    """A camera and the lenses that are used on it; the sensor's long side in mm."""

    model: str
    sensor_width_mm: float
    focal_lengths_mm: tuple[float, ...]
    f_numbers: tuple[float, ...]


BODIES: tuple[CameraBody, ...] = (
    CameraBody("SIM-FF", 36.0, (24, 35, 50, 85, 105, 135), (1.4, 1.8, 2.0, 2.8, 4.0, 5.6, 8.0)),
    CameraBody("SIM-APSC", 23.5, (16, 23, 35, 50, 56, 90), (1.2, 1.4, 1.8, 2.0, 2.8, 4.0, 5.6)),
    CameraBody("SIM-FT", 17.3, (12, 17, 25, 42.5, 45, 75), (1.2, 1.4, 1.7, 1.8, 2.8, 4.0, 5.6)),
    CameraBody("SIM-1IN", 13.2, (8.8, 12.4, 18.5, 25.7, 36.8, 72), (1.8, 2.0, 2.8, 4.0)),
)


@dataclass(frozen=True)
class Exposure:
    """What the photographer set: camera, lens, F-number and the distance in focus."""

    body: CameraBody
    focal_length_mm: float
    f_number: float
    focus_disparity: float

    @property
    def sensor_width_mm(self) -> float:
        return self.body.sensor_width_mm

    def strength(self, height: int, width: int) -> BlurStrength:
        """K by Eq. 3 for a photograph of this size."""
        return blur_strength_from_exif(self, self.focus_disparity, height, width)


@dataclass(frozen=True)
class Shot:
    """The truth behind a photograph file; sizes are those of the upright image."""

    scene: Scene
    exposure: Exposure
    strength: BlurStrength
    orientation: int


def draw_exposure(scene: Scene, rng: Generator, *, low: float = 0.8, high: float = 6.0) -> Exposure:
    """Draw camera, lens, F-number and focus for a scene.

    The focus lies on a visible surface. Of the lenses and F-numbers of the camera, the one is
    taken whose greatest blur radius in the frame is nearest to a log-uniform draw from low to
    high px; none above high px, unless every one is, when the least is taken.
    """
    focus = draw_focus(scene, rng)
    body = BODIES[int(rng.integers(len(BODIES)))]
    wanted = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    unit = BlurStrength(1.0, scene.height, scene.width)
    planes = torch.stack([x.plane.over(scene.height, scene.width) for x in scene.layers])
    greatest = float(blur_radius(planes, focus, unit).max())
    choices = [Exposure(body, f, n, focus) for f in body.focal_lengths_mm for n in body.f_numbers]
    radii = np.array([x.strength(scene.height, scene.width).k * greatest for x in choices])
    distance = np.abs(np.log(radii / wanted)) + np.where(radii > high, 100.0 * radii, 0.0)
    # Several combinations come close; the first few in order of distance are equally good.
    near = np.argsort(distance)[:3]
    near = near[distance[near] <= distance[near[0]] + 0.1]
    return choices[int(rng.choice(near))]


def take_photo(
    scene: Scene, exposure: Exposure, path: Path, *, rng: Generator, samples: int = 96
) -> Shot:
    """Photograph a scene through `samples` positions of a round aperture and write a JPEG file.

    Shot and read noise are added in linear light. An image taller than wide is mostly stored
    lying down with EXIF orientation 6 or 8, as cameras store it. Same arguments and generator
    state give the same bytes. Raises ValueError where the blur exceeds the scene's margin.
    """
    strength = exposure.strength(scene.height, scene.width)
    light = render_lens(
        scene,
        focus_disparity=exposure.focus_disparity,
        strength=strength,
        positions=disk().positions(samples),
    )
    iso = int(rng.choice(_ISO))
    pixels = to_bytes(_with_noise(light, iso, rng)).permute(1, 2, 0).numpy()
    upright = scene.height <= scene.width or rng.random() < 0.2
    orientation = 1 if upright else int(rng.choice([6, 8]))
    # Orientation 6 is shown turned clockwise, hence stored turned counter-clockwise; 8 opposite.
    stored = np.ascontiguousarray(np.rot90(pixels, {1: 0, 6: 1, 8: -1}[orientation]))
    exif = _exif(exposure, stored.shape[0], stored.shape[1], orientation, iso, rng)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95, subsampling=0, exif=piexif.dump(exif))
    path.write_bytes(buffer.getvalue())
    return Shot(scene, exposure, strength, orientation)


def _with_noise(light: Tensor, iso: int, rng: Generator) -> Tensor:
    """Photon noise, variance in proportion to the light, and a constant noise of read-out."""
    gain = iso / 100.0
    deviation = (2e-5 * gain * light.clamp(0.0, 1.0) + (2e-4 * gain) ** 2).sqrt()
    noise = torch.from_numpy(rng.standard_normal(tuple(light.shape), dtype=np.float32))
    return light + deviation * noise


def _exif(
    exposure: Exposure, height: int, width: int, orientation: int, iso: int, rng: Generator
) -> dict[str, dict[int, object]]:
    """EXIF of a file of height x width px as stored.

    Most files state the focal length in 35 mm terms, in whole mm; the others the pixel pitch.
    Some state the distance as focus motors know it, to about a tenth.
    """
    body = exposure.body
    facts: dict[int, object] = {
        piexif.ExifIFD.ExposureTime: (1, int(rng.choice(_SHUTTER))),
        piexif.ExifIFD.FNumber: _rational(exposure.f_number, 10),
        piexif.ExifIFD.ISOSpeedRatings: iso,
        piexif.ExifIFD.FocalLength: _rational(exposure.focal_length_mm, 10),
        piexif.ExifIFD.PixelXDimension: width,
        piexif.ExifIFD.PixelYDimension: height,
        piexif.ExifIFD.ColorSpace: 1,
    }
    if rng.random() < 0.75:
        equivalent = exposure.focal_length_mm * _FULL_FRAME_MM / body.sensor_width_mm
        facts[piexif.ExifIFD.FocalLengthIn35mmFilm] = round(equivalent)
    else:
        unit, mm = ((3, 10.0), (2, 25.4))[int(rng.integers(2))]
        density = _rational(max(height, width) / body.sensor_width_mm * mm, 1000)
        facts[piexif.ExifIFD.FocalPlaneXResolution] = density
        facts[piexif.ExifIFD.FocalPlaneYResolution] = density
        facts[piexif.ExifIFD.FocalPlaneResolutionUnit] = unit
    if rng.random() < 0.3:
        distance = float(np.exp(rng.normal(0.0, 0.1))) / exposure.focus_disparity
        facts[piexif.ExifIFD.SubjectDistance] = _rational(distance, 100)
    image: dict[int, object] = {
        piexif.ImageIFD.Make: MAKE,
        piexif.ImageIFD.Model: body.model,
        piexif.ImageIFD.Orientation: orientation,
        piexif.ImageIFD.Software: SOFTWARE,
    }
    return {"0th": image, "Exif": facts}


def _rational(value: float, denominator: int) -> tuple[int, int]:
    return round(value * denominator), denominator
