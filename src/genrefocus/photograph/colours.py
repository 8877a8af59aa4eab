"""An opened image -> upright sRGB in [0, 1], whatever mode and colour space it is stored in.

An image whose values have no known meaning is rejected by name: none is guessed.
"""

import contextlib
import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from genrefocus.photograph.profiles import to_linear_srgb
from genrefocus.rejection import Reason, Rejected

Array = NDArray[np.floating[Any]]

SRGB = "sRGB"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY = ("1", "L", "La", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# Spaces that files name without a profile: the exponent of Adobe RGB (1998), None for sRGB's curve
# (SMPTE EG 432-1), and the matrix from linear light to that of sRGB, from the primaries at D65.
_ADOBE_RGB, _DISPLAY_P3 = "Adobe RGB", "Display P3"
_NAMED = {
    _ADOBE_RGB: (563 / 256, ((1.39836, -0.39836, 0.0), (0.0, 1.0, 0.0), (0.0, -0.04293, 1.04293))),
    _DISPLAY_P3: (
        None,
        ((1.22494, -0.22494, 0.0), (-0.04206, 1.04206, 0.0), (-0.01964, -0.07864, 1.09827)),
    ),
}
# Code points of ITU-T H.273, by which HEIC names a space: BT.709 and its kin, P3; PQ and HLG.
_PRIMARIES, _P3_PRIMARIES, _HDR_TRANSFERS = (0, 1, 2, 5, 6, 7), 12, (16, 18)


@dataclass(frozen=True)
class Pixels:
    """An upright image.

    Attributes:
        colour: (H, W, 3) float32 sRGB in [0, 1].
        opacity: (H, W) float32 in [0, 1], or None where the image is opaque.
        space: colour space of the file, which the colours were converted from; "sRGB" where they
            were not.
        bits: of the samples of the file, 16 where it has more than 8.
        is_grey: the file has no colour.
    """

    colour: Array
    opacity: Array | None
    space: str
    bits: int = 8
    is_grey: bool = False

    @property
    def conversions(self) -> list[str]:
        """What was done to the image that the file holds, in words."""
        found = [f"colours are converted from {self.space} to {SRGB}"] * (self.space != SRGB)
        found += ["grey becomes three equal channels"] * self.is_grey
        return found + ["transparency is dropped"] * (self.opacity is not None)

    @property
    def light(self) -> Array:
        """Mean of the channels over black, (H, W) in [0, 1]: of masks and drawn shapes."""
        grey = self.colour.mean(2)
        return grey if self.opacity is None else grey * self.opacity


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 that remains to be applied; 1 where it is missing or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        value = float(value) if isinstance(value, (str, bytes)) else value  # as of other tags
    except Exception:  # the pixels do not depend on what else is wrong with the EXIF
        return 1
    return int(value) if value in range(1, 9) else 1


def pixels_of(image: Image.Image, name: str, low: Image.Image | None = None) -> Pixels:
    """The image of an opened file; see :func:`genrefocus.photograph.decoding.opened`.

    Grey keeps 16 bits and floating point; colour is read at 8 bits unless ``low`` is given. Of the
    EXIF, orientation and colour space are read.

    Args:
        image: opened.
        name: for messages.
        low: the same image with the lower 8 of 16 bits, see ``decoding.low_bytes``.

    Raises:
        Rejected: ``format_unsupported``: values without a known range, a colour space of HDR, or 16
            bits in a plane for each colour.
    """
    bits = 16 if image.mode.startswith(("I", "F")) else _bits(image, name)
    image.load()
    upright = _upright(image, orientation_of(image))
    if image.mode in _GREY:
        levels, opacity = _levels(image, upright, name)
        levels, space = _grey_to_srgb(levels, image.info.get("icc_profile"))
        colour = np.repeat(levels[..., None], 3, axis=2)
        return Pixels(colour, opacity, space, bits, is_grey=True)
    opacity = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        opacity = np.asarray(upright.getchannel("A"), np.float32) / 255
    colour, space = _to_srgb(upright, image, name)
    if low is not None:
        low = _upright(low, orientation_of(image))
        high = np.asarray(upright.convert("RGB"), np.float32)
        deep = (256 * high + np.asarray(low.convert("RGB"), np.float32)) / 65535
        colour = _deep_to_srgb(deep, colour, space, image.info.get("icc_profile"))
    return Pixels(colour, opacity, space, bits)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation > 1 else image


def _bits(image: Image.Image, name: str) -> int:
    """Of the samples of an image that is not decoded yet: 8, or 16 for more.

    Raises:
        Rejected: see :func:`pixels_of`.
    """
    tags = getattr(image, "tag_v2", {})
    if max(tags.get(258, (8,))) > 8 and tags.get(284) == 2:  # which Pillow takes for 8 bits
        detail = f"{name}: TIFF with a plane for each colour; save it with interleaved samples"
        raise Rejected(Reason.FORMAT_UNSUPPORTED, f"{max(tags[258])} bits", detail)
    return 16 if any(";16" in str(one.args) for one in getattr(image, "tile", ())) else 8


def _levels(image: Image.Image, upright: Image.Image, name: str) -> tuple[Array, Array | None]:
    """Grey in [0, 1] and opacity of an image without colour."""
    mode = upright.mode
    if mode in ("1", "L", "La", "LA"):
        if not upright.has_transparency_data:
            return np.asarray(upright.convert("L"), np.float32) / 255, None
        both = np.asarray(upright.convert("LA"), np.float32) / 255
        return both[..., 0], both[..., 1]
    values, opacity = np.asarray(upright).astype(np.float64), None
    tags = getattr(image, "tag_v2", {})
    bits, is_signed = tags.get(258, (16,))[0], tags.get(339, (1,))[0] == 2
    if mode == "F":
        white, kind = 1.0, "floating point"
    elif bits in (12, 16) and not is_signed:  # Pillow keeps 32 bits in TIFF alone
        white, kind = 2.0**bits - 1, f"{bits} bit integers"
    else:
        white, kind = 0.0, f"{bits} bit integers"
    low, high = float(values.min()), float(values.max())
    if not (white and 0 <= low <= high <= white):
        detail = f"{name}: {kind} whose white is not known; save 8 or 16 bits, or floats in [0, 1]"
        raise Rejected(Reason.FORMAT_UNSUPPORTED, f"{low:g} to {high:g}", detail)
    if (clear := image.info.get("transparency")) is not None:
        opacity = (values != clear).astype(np.float32)
    levels = (values / white).astype(np.float32)
    return (1 - levels if tags.get(262) == 0 else levels), opacity  # white is zero


def _grey_to_srgb(levels: Array, profile: bytes | None) -> tuple[Array, str]:
    """Grey by its profile, which is a curve: one of 256 points serves any depth."""
    space, transform = _transform(profile, "L") if profile else (SRGB, None)
    if transform is None:
        return levels, space
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    curve = np.asarray(_applied(transform, ramp), np.float32)[0].mean(1) / 255
    return np.interp(levels, np.linspace(0, 1, 256), curve).astype(np.float32), space


def _to_srgb(upright: Image.Image, image: Image.Image, name: str) -> tuple[Array, str]:
    """Colour (H, W, 3), and the space that it was converted from."""
    mode = upright.mode if upright.mode in ("CMYK", "LAB") else "RGB"
    stored = upright if upright.mode == mode else upright.convert("RGB")
    profile, space = image.info.get("icc_profile"), SRGB
    if mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    elif not profile and mode == "RGB":
        space = _named_space(image, name)
    if profile:
        space, transform = _transform(profile, mode)
        if transform is not None:
            stored = _applied(transform, stored)
        space = "CIELAB" if mode == "LAB" else space
    elif mode == "CMYK":
        space = "CMYK without a profile"
    colour = np.asarray(stored.convert("RGB"), np.float32) / 255
    return colour if profile or space not in _NAMED else _from_named(colour, space), space


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The name of an ICC profile and what leads from it to sRGB; None where nothing does."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        given = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = ImageCms.getProfileDescription(given).strip() or "a profile without a name"
        transform = ImageCms.buildTransform(
            given, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return f"an unreadable profile, or one not of {mode}, taken for {SRGB}", None
    if mode != "RGB":
        return space, transform
    cube = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1)
    image = Image.fromarray(cube.reshape(1, -1, 3))
    moved = np.asarray(_applied(transform, image), int) - np.asarray(image, int)
    # There are many profiles of sRGB; all lead to within rounding of where they start.
    return (SRGB, None) if np.abs(moved).max() <= 3 else (space, transform)


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # which it is in place only
    return converted


def _named_space(image: Image.Image, name: str) -> str:
    """The space that a file without a profile names: in its EXIF (DCF 2.0), or as HEIC does."""
    coded = image.info.get("nclx_profile") or {}
    primaries = coded.get("color_primaries", 2)
    transfer = coded.get("transfer_characteristics", 2)
    if primaries not in (*_PRIMARIES, _P3_PRIMARIES) or transfer in _HDR_TRANSFERS:
        detail = f"{name}: HDR or a wide gamut without an ICC profile; export it as sRGB"
        value = f"primaries {primaries}, transfer {transfer} of H.273"
        raise Rejected(Reason.FORMAT_UNSUPPORTED, value, detail)
    if primaries == _P3_PRIMARIES:
        return _DISPLAY_P3
    with contextlib.suppress(Exception):  # see orientation_of
        exif = image.getexif()
        exposure = exif.get_ifd(ExifTags.IFD.Exif)
        if exposure.get(ExifTags.Base.ColorSpace) == 2:
            return _ADOBE_RGB
        if exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03":
            return _ADOBE_RGB
    return SRGB


def _deep_to_srgb(deep: Array, colour: Array, space: str, profile: bytes | None) -> Array:
    """Colours of 16 bits; those of 8 bits, converted, where the profile needs Little CMS."""
    if space == SRGB:
        return deep
    if not profile:
        return _from_named(deep, space)
    convert = to_linear_srgb(profile, srgb_profile())
    return colour if convert is None else _encoded(convert(deep))


@functools.cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _from_named(colour: Array, space: str) -> Array:
    """Colours (H, W, 3) of a space in ``_NAMED`` as sRGB, clipped to [0, 1]."""
    exponent, matrix = _NAMED[space]
    curved = ((colour + 0.055) / 1.055) ** 2.4
    linear = colour**exponent if exponent else np.where(colour <= 0.04045, colour / 12.92, curved)
    return _encoded(linear @ np.array(matrix, np.float32).T)


def _encoded(linear: Array) -> Array:
    """Linear sRGB, clipped to [0, 1], with its curve."""
    light: Array = linear.clip(0, 1)
    bright = 1.055 * light ** (1 / 2.4) - 0.055
    encoded: Array = np.where(light <= 0.0031308, 12.92 * light, bright)
    return encoded.astype(np.float32)
