"""Width of the sensor part that a photograph shows: from its EXIF, held against a table of cameras.

EXIF is written by many hands: what is missing, zero or unreadable is passed over for the next
source, and so is what the table contradicts.
"""

import csv
import functools
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from genrefocus.rejection import Reason, Rejected

FULL_FRAME_WIDTH_MM = 36.0
PLAUSIBLE_SENSOR_MM = (2.0, 70.0)
"""From the smallest phone sensor to the largest medium-format back."""

SMALLEST_FRAME_MM = 0.5
"""A small sensor cropped tenfold by digital zoom; narrower ones are errors."""

SENSOR_TABLES = ("sensor_widths.csv", "sensor_widths_compact.csv")
"""Beside this file; each states its source. No camera is in both."""

SHORTEST_EQUIVALENT_MM = 8.0
"""No lens frames more than one of 8 mm does on 36 mm; a phone's f in the f35 field would."""

MAX_DISAGREEMENT = 0.15
"""Part of the listed width by which another source may differ from it."""

CANON_CROP = 1.6
"""Of full-frame Canons in their crop mode, whose focal plane is then right; within 3 %."""

KNOWN_SMALLER = 0.95
"""A sensor below this part of 36 mm is smaller than full frame, whose widths span 35.6 to 36."""

ECHOED_FOCAL_LENGTH = "f35_echoes_focal_length"
UNVERIFIED_CROP_FACTOR = "crop_factor_one_unverified"

_MM_PER_FOCAL_PLANE_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


def table_sensor_width(make: str, model: str) -> float | None:
    """Sensor width in mm of a camera from ``SENSOR_TABLES``; None where it is not listed.

    Upper and lower case, spacing and a make repeated in the model do not matter.
    """
    return _sensor_table().get(_camera_key(make, model))


def framed_width(
    tags: Mapping[str, Any],
    focal_length: float,
    make: str,
    model: str,
    zoom: float,
    flags: list[str],
) -> tuple[float, str]:
    """Width in mm and its source: f35, then focal plane, then table; appends to ``flags``.

    The 35 mm equivalent describes the framed image and already contains digital zoom (as
    ExifTool has it); focal plane and table describe the whole sensor, of which zoom leaves a part.
    A source that the table contradicts is passed over, but for an equivalent that frames a part of
    the sensor, which is what crop modes do.
    """
    whole = table_sensor_width(make, model)
    listed = None if whole is None else whole / zoom
    width, source = _width_from_35mm(tags, focal_length, whole, flags), "focal_length_35mm"
    if width and listed and width > listed * (1 + MAX_DISAGREEMENT):
        flags.append(_disagreement(width, source))
        width = None
    elif width and listed and width < listed * (1 - MAX_DISAGREEMENT):
        flags.append("in_camera_crop")
    if width is None:
        plane, source = _width_from_focal_plane(tags, flags), "focal_plane"
        width = None if plane is None else plane / zoom
        if width and whole and listed and abs(width / listed - 1) > MAX_DISAGREEMENT:
            full = whole >= KNOWN_SMALLER * FULL_FRAME_WIDTH_MM
            if full and abs(listed / width / CANON_CROP - 1) < 0.03:
                detail = f"the table has {listed:g} mm; a crop mode, or a false resolution"
                raise Rejected(Reason.SENSOR_WIDTH_UNKNOWN, f"{width:.4g} mm", detail)
            flags.append(_disagreement(width, source))
            width = None
    if width is None and listed is not None:
        width, source = listed, "table"
    if width is not None and width >= SMALLEST_FRAME_MM:
        return width, source
    noticed = f"; noticed: {', '.join(flags)}" if flags else ""
    raise Rejected(
        Reason.SENSOR_WIDTH_UNKNOWN,
        f"{make} {model}".strip() or None,
        "no usable FocalLengthIn35mmFilm, FocalPlaneXResolution or entry in the sensor table"
        f"{noticed}",
    )


def _disagreement(width: float, source: str) -> str:
    return f"disagrees_with_table: {width:.4g} mm by {source}"


def _width_from_35mm(
    tags: Mapping[str, Any], focal_length: float, listed: float | None, flags: list[str]
) -> float | None:
    equivalent = as_number(tags.get("FocalLengthIn35mmFilm"))
    if not equivalent or equivalent < 0:
        return None
    width = FULL_FRAME_WIDTH_MM * focal_length / equivalent
    fits = SMALLEST_FRAME_MM <= width <= PLAUSIBLE_SENSOR_MM[1]
    if equivalent < SHORTEST_EQUIVALENT_MM or not fits:
        flags.append("f35_implausible")
        return None
    if equivalent == focal_length:
        if listed is None:
            flags.append(UNVERIFIED_CROP_FACTOR)
        elif listed < KNOWN_SMALLER * FULL_FRAME_WIDTH_MM:
            flags.append(ECHOED_FOCAL_LENGTH)
            return None
    return width


def _width_from_focal_plane(tags: Mapping[str, Any], flags: list[str]) -> float | None:
    pixels_per_unit = as_number(tags.get("FocalPlaneXResolution"))
    if not pixels_per_unit or pixels_per_unit < 0:
        return None
    unit = as_number(tags.get("FocalPlaneResolutionUnit"))
    if unit is None:
        flags.append("focal_plane_unit_absent")
        unit = 2  # the default that the EXIF standard states for this tag
    mm_per_unit = _MM_PER_FOCAL_PLANE_UNIT.get(int(unit))
    if mm_per_unit is None:
        flags.append("focal_plane_unit_unknown")
        return None
    original = original_size(tags)
    if original is None:
        flags.append("focal_plane_without_original_width")
        return None
    # The long edge lies along the sensor's X axis, also where software has turned the image.
    width = max(original) / pixels_per_unit * mm_per_unit
    if not PLAUSIBLE_SENSOR_MM[0] <= width <= PLAUSIBLE_SENSOR_MM[1]:
        flags.append("focal_plane_implausible")
        return None
    return width


def original_size(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    """ExifImageWidth and ExifImageHeight, the latter 0 where missing; None without a width."""
    width = as_number(tags.get("ExifImageWidth"))
    if width is None or width < 1:
        return None
    return width, max(as_number(tags.get("ExifImageHeight")) or 0.0, 0.0)


def as_number(value: Any) -> float | None:
    """A finite number; None where missing, malformed or divided by zero."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and "/" in value:
        value = value.split("/")
    try:
        if isinstance(value, (list, tuple)):
            numerator, denominator = value
            number = float(numerator) / float(denominator)
        else:
            number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@functools.cache
def _sensor_table() -> dict[str, float]:
    table = {}
    for name in SENSOR_TABLES:
        text = resources.files("genrefocus.photograph").joinpath(name).read_text("utf-8")
        for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
            table[_camera_key(row["make"], row["model"])] = float(row["width_mm"])
    return table


def _camera_key(make: str, model: str) -> str:
    """First word of the make and the model, without repeating it: "nikon d90"."""
    maker = re.split(r"[\s,.]+", make.strip().lower(), maxsplit=1)[0]
    words = model.lower().split()
    return " ".join(words if words[:1] == [maker] else [maker, *words]).strip()
