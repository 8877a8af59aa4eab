"""Photograph -> exposure facts, or a named reason why there are none.

EXIF is written by many hands and rarely checked: every fact is read defensively, and what is
missing, zero or unreadable becomes a :class:`~genrefocus.rejection.Rejected` with the raw value.
Oddities that leave a photograph usable are listed in ``ExposureFacts.flags``.
"""

import csv
import functools
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from genrefocus.colours import orientation_of
from genrefocus.decoding import opened, read_file
from genrefocus.rejection import Reason, Rejected

TAGS = (
    "FocalLength",
    "FNumber",
    "FocalLengthIn35mmFilm",
    "FocalPlaneXResolution",
    "FocalPlaneResolutionUnit",
    "ExifImageWidth",
    "ExifImageHeight",
    "DigitalZoomRatio",
    "SubjectDistance",
    "Make",
    "Model",
)
"""All that is read of a photograph's EXIF: no place, no owner, no serial number."""

FULL_FRAME_WIDTH_MM = 36.0
PLAUSIBLE_SENSOR_MM = (2.0, 70.0)
"""From the smallest phone sensor to the largest medium-format back."""

SMALLEST_FRAME_MM = 0.5
"""A small sensor cropped tenfold by digital zoom; narrower ones are errors."""

SENSOR_TABLES = ("sensor_widths.csv", "sensor_widths_compact.csv")
"""Beside this file; each states its source. No camera is in both."""

MAX_EXIF_BYTES = 2**22
"""A JPEG segment holds 64 KiB; decoding a hostile block takes many times its size in memory."""

MAX_NAME = 100
"""Characters of make and model that are kept."""

SHORTEST_EQUIVALENT_MM = 8.0
"""No lens frames more than one of 8 mm does on 36 mm; a phone's f in the f35 field would."""

MOST_DISAGREEMENT = 0.15
"""Part of the listed width by which another source may differ from it."""

CANON_CROP = 1.6
"""Of full-frame Canons in their crop mode, whose focal plane is then right; within 3 %."""

KNOWN_SMALLER = 0.95
"""A sensor below this part of 36 mm is smaller than full frame, whose widths span 35.6 to 36."""

ECHOED_FOCAL_LENGTH = "f35_echoes_focal_length"
UNVERIFIED_CROP_FACTOR = "crop_factor_one_unverified"

_MM_PER_FOCAL_PLANE_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_INFINITE_DISTANCE = 0xFFFFFFFF


@dataclass(frozen=True)
class ExposureFacts:
    """What Eq. 3 needs to know about a photograph, and where it came from.

    Attributes:
        focal_length_mm: real focal length, > 0.
        f_number: > 0.
        focal_length_35mm: the EXIF field in mm, or None where missing or 0.
        sensor_width_mm: long side of the part of the sensor that the picture shows.
        sensor_width_source: ``focal_length_35mm``, ``focal_plane`` or ``table``.
        pixel_ratio: longest edge of the image as it is now over ``sensor_width_mm``, px/mm.
        make, model: as in the file, "" where missing; cut at ``MAX_NAME`` characters.
        width, height: px before ``orientation`` is applied.
        orientation: EXIF orientation 1 to 8 that remains to be applied; 1 for HEIC and TIFF, which
            their decoders turn.
        subject_distance_m: as in the file, for comparison only; None where missing, 0 or infinite.
        digital_zoom: DigitalZoomRatio above 1, or None.
        flags: oddities that leave K right, or were mended; ``docs/exif.md`` has what each leads to.
            ``f35_echoes_focal_length`` (crop factor exactly 1 on a camera known to be smaller),
            ``crop_factor_one_unverified`` (exactly 1 on a camera that the table lacks),
            ``disagrees_with_table`` (a source was passed over), ``in_camera_crop``,
            ``f35_implausible``, ``focal_plane_implausible``, ``focal_plane_unit_absent``,
            ``focal_plane_unit_unknown``, ``focal_plane_without_original_width``,
            ``digital_zoom``, ``resized``, ``exif_damaged``.
    """

    focal_length_mm: float
    f_number: float
    focal_length_35mm: float | None
    sensor_width_mm: float
    sensor_width_source: str
    pixel_ratio: float
    make: str
    model: str
    width: int
    height: int
    orientation: int
    subject_distance_m: float | None
    digital_zoom: float | None
    flags: tuple[str, ...]


def read_exposure(path: str | Path) -> ExposureFacts:
    """Exposure facts of one photograph file.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``, and as :func:`exposure_of`.
    """
    return exposure_of(read_file(path), Path(path).name)


def exposure_of(data: bytes, name: str) -> ExposureFacts:
    """Exposure facts of one photograph, from the bytes of its file.

    The image is decoded once, so that a damaged file is found here and not by a later stage.

    Args:
        data: a whole JPEG, TIFF, PNG, WebP or HEIC file.
        name: its name, for messages; the suffix tells camera raw from TIFF.

    Raises:
        Rejected: ``format_unsupported`` (camera raw), ``not_an_image``, ``image_damaged``,
            ``picture_too_large``, ``no_exif``, ``exif_corrupt``, and as
            :func:`exposure_from_tags`; the value is the raw one from the file.
    """
    with opened(data, name) as image:
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            # Decoded at an eighth of its size: enough to find damage.
            image.draft("L", (max(width // 8, 1), max(height // 8, 1)))
        image.load()
        orientation = orientation_of(image)
    tags, damage = _read_tags(image)
    try:
        facts = exposure_from_tags(tags, width=width, height=height, orientation=orientation)
    except Rejected as rejected:
        if damage and rejected.reason in (Reason.FOCAL_LENGTH_MISSING, Reason.F_NUMBER_MISSING):
            raise Rejected(Reason.EXIF_CORRUPT, damage[0], rejected.detail) from None
        raise
    return replace(facts, flags=(*facts.flags, "exif_damaged")) if damage else facts


def exposure_from_tags(
    tags: Mapping[str, Any], *, width: int, height: int, orientation: int = 1
) -> ExposureFacts:
    """Exposure facts of a photograph whose EXIF comes as a table.

    Args:
        tags: EXIF names as in ``TAGS`` -> number, ``"50/1"``, ``[50, 1]`` (numerator and
            denominator), or None or NaN where missing; make and model are text. Other names are
            ignored.
        width, height: px before ``orientation`` is applied.
        orientation: EXIF orientation 1 to 8.

    Raises:
        Rejected: ``focal_length_missing``, ``focal_length_invalid``, ``f_number_missing``,
            ``f_number_invalid``, ``sensor_width_unknown``, ``cropped_after_exposure``; the value
            is the one in ``tags``.
    """
    focal_length = _required(
        tags, "FocalLength", Reason.FOCAL_LENGTH_MISSING, Reason.FOCAL_LENGTH_INVALID
    )
    f_number = _required(tags, "FNumber", Reason.F_NUMBER_MISSING, Reason.F_NUMBER_INVALID)
    make, model = _text(tags.get("Make")), _text(tags.get("Model"))
    zoom = _number(tags.get("DigitalZoomRatio")) or 0.0
    flags = ["digital_zoom"] if zoom > 1 else []
    if _is_resized(tags, width, height):
        flags.append("resized")
    sensor_width, source = _sensor_width(tags, focal_length, make, model, max(zoom, 1.0), flags)
    return ExposureFacts(
        focal_length_mm=focal_length,
        f_number=f_number,
        focal_length_35mm=_number(tags.get("FocalLengthIn35mmFilm")) or None,
        sensor_width_mm=sensor_width,
        sensor_width_source=source,
        pixel_ratio=max(width, height) / sensor_width,
        make=make,
        model=model,
        width=width,
        height=height,
        orientation=orientation,
        subject_distance_m=_subject_distance(tags.get("SubjectDistance")),
        digital_zoom=zoom if zoom > 1 else None,
        flags=tuple(flags),
    )


def table_sensor_width(make: str, model: str) -> float | None:
    """Sensor width in mm of a camera from ``SENSOR_TABLES``; None where it is not listed.

    Upper and lower case, spacing and a make repeated in the model do not matter.
    """
    return _sensor_table().get(_camera_key(make, model))


def _sensor_width(
    tags: Mapping[str, Any],
    focal_length: float,
    make: str,
    model: str,
    zoom: float,
    flags: list[str],
) -> tuple[float, str]:
    """Width in mm and its source: f35, then focal plane, then table; appends to ``flags``.

    The 35 mm equivalent describes the framed picture and already contains digital zoom (as
    ExifTool has it); focal plane and table describe the whole sensor, of which zoom leaves a part.
    A source that the table contradicts is passed over, but for an equivalent that frames a part of
    the sensor, which is what crop modes do.
    """
    whole = table_sensor_width(make, model)
    listed = None if whole is None else whole / zoom
    width, source = _width_from_35mm(tags, focal_length, whole, flags), "focal_length_35mm"
    if width and listed and width > listed * (1 + MOST_DISAGREEMENT):
        width = None
        flags.append("disagrees_with_table")
    elif width and listed and width < listed * (1 - MOST_DISAGREEMENT):
        flags.append("in_camera_crop")
    if width is None:
        plane, source = _width_from_focal_plane(tags, flags), "focal_plane"
        width = None if plane is None else plane / zoom
        if width and whole and listed and abs(width / listed - 1) > MOST_DISAGREEMENT:
            full = whole >= KNOWN_SMALLER * FULL_FRAME_WIDTH_MM
            if full and abs(listed / width / CANON_CROP - 1) < 0.03:
                detail = f"the table has {listed:g} mm; a crop mode, or a false resolution"
                raise Rejected(Reason.SENSOR_WIDTH_UNKNOWN, f"{width:.4g} mm", detail)
            width = None
            flags.append("disagrees_with_table")
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


def _width_from_35mm(
    tags: Mapping[str, Any], focal_length: float, listed: float | None, flags: list[str]
) -> float | None:
    equivalent = _number(tags.get("FocalLengthIn35mmFilm"))
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
    pixels_per_unit = _number(tags.get("FocalPlaneXResolution"))
    if not pixels_per_unit or pixels_per_unit < 0:
        return None
    unit = _number(tags.get("FocalPlaneResolutionUnit"))
    if unit is None:
        flags.append("focal_plane_unit_absent")
        unit = 2  # the default that the EXIF standard states for this tag
    mm_per_unit = _MM_PER_FOCAL_PLANE_UNIT.get(int(unit))
    if mm_per_unit is None:
        flags.append("focal_plane_unit_unknown")
        return None
    original = _original_size(tags)
    if original is None:
        flags.append("focal_plane_without_original_width")
        return None
    # The long edge lies along the sensor's X axis, also where software has turned the picture.
    width = max(original) / pixels_per_unit * mm_per_unit
    if not PLAUSIBLE_SENSOR_MM[0] <= width <= PLAUSIBLE_SENSOR_MM[1]:
        flags.append("focal_plane_implausible")
        return None
    return width


def _is_resized(tags: Mapping[str, Any], width: int, height: int) -> bool:
    """Whether the long edge is another than at the exposure.

    Raises:
        Rejected: ``cropped_after_exposure``: so are the proportions, and nothing says how many
            pixels the sensor's width would now have.
    """
    original = _original_size(tags)
    if original is None or max(original) == max(width, height):
        return False
    if min(original):
        # Half a pixel of rounding on the short edge is no change of proportions.
        expected = min(original) * max(width, height) / max(original)
        if abs(expected - min(width, height)) > max(1.0, 0.01 * expected):
            raise Rejected(
                Reason.CROPPED_AFTER_EXPOSURE,
                f"{original[0]:g}x{original[1]:g} px to {width}x{height} px",
                "proportions changed, so that pixels per mm of the sensor are not known",
            )
    return True


def _subject_distance(value: Any) -> float | None:
    """Metres; None where missing, 0, or infinite, which is a numerator of all ones."""
    distance = _number(value)
    if distance is None or not 0 < distance < _INFINITE_DISTANCE:
        return None
    numerator = value.partition("/")[0] if isinstance(value, str) else np.ravel(value)[0]
    return None if _number(numerator) == _INFINITE_DISTANCE else distance


def _original_size(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    """ExifImageWidth and ExifImageHeight, the latter 0 where missing; None without a width."""
    width = _number(tags.get("ExifImageWidth"))
    if width is None or width < 1:
        return None
    return width, max(_number(tags.get("ExifImageHeight")) or 0.0, 0.0)


def _read_tags(image: Image.Image) -> tuple[dict[str, Any], list[str]]:
    """The tags in ``TAGS`` of an image's EXIF, and what Pillow says of those it could not read.

    Pillow reads no more tag data than the block has bytes, whatever sizes the tags claim, follows
    no chain of directories, and leaves maker notes alone.
    """
    block = image.info.get("exif")  # all formats but TIFF, where the file is the block
    if isinstance(block, bytes) and len(block) > MAX_EXIF_BYTES:
        detail = f"an EXIF block has at most {MAX_EXIF_BYTES} bytes here"
        raise Rejected(Reason.EXIF_CORRUPT, f"{len(block)} bytes", detail)
    try:
        with warnings.catch_warnings(record=True, action="always") as noticed:
            exif = Image.Exif() if block else image.getexif()
            if block:  # parsed again, for what there is to notice
                exif.load(block)
            exposure = exif.get_ifd(ExifTags.IFD.Exif)
            merged = {**exif, **exposure}
    except Exception as error:  # Pillow raises SyntaxError, struct.error, TypeError and others
        raise Rejected(Reason.EXIF_CORRUPT, type(error).__name__, str(error)) from error
    # That a tag has more entries than it should is harmless, and the first is taken.
    damage = [str(one.message) for one in noticed if "too many entries" not in str(one.message)]
    if not exposure and ExifTags.Base.FNumber not in merged:  # TIFF/EP keeps all in the main one
        if damage:
            raise Rejected(Reason.EXIF_CORRUPT, damage[0], "no readable EXIF of an exposure")
        raise Rejected(Reason.NO_EXIF, f"{len(merged)} tags", "no EXIF of an exposure")
    return {name: _plain(merged.get(ExifTags.Base[name])) for name in TAGS}, damage


def _plain(value: Any) -> Any:
    """A tag's value from Pillow as :func:`exposure_from_tags` takes it; of several, the first."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    if isinstance(value, IFDRational):
        return f"{value.numerator}/{value.denominator}"
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _required(tags: Mapping[str, Any], name: str, missing: Reason, invalid: Reason) -> float:
    value = tags.get(name)
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        raise Rejected(missing, None, f"the EXIF has no {name}")
    number = _number(value)
    if number is None or number <= 0:
        raise Rejected(invalid, str(value)[:MAX_NAME], f"{name} must be a number above zero")
    return number


def _number(value: Any) -> float | None:
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


def _text(value: Any) -> str:
    return " ".join(value.partition("\0")[0].split())[:MAX_NAME] if isinstance(value, str) else ""


@functools.cache
def _sensor_table() -> dict[str, float]:
    table = {}
    for name in SENSOR_TABLES:
        text = resources.files("genrefocus").joinpath(name).read_text("utf-8")
        for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
            table[_camera_key(row["make"], row["model"])] = float(row["width_mm"])
    return table


def _camera_key(make: str, model: str) -> str:
    """First word of the make and the model, without repeating it: "nikon d90"."""
    maker = re.split(r"[\s,.]+", make.strip().lower(), maxsplit=1)[0]
    words = model.lower().split()
    return " ".join(words if words[:1] == [maker] else [maker, *words]).strip()
