"""A simulated camera: scenes become JPEG photographs with honest EXIF.

The EXIF describes how a photograph was made, with the roundings of real cameras; make,
model and software say that it is simulated. The truth about depth, focus and K is returned for
tests and data cards; it is not in the file.
"""

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import piexif
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from genrefocus.optics import BlurStrength, blur_radius, blur_strength_from_exif, visible_blur
from genrefocus.render.lens import render_lens, strongest
from genrefocus.render.scene import Scene, scene_disparity
from genrefocus.render.tone import to_bytes
from genrefocus.world.cameras import CameraBody, Lens, draw_body, draw_lens
from genrefocus.world.scenes import draw_focus

MAKE = "Simulated"
SOFTWARE = "genrefocus simulated camera"

_FULL_FRAME_MM = 36.0
_ISO = (100, 200, 400, 800)
_SHUTTER = (30, 60, 125, 250, 500, 1000)
_JPEG = {"quality": 95, "subsampling": 0}

# On an opening, and more for each px of blur radius: sampling errs less than noise and JPEG do.
_POSITIONS, _POSITIONS_PER_PX = 4, 6


@dataclass(frozen=True)
class Exposure:
    """What the photographer set: camera, lens, F-number and the distance in focus."""

    body: CameraBody
    lens: Lens
    focal_length_mm: float
    f_number: float
    focus_disparity: float

    @property
    def sensor_width_mm(self) -> float:
        return self.body.sensor_width_mm

    @property
    def stop(self) -> float:
        """Radius of the opening in parts of the widest one."""
        return self.body.f_numbers[0] / self.f_number

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


def draw_exposure(
    scene: Scene, rng: Generator, *, split: str, low: float = 0.8, high: float = 6.0
) -> Exposure:
    """Draw camera, lens, F-number and focus for a scene.

    The focus lies on a visible surface. Of the focal lengths and F-numbers of the camera, the one
    is taken whose visible blur is nearest to a log-uniform draw from low to high px; none above
    high px or beyond what the margin of the scene holds, unless every one is, when the least is
    taken. The lens is one that the split may have, see ``cameras.draw_lens``.
    """
    focus = draw_focus(scene, rng)
    body, lens = draw_body(rng), draw_lens(rng, split)
    wanted = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    unit = BlurStrength(1.0, scene.height, scene.width)
    visible = visible_blur(scene_disparity(scene), focus, unit)
    most = min(high / visible, strongest(scene, focus, lens.character).k)
    choices = [
        Exposure(body, lens, f, n, focus) for f in body.focal_lengths_mm for n in body.f_numbers
    ]
    strengths = np.array([x.strength(scene.height, scene.width).k for x in choices])
    distance = np.abs(np.log(strengths * visible / wanted))
    distance += np.where(strengths > most, 100.0 * strengths, 0.0)
    # Several combinations come close; the first few in order of distance are equally good.
    near = np.argsort(distance)[:3]
    near = near[distance[near] <= distance[near[0]] + 0.1]
    return choices[int(rng.choice(near))]


def photograph(
    scene: Scene,
    *,
    body: CameraBody,
    lens: Lens,
    focus_disparity: float,
    strength: BlurStrength,
    stop: float = 1.0,
    noise: tuple[int, Generator] | None,
) -> Tensor:
    """What a camera makes of a scene: (3, H, W) uint8 sRGB, by its tone curve.

    Args:
        scene: layers from back to front.
        body, lens: the camera.
        focus_disparity: d_f in 1/m.
        strength: K at this stop.
        stop: radius of the opening in parts of the widest one.
        noise: ISO speed and generator of shot and read noise in linear light; None for none.

    Raises:
        ValueError: the blur exceeds the scene's margin.
    """
    light = render_lens(
        scene,
        focus_disparity=focus_disparity,
        strength=strength,
        positions=lens.aperture.positions(_positions(scene, focus_disparity, strength)),
        character=replace(lens.character, stop=stop),
    )
    return developed(light, body, noise)


def developed(light: Tensor, body: CameraBody, noise: tuple[int, Generator] | None) -> Tensor:
    """Light (3, H, W) on the sensor of a camera as its 8-bit sRGB image, see `photograph`."""
    return to_bytes(light if noise is None else _with_noise(light, *noise), body.contrast)


def _positions(scene: Scene, focus_disparity: float, strength: BlurStrength) -> int:
    """As many as the blur needs; lights, which show every one of them, need twice as many."""
    greatest = float(blur_radius(scene_disparity(scene), focus_disparity, strength).max())
    lit = any(float(layer.rgba.max()) > 1.0 for layer in scene.layers)
    return (2 if lit else 1) * (_POSITIONS + math.ceil(_POSITIONS_PER_PX * greatest))


def draw_iso(rng: Generator) -> int:
    """Draw an ISO speed."""
    return int(rng.choice(_ISO))


def as_jpeg(image: Tensor) -> Tensor:
    """An image (3, H, W) uint8 as a camera's JPEG file keeps it."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", **_JPEG)
    with Image.open(buffer) as kept:
        return torch.from_numpy(np.asarray(kept).transpose(2, 0, 1).copy())


def take_photo(
    scene: Scene, exposure: Exposure, path: Path, *, rng: Generator, noise: bool = True
) -> Shot:
    """Photograph a scene and write a JPEG file, see `photograph`.

    An image taller than wide is mostly stored lying down with EXIF orientation 6 or 8, as cameras
    store it. Same arguments and generator state give the same bytes. Raises ValueError where the
    blur exceeds the scene's margin.
    """
    strength = exposure.strength(scene.height, scene.width)
    iso = draw_iso(rng)
    image = photograph(
        scene,
        body=exposure.body,
        lens=exposure.lens,
        focus_disparity=exposure.focus_disparity,
        strength=strength,
        stop=exposure.stop,
        noise=(iso, rng) if noise else None,
    )
    pixels = image.permute(1, 2, 0).numpy()
    upright = scene.height <= scene.width or rng.random() < 0.2
    orientation = 1 if upright else int(rng.choice([6, 8]))
    # Orientation 6 is shown turned clockwise, hence stored turned counter-clockwise; 8 opposite.
    stored = np.ascontiguousarray(np.rot90(pixels, {1: 0, 6: 1, 8: -1}[orientation]))
    exif = _exif(exposure, stored.shape[0], stored.shape[1], orientation, iso, rng)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", exif=piexif.dump(exif), **_JPEG)
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
        piexif.ExifIFD.LensModel: exposure.lens.name,
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
