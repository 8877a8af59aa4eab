"""Which EXIF facts a source may pass on, and in what form.

Place, owner, serial numbers and whatever else a file knows never leave it: only names listed here
do.
"""

import json
import math
import numbers
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from genrefocus.rejection import Reason, Rejected

EXPOSURE_TAGS = (
    "FocalLength",
    "FNumber",
    "FocalLengthIn35mmFilm",
    "DigitalZoomRatio",
    "SubjectDistance",
    "FocalPlaneXResolution",
    "FocalPlaneYResolution",
    "FocalPlaneResolutionUnit",
    "ExifImageWidth",
    "ExifImageLength",
    "Make",
    "Model",
)
"""What Eq. 3 and its sensor width need; EXIF names as exifread spells them."""

_BARE = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in EXPOSURE_TAGS} | {
    "focallength35": "FocalLengthIn35mmFilm",
    "focallengthin35mmformat": "FocalLengthIn35mmFilm",  # as ExifTool and Flickr have it
    "exifimageheight": "ExifImageLength",
}
_FLICKR_SPACES = {"exif", "exififd", "ifd0", "tiff"}
"""Tag spaces of Flickr's EXIF lists that hold the standard's tags, and no maker notes."""


def exposure_tag(name: str) -> str | None:
    """The tag that a column or key means, such as ``f_number``; None where it means none of them.

    >>> exposure_tag("focal_length_35"), exposure_tag("GPSLatitude")
    ('FocalLengthIn35mmFilm', None)
    """
    return _BARE.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def plain_facts(values: Mapping[str, Any]) -> dict[str, float | str]:
    """Values by tag as JSON data; what is missing, empty or not a number is left out.

    Text is kept as it is, and a division by zero as text, for the reader of EXIF to judge.
    """
    plain = ((name, _plain(value)) for name, value in values.items())
    return {name: value for name, value in plain if value is not None}


def parse_exif_column(text: str) -> dict[str, float | str]:
    """JSON of EXIF by name, or a list as Flickr gives it (``tag``, ``tagspace``, ``raw``).

    Raises:
        Rejected: ``exif_corrupt``: no JSON.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Rejected(Reason.EXIF_CORRUPT, text[:40], f"no JSON: {error}") from None
    while isinstance(data, dict) and isinstance(inner := data.get("photo", data.get("exif")), dict):
        data = inner
    if isinstance(data, dict) and isinstance(data.get("exif"), list):
        data = data["exif"]
    if isinstance(data, list):
        data = dict(_flickr_entry(entry) for entry in reversed(data) if _is_standard(entry))
    if not isinstance(data, dict):
        raise Rejected(Reason.EXIF_CORRUPT, text[:40], "neither names with values nor a list")
    named = ((exposure_tag(str(name)), value) for name, value in data.items())
    return plain_facts({name: value for name, value in named if name is not None})


def _is_standard(entry: object) -> bool:
    space = entry.get("tagspace", "exif") if isinstance(entry, dict) else None
    return str(space).lower() in _FLICKR_SPACES


def _flickr_entry(entry: Mapping[str, Any]) -> tuple[str, Any]:
    raw = entry.get("raw")
    return str(entry.get("tag")), raw.get("_content") if isinstance(raw, dict) else raw


def _plain(value: Any) -> float | str | None:
    if isinstance(value, numbers.Rational):
        return _number(value)
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    text = value.strip().strip("\x00") if isinstance(value, str) else ""
    return text or None


def _number(value: numbers.Rational) -> float | str:
    numerator, denominator = int(value.numerator), int(value.denominator)
    # exifread's ratios may be a division by zero.
    return numerator / denominator if denominator else f"{numerator}/{denominator}"
