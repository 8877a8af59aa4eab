"""Photograph -> exposure facts, or a named reason why there are none.

EXIF is written by many hands and rarely checked: every fact is read defensively, and what is
missing, zero or unreadable becomes a :class:`~genrefocus.rejection.Rejected` with the raw value.
Oddities that leave a photograph usable are listed in ``ExposureFacts.flags``.
"""

import csv
import functools
import io
import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import exifread
from PIL import Image, UnidentifiedImageError

from genrefocus.rejection import Reason, Rejected

FULL_FRAME_WIDTH_MM = 36.0
PLAUSIBLE_SENSOR_MM = (0.5, 70.0)
"""From a phone's sensor cropped tenfold by digital zoom to the largest medium-format back."""

KNOWN_SMALLER = 0.95
"""A sensor below this part of 36 mm is smaller than full frame, whose widths span 35.6 to 36."""

ECHOED_FOCAL_LENGTH = "f35_echoes_focal_length"
UNVERIFIED_CROP_FACTOR = "crop_factor_one_unverified"

_MM_PER_FOCAL_PLANE_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
RAW_SUFFIXES = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\x00", b"MM\x00*")
_INFINITE_DISTANCE = 0xFFFFFFFF

# The parser warns about every odd tag; what matters here ends in a reason or a flag.
logging.getLogger("exifread").addHandler(logging.NullHandler())


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
        make, model: as in the file, "" where missing.
        width, height: px as stored, before ``orientation`` is applied.
        orientation: EXIF orientation 1 to 8.
        subject_distance_m: as in the file, for comparison only; None where missing, 0 or infinite.
        digital_zoom: DigitalZoomRatio above 1, or None.
        flags: oddities: ``f35_echoes_focal_length`` (crop factor exactly 1 on a camera known to be
            smaller; the next source was used), ``crop_factor_one_unverified`` (exactly 1 on a
            camera that the table lacks), ``f35_implausible``, ``focal_plane_implausible``,
            ``focal_plane_unit_absent`` (inch by the standard), ``focal_plane_unit_unknown``,
            ``focal_plane_without_original_width``, ``disagrees_with_table`` (by over 15%),
            ``digital_zoom``, ``resized``, ``aspect_changed`` (cropped after the exposure, so that
            the pixel ratio is too low).
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
    """Exposure facts of one photograph.

    The image is decoded once, so that a damaged file is found here and not by a later stage.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``, ``not_an_image``, ``image_damaged``,
            ``format_unsupported`` (camera raw; HEIC unless ``pillow_heif`` can be imported),
            ``no_exif``, ``exif_corrupt``, ``focal_length_missing``, ``focal_length_invalid``,
            ``f_number_missing``, ``f_number_invalid``, ``sensor_width_unknown``; the value is the
            raw one from the file.
    """
    image = _open_image(Path(path))
    tags = _read_tags(image.exif)
    focal_length = _required(
        tags, "FocalLength", Reason.FOCAL_LENGTH_MISSING, Reason.FOCAL_LENGTH_INVALID
    )
    f_number = _required(tags, "FNumber", Reason.F_NUMBER_MISSING, Reason.F_NUMBER_INVALID)
    make, model = _text(tags, "Image Make"), _text(tags, "Image Model")
    zoom = _number(tags, "EXIF DigitalZoomRatio") or 0.0
    flags = ["digital_zoom"] if zoom > 1 else []
    flags += _changes_since_exposure(tags, image.width, image.height)
    sensor_width, source = _sensor_width(tags, focal_length, make, model, max(zoom, 1.0), flags)
    distance = _number(tags, "EXIF SubjectDistance")
    return ExposureFacts(
        focal_length_mm=focal_length,
        f_number=f_number,
        focal_length_35mm=_number(tags, "EXIF FocalLengthIn35mmFilm") or None,
        sensor_width_mm=sensor_width,
        sensor_width_source=source,
        pixel_ratio=max(image.width, image.height) / sensor_width,
        make=make,
        model=model,
        width=image.width,
        height=image.height,
        orientation=image.orientation,
        subject_distance_m=distance if distance and 0 < distance < _INFINITE_DISTANCE else None,
        digital_zoom=zoom if zoom > 1 else None,
        flags=tuple(flags),
    )


def table_sensor_width(make: str, model: str) -> float | None:
    """Sensor width in mm of a camera body from ``sensor_widths.csv``; None where it is not listed.

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
    """
    listed = table_sensor_width(make, model)
    width = _width_from_35mm(tags, focal_length, listed, flags)
    source = "focal_length_35mm"
    if width is None:
        width, source = _width_from_focal_plane(tags, flags), "focal_plane"
        width = None if width is None else width / zoom
    if width is not None:
        if listed and abs(width / (listed / zoom) - 1) > 0.15:
            flags.append("disagrees_with_table")
        return width, source
    if listed is not None:
        return listed / zoom, "table"
    noticed = f"; noticed: {', '.join(flags)}" if flags else ""
    raise Rejected(
        Reason.SENSOR_WIDTH_UNKNOWN,
        f"{make} {model}".strip() or None,
        "no usable FocalLengthIn35mmFilm or FocalPlaneXResolution, and the camera is not in the "
        f"sensor table{noticed}",
    )


def _width_from_35mm(
    tags: Mapping[str, Any], focal_length: float, listed: float | None, flags: list[str]
) -> float | None:
    equivalent = _number(tags, "EXIF FocalLengthIn35mmFilm")
    if not equivalent or equivalent < 0:
        return None
    width = FULL_FRAME_WIDTH_MM * focal_length / equivalent
    if not _plausible(width):
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
    pixels_per_unit = _number(tags, "EXIF FocalPlaneXResolution")
    if not pixels_per_unit or pixels_per_unit < 0:
        return None
    unit = _number(tags, "EXIF FocalPlaneResolutionUnit")
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
    if not _plausible(width):
        flags.append("focal_plane_implausible")
        return None
    return width


def _changes_since_exposure(tags: Mapping[str, Any], width: int, height: int) -> list[str]:
    original = _original_size(tags)
    if original is None or max(original) == max(width, height):
        return []
    flags = ["resized"]
    if min(original):
        # Half a pixel of rounding on the short edge is no change of aspect.
        expected = min(original) * max(width, height) / max(original)
        if abs(expected - min(width, height)) > max(1.0, 0.01 * expected):
            flags.append("aspect_changed")
    return flags


def _original_size(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    """ExifImageWidth and ExifImageLength, the latter 0 where missing; None without a width."""
    width = _number(tags, "EXIF ExifImageWidth")
    if width is None or width < 1:
        return None
    return width, max(_number(tags, "EXIF ExifImageLength") or 0.0, 0.0)


@dataclass(frozen=True)
class _ImageFile:
    """A decodable image: stored size in px, orientation 1 to 8, its EXIF as a TIFF stream."""

    width: int
    height: int
    orientation: int
    exif: bytes


def _open_image(path: Path) -> _ImageFile:
    head = _require_readable(path)
    if path.suffix.lower() in RAW_SUFFIXES:
        raise Rejected(
            Reason.FORMAT_UNSUPPORTED, path.suffix, "camera raw; develop it to JPEG, TIFF or PNG"
        )
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _register_heif(head[8:12].decode())
    try:
        # Pillow warns of odd tags, which are judged below.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            width, height = image.size
            # A JPEG is decoded at an eighth of its size: enough to find damage.
            image.draft("L", (max(width // 8, 1), max(height // 8, 1)))
            image.load()
            # What a loader that follows the orientation will see.
            orientation = image.getexif().get(0x0112, 1)
            # Pillow knows more containers than exifread; a TIFF file is its own EXIF stream.
            exif = path.read_bytes() if image.format == "TIFF" else image.info.get("exif", b"")
    except UnidentifiedImageError:
        reason = Reason.IMAGE_DAMAGED if head.startswith(_IMAGE_STARTS) else Reason.NOT_AN_IMAGE
        raise Rejected(reason, f"starts with '{head[:4].hex(' ')}'", "no header to read") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        raise Rejected(Reason.IMAGE_DAMAGED, type(error).__name__, str(error)) from error
    orientation = orientation if orientation in range(1, 9) else 1
    return _ImageFile(width, height, orientation, exif.removeprefix(b"Exif\x00\x00"))


def _require_readable(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise Rejected(Reason.FILE_MISSING, str(path)) from None
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, error.strerror) from None


def _register_heif(brand: str) -> None:
    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise Rejected(
            Reason.FORMAT_UNSUPPORTED, brand, "HEIC; pip install pillow-heif, or convert to JPEG"
        ) from None
    pillow_heif.register_heif_opener()


def _read_tags(exif: bytes) -> dict[str, Any]:
    """EXIF tags by exifread's names, without maker notes, which crash parsers."""
    if not exif:
        raise Rejected(Reason.NO_EXIF, "0 bytes", "the file carries no EXIF")
    try:
        tags: dict[str, Any] = exifread.process_file(
            io.BytesIO(exif), details=False, extract_thumbnail=False
        )
    except Exception as error:  # exifread raises IndexError, struct.error, TypeError and others
        raise Rejected(Reason.EXIF_CORRUPT, type(error).__name__, str(error)) from error
    if not tags:
        raise Rejected(Reason.EXIF_CORRUPT, f"{len(exif)} bytes", "the EXIF has no readable tag")
    if not any(name.startswith("EXIF ") or name == "Image FNumber" for name in tags):
        raise Rejected(
            Reason.NO_EXIF, f"{len(tags)} tags", "the EXIF has no exposure, only other tags"
        )
    return tags


def _required(tags: Mapping[str, Any], name: str, missing: Reason, invalid: Reason) -> float:
    # TIFF/EP files keep these tags in the main directory.
    key = next((k for k in (f"EXIF {name}", f"Image {name}") if k in tags), None)
    if key is None:
        raise Rejected(missing, None, f"the EXIF has no {name}")
    value = _number(tags, key)
    if value is None or value <= 0:
        raise Rejected(invalid, _raw(tags[key]), f"{name} must be a number above zero")
    return value


def _number(tags: Mapping[str, Any], key: str) -> float | None:
    """A tag's first value as a finite number; None where missing, malformed or divided by zero."""
    values = getattr(tags.get(key), "values", None)
    if not isinstance(values, list) or not values:
        return None
    value = values[0]
    if isinstance(value, tuple):  # exifread leaves floating point fields packed
        value = value[0] if value else None
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _raw(tag: Any) -> str:
    values = getattr(tag, "values", None)
    return str(values[0]) if isinstance(values, list) and len(values) == 1 else str(values)


def _text(tags: Mapping[str, Any], key: str) -> str:
    values = getattr(tags.get(key), "values", "")
    if isinstance(values, bytes):
        values = values.decode("latin-1")
    return " ".join(values.split()) if isinstance(values, str) else ""


def _plausible(width_mm: float) -> bool:
    low, high = PLAUSIBLE_SENSOR_MM
    return low <= width_mm <= high


@functools.cache
def _sensor_table() -> dict[str, float]:
    text = resources.files("genrefocus").joinpath("sensor_widths.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {_camera_key(row["make"], row["model"]): float(row["width_mm"]) for row in rows}


def _camera_key(make: str, model: str) -> str:
    """First word of the make and the model, without repeating it: "nikon d90"."""
    maker = re.split(r"[\s,.]+", make.strip().lower(), maxsplit=1)[0]
    words = model.lower().split()
    return " ".join(words if words[:1] == [maker] else [maker, *words]).strip()
