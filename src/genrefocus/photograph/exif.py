"""Photograph -> exposure facts, or a named reason why there are none.

EXIF is written by many hands and rarely checked: every fact is read defensively, and what is
missing, zero or unreadable becomes a :class:`~genrefocus.rejection.Rejected` with the raw value.
Oddities that leave a photograph usable are listed in ``ExposureFacts.flags``.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from genrefocus.photograph.colours import Pixels, orientation_of, pixels_of
from genrefocus.photograph.decoding import opened, read_file
from genrefocus.photograph.sensors import as_number, framed_width, original_size
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

MAX_EXIF_BYTES = 2**22
"""A JPEG segment holds 64 KiB; decoding a hostile block takes many times its size in memory."""

MAX_NAME = 100
"""Characters of make and model that are kept."""

_INFINITE_DISTANCE = 0xFFFFFFFF


@dataclass(frozen=True)
class ExposureFacts:
    """What Eq. 3 needs to know about a photograph, and where it came from.

    Attributes:
        focal_length_mm: real focal length, > 0.
        f_number: > 0.
        focal_length_35mm: the EXIF field in mm, or None where missing or 0.
        sensor_width_mm: long side of the part of the sensor that the image shows.
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
            ``disagrees_with_table: 23.8 mm by focal_plane`` (that source was passed over),
            ``in_camera_crop``,
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
            ``image_too_large``, ``no_exif``, ``exif_corrupt``, and as
            :func:`exposure_from_tags`; the value is the raw one from the file.
    """
    with opened(data, name) as image:
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            # Decoded at an eighth of its size: enough to find damage.
            image.draft("L", (max(width // 8, 1), max(height // 8, 1)))
        image.load()
        orientation = orientation_of(image)
    return _exposure_in(image, width, height, orientation)


def read_photograph(
    data: bytes, name: str, tags: Mapping[str, Any] | None = None
) -> tuple[Pixels, ExposureFacts]:
    """Pixels and exposure facts of one photograph, whose file is opened once.

    Args:
        data, name: as for :func:`exposure_of`.
        tags: in place of the file's EXIF, see :func:`exposure_from_tags`.

    Raises:
        Rejected: as :func:`exposure_of` and ``colours.pixels_of``.
    """
    with opened(data, name) as image:
        width, height = image.size
        pixels = pixels_of(image, name)
        orientation = orientation_of(image)
    if tags is not None:
        return pixels, exposure_from_tags(tags, width=width, height=height)
    return pixels, _exposure_in(image, width, height, orientation)


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
    zoom = as_number(tags.get("DigitalZoomRatio")) or 0.0
    flags = ["digital_zoom"] if zoom > 1 else []
    if _is_resized(tags, width, height):
        flags.append("resized")
    sensor_width, source = framed_width(tags, focal_length, make, model, max(zoom, 1.0), flags)
    return ExposureFacts(
        focal_length_mm=focal_length,
        f_number=f_number,
        focal_length_35mm=as_number(tags.get("FocalLengthIn35mmFilm")) or None,
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


def _exposure_in(image: Image.Image, width: int, height: int, orientation: int) -> ExposureFacts:
    tags, damage = _read_tags(image)
    try:
        facts = exposure_from_tags(tags, width=width, height=height, orientation=orientation)
    except Rejected as rejected:
        if damage and rejected.reason in (Reason.FOCAL_LENGTH_MISSING, Reason.F_NUMBER_MISSING):
            raise Rejected(Reason.EXIF_CORRUPT, damage[0], rejected.detail) from None
        raise
    return replace(facts, flags=(*facts.flags, "exif_damaged")) if damage else facts


def _is_resized(tags: Mapping[str, Any], width: int, height: int) -> bool:
    """Whether the long edge is another than at the exposure.

    Raises:
        Rejected: ``cropped_after_exposure``: so are the proportions, and nothing says how many
            pixels the sensor's width would now have.
    """
    original = original_size(tags)
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
    distance = as_number(value)
    if distance is None or not 0 < distance < _INFINITE_DISTANCE:
        return None
    numerator = value.partition("/")[0] if isinstance(value, str) else np.ravel(value)[0]
    return None if as_number(numerator) == _INFINITE_DISTANCE else distance


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
    number = as_number(value)
    if number is None or number <= 0:
        raise Rejected(invalid, str(value)[:MAX_NAME], f"{name} must be a number above zero")
    return number


def _text(value: Any) -> str:
    return " ".join(value.partition("\0")[0].split())[:MAX_NAME] if isinstance(value, str) else ""
