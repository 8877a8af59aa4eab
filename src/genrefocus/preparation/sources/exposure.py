"""Which EXIF facts a source may pass on, and in what form.

Place, owner, serial numbers and whatever else a file knows never leave it: only the names in
``exif.TAGS`` do.
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from PIL.TiffImagePlugin import IFDRational

from genrefocus.photograph.exif import TAGS
from genrefocus.rejection import Reason, Rejected

_BARE = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in TAGS} | {
    "focallength35": "FocalLengthIn35mmFilm",
    "focallengthin35mmformat": "FocalLengthIn35mmFilm",  # as ExifTool and Flickr have it
    "exifimagelength": "ExifImageHeight",  # as the standard has it
}
_UNIT = re.compile(r"^(?:f/)?([0-9./]+)(?: mm)?$")
_FLICKR_SPACES = {"exif", "exififd", "ifd0", "tiff"}
"""Tag spaces of Flickr's EXIF lists that hold the standard's tags, and no maker notes."""


def exposure_tag(name: str) -> str | None:
    """The tag that a column or key means, such as ``f_number``; None where it means none of them.

    >>> exposure_tag("focal_length_35"), exposure_tag("GPSLatitude")
    ('FocalLengthIn35mmFilm', None)
    """
    return _BARE.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def plain_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by tag as ``exif.exposure_from_tags`` takes them, in JSON; absent ones are left out.

    Nothing is judged here: zeros, divisions by zero and odd text stay for the reader of EXIF. Of
    text, only the units that ExifTool and Flickr print are taken off: "50 mm", "f/2.8".
    """
    plain = ((name, _plain(value)) for name, value in values.items())
    return {name: value for name, value in plain if value is not None}


def parse_exif_column(text: str) -> dict[str, Any]:
    """JSON of EXIF by name, or a list as Flickr gives it (``tag``, ``tagspace``, ``raw``).

    Raises:
        Rejected: ``exif_corrupt``: no JSON.
    """
    size = f"{len(text)} characters"  # and none of them: they may name a person or a place
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.EXIF_CORRUPT, size, f"no JSON: {error}") from None
    while isinstance(data, dict) and isinstance(inner := data.get("photo", data.get("exif")), dict):
        data = inner
    if isinstance(data, dict) and isinstance(data.get("exif"), list):
        data = data["exif"]
    if isinstance(data, list):
        data = dict(_flickr_entry(entry) for entry in reversed(data) if _is_standard(entry))
    if not isinstance(data, dict):
        raise Rejected(Reason.EXIF_CORRUPT, size, "neither names with values nor a list")
    named = ((exposure_tag(str(name)), value) for name, value in data.items())
    return plain_facts({name: value for name, value in named if name is not None})


def _is_standard(entry: object) -> bool:
    space = entry.get("tagspace", "exif") if isinstance(entry, dict) else None
    return str(space).lower() in _FLICKR_SPACES


def _flickr_entry(entry: Mapping[str, Any]) -> tuple[str, Any]:
    raw = entry.get("raw")
    return str(entry.get("tag")), raw.get("_content") if isinstance(raw, dict) else raw


def _plain(value: Any) -> Any:
    if isinstance(value, IFDRational | Fraction):  # as Pillow and exifread have ratios
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, tuple):  # as Pillow has a tag with several values
        return _plain(value[0] if value else None)
    if isinstance(value, list):  # numerator and denominator
        parts = [_plain(part) for part in value]
        return parts if all(isinstance(part, float) for part in parts) else None
    if isinstance(value, int | float | Decimal):
        with contextlib.suppress(OverflowError):
            return float(value) if math.isfinite(value) else None
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    text = value.partition("\0")[0].strip() if isinstance(value, str) else ""
    return _UNIT.sub(r"\1", text) or None
