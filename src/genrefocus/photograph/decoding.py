"""Encoded images -> Pillow images, or a named reason: the one place that opens photographs."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pillow_heif
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from genrefocus.photograph.colours import Pixels, pixels_of
from genrefocus.rejection import Reason, Rejected

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF", "BMP", "GIF", "PPM", "JPEG2000")
"""Pillow's names. Its other formats are not tried: some of their decoders start programs."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".heic", ".heif")
RAW_SUFFIXES = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\x00", b"MM\x00*")

pillow_heif.register_heif_opener()


def is_image(path: Path) -> bool:
    """Whether a file's name ends as an image's; hidden files (``._IMG_1.jpg``) are none."""
    named = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    return named and path.is_file()


def read_file(path: str | Path) -> bytes:
    """All bytes of a file.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Rejected(Reason.FILE_MISSING, str(path), "it does not exist") from None
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, error.strerror, str(path)) from None


def read_pixels(data: bytes, name: str, *, deep: bool = False) -> Pixels:
    """The first image of an encoded file, upright, as sRGB; ``name`` is for messages.

    Args:
        data: the file's bytes.
        name: its name.
        deep: read colour at 16 bits where the file has them, which takes twice as long.

    Raises:
        Rejected: as :func:`opened` and :func:`genrefocus.photograph.colours.pixels_of`.
    """
    with opened(data, name) as image:
        if not deep:
            return pixels_of(image, name)
        with opened(data, name) as again:
            return pixels_of(image, name, low_bytes(again))


def low_bytes(image: ImageFile.ImageFile) -> Image.Image | None:
    """The lower 8 bits of colour of 16 bits; None where an image has no such.

    Pillow decodes the upper ones. It is told the other order of bytes.

    Args:
        image: opened, and not decoded yet.
    """
    args = [(one.args,) if isinstance(one.args, str) else one.args or ("",) for one in image.tile]
    order = str(args[0][0]) if args else ""
    if order[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        return None
    is_little = order[-1] == "L" or (order[-1] == "N" and sys.byteorder == "little")
    other = order[:-1] + ("B" if is_little else "L")
    for number, (one, (_, *rest)) in enumerate(zip(image.tile, args, strict=True)):
        new = other if isinstance(one.args, str) else (other, *rest)
        image.tile[number] = one._replace(args=new)
    image.load()
    return image


@contextmanager
def opened(data: bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """The first image of an encoded file, its pixels still to be decoded.

    Whatever a decoder raises within the ``with`` is turned into ``image_damaged``, and Pillow's
    warnings of odd tags are silent there: do nothing else in it.

    Args:
        data: the file's bytes.
        name: its name, for messages; the suffix tells camera raw from TIFF.

    Raises:
        Rejected: ``format_unsupported`` (camera raw), ``not_an_image``, ``image_too_large``
            (more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``; nothing is decoded),
            ``image_damaged``.
    """
    suffix = Path(name).suffix.lower()
    if suffix in RAW_SUFFIXES:
        detail = f"{name}: camera raw; develop it to JPEG, TIFF or PNG"
        raise Rejected(Reason.FORMAT_UNSUPPORTED, suffix, detail)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=FORMATS) as image,
        ):
            _require_size_within_limit(image.size, name)
            yield image
    except Rejected:
        raise
    except Image.DecompressionBombError:
        detail = f"{name}: more than twice the {Image.MAX_IMAGE_PIXELS} px that Pillow allows"
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{len(data)} bytes", detail) from None
    except UnidentifiedImageError:
        if samples := _tiff_samples(data):
            detail = f"{name}: TIFF with samples that cannot be read; save 8 or 16 bits"
            raise Rejected(Reason.FORMAT_UNSUPPORTED, samples, detail) from None
        known = data.startswith(_STARTS) or data[4:8] == b"ftyp"
        reason = Reason.IMAGE_DAMAGED if known else Reason.NOT_AN_IMAGE
        detail = f"{name}: no readable header of a JPEG, PNG, TIFF, WebP or HEIC file"
        raise Rejected(reason, f"starts with '{data[:4].hex(' ')}'", detail) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        detail = f"{name}: {error}"
        raise Rejected(Reason.IMAGE_DAMAGED, type(error).__name__, detail) from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in px as stored, from the file's header alone.

    Raises:
        Rejected: ``not_an_image``: there is no such header.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Rejected(Reason.NOT_AN_IMAGE, path.name, str(error)) from error


def _tiff_samples(data: bytes) -> str | None:
    """Bits of the samples of a TIFF whose header is whole, such as colour of 32 bits."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        stream = io.BytesIO(data)
        stream.seek(directory.next)
        with warnings.catch_warnings(action="ignore"):
            directory.load(stream)
        return f"{'/'.join(map(str, directory[258]))} bits"
    except Exception:  # of no TIFF, or a damaged one
        return None


def _require_size_within_limit(size: tuple[int, int], name: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        detail = f"{name}: more than the {limit} px that Pillow allows; scale it down"
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{size[0]}x{size[1]} px", detail)
