"""EXIF and colour profile of a photograph, as images that are made of it carry them on."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import piexif
from PIL import Image

from genrefocus.photograph.colours import SRGB, Pixels, orientation_of, srgb_profile
from genrefocus.photograph.decoding import opened

# Of the first directory, what says nothing about how the samples of the file are stored.
_KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, *range(40091, 40096))
# Offsets in maker notes hold for one file alone; places in the image move; and what is compressed
# anew has other bits for each pixel.
_LEFT_OUT = (37500, 40965, 37396, 41492, 37122)
_LARGEST = 65_000  # bytes in a JPEG

Tags = Mapping[int, Any]


@dataclass(frozen=True)
class Carried:
    """What is carried on.

    Attributes:
        tags: of EXIF, by directory, as piexif has them; none where the photograph has no EXIF.
        profile: ICC profile of what it is read as, or None for sRGB without one.
        is_turned: it was turned by 90 degrees when it was read.
        lost: why the EXIF is not carried on, or None.
    """

    tags: Mapping[str, Tags]
    profile: bytes | None = None
    is_turned: bool = False
    lost: str | None = None

    def exif(self, height: int, width: int, scale: float, **first: Any) -> bytes:
        """The EXIF block of an image, which is upright and sRGB; empty where there is none.

        Args:
            height, width: of the image, px.
            scale: px of the image for one of the photograph.
            first: further tags of the first directory, by piexif's names.
        """
        if not self.tags and not first:
            return b""
        more = {getattr(piexif.ImageIFD, name): value for name, value in first.items()}
        if not self.tags:
            return bytes(piexif.dump({"0th": more}))
        exposure = dict(self.tags["Exif"])
        if exposure:
            exposure |= {40961: 1, 40962: width, 40963: height}  # sRGB
        if {41486, 41487} <= set(exposure):  # resolution of the focal plane
            across, down = (_scaled(exposure[tag], scale) for tag in (41486, 41487))
            across, down = (down, across) if self.is_turned else (across, down)
            exposure |= {41486: across, 41487: down}
        whole = {"0th": {**self.tags["0th"], 274: 1, **more}, "Exif": exposure}
        return bytes(piexif.dump({**whole, "GPS": self.tags["GPS"]}))


def carried_by(data: bytes, name: str, pixels: Pixels) -> Carried:
    """What an encoded photograph carries on, as ``pixels`` were read of it.

    Raises:
        Rejected: as :func:`genrefocus.photograph.decoding.opened`.
    """
    with opened(data, name) as image:
        block, profile = image.info.get("exif"), image.info.get("icc_profile")
        block = data if image.format == "TIFF" else block
        mended, is_turned = _mended(image), orientation_of(image) > 4
    if pixels.space != SRGB:
        profile = srgb_profile()
    elif pixels.is_grey:
        profile = None
    own = _directories(block) if block else {}
    tags = (_directories(mended) if own is None else own) or {}
    if own is None and not any(tags.values()):
        return Carried({}, profile, lost="the EXIF is damaged, and is left out")
    carried = Carried(tags, profile, is_turned)
    if tags and len(carried.exif(1, 1, 1.0)) > _LARGEST:
        return Carried({}, profile, lost="the EXIF is too long, and is left out")
    return carried if any(tags.values()) else Carried({}, profile)


def _mended(image: Image.Image) -> bytes | None:
    """The EXIF block as Pillow writes it: whole, but without letters that are not ASCII."""
    try:
        return image.getexif().tobytes()
    except Exception:  # of many kinds, at damaged blocks
        return None


def _directories(block: bytes | None) -> dict[str, Tags] | None:
    """What is carried on of an EXIF block or a TIFF; None where piexif cannot read it."""
    try:
        found = piexif.load(block)
    except Exception:  # of piexif, struct and others, at damaged blocks
        return None
    kept = {
        "0th": {tag: value for tag, value in found["0th"].items() if tag in _KEPT},
        "Exif": {tag: value for tag, value in found["Exif"].items() if tag not in _LEFT_OUT},
        "GPS": found["GPS"],
    }
    return {where: _sound(where, some) for where, some in kept.items()}


def _sound(where: str, tags: Tags) -> dict[int, Any]:
    """Those that can be written: piexif reads values of wrong types, and refuses to write them."""
    found = {}
    for tag, value in tags.items():
        try:
            piexif.dump({where: {tag: value}})
        except Exception:
            continue
        found[tag] = value
    return found


def _scaled(ratio: tuple[int, int], scale: float) -> tuple[int, int]:
    exact = Fraction(*ratio) * Fraction(scale).limit_denominator(10_000)
    return exact.limit_denominator(10_000).as_integer_ratio()
