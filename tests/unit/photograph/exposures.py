"""Photographs with exposures of a test's choice, written by piexif."""

from pathlib import Path

import numpy as np
import piexif
import pytest
from piexif import ExifIFD, ImageIFD
from PIL import Image

from genrefocus.photograph.exif import read_exposure
from genrefocus.rejection import Rejected

INCH, CENTIMETRE, MILLIMETRE = 2, 3, 4
SIZE = (96, 64)  # width, height
FOCAL_PLANE = {
    ExifIFD.FocalPlaneXResolution: (6000, 22),
    ExifIFD.FocalPlaneResolutionUnit: MILLIMETRE,
    ExifIFD.PixelXDimension: 6000,
}
CANON_7D = ("Canon", "Canon EOS 7D")


def write(path: Path, exposure: dict, *, camera=("", ""), size=SIZE, **main) -> Path:
    """A noisy JPEG with a 50 mm f/1.8 exposure, changed by ``exposure`` (None drops a tag)."""
    tags = {ExifIFD.FocalLength: (50, 1), ExifIFD.FNumber: (18, 10)} | exposure
    zeroth = {ImageIFD.Make: camera[0].encode(), ImageIFD.Model: camera[1].encode()}
    exif = {
        "0th": {tag: value for tag, value in (zeroth | main.get("zeroth", {})).items() if value},
        "Exif": {tag: value for tag, value in tags.items() if value is not None},
    }
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=piexif.dump(exif), quality=95)
    return path


def rejection(path: Path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_exposure(path)
    assert "\n" not in str(caught.value)
    return caught.value
