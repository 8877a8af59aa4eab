"""Images of 8 and 16 bits with EXIF and colour profile -> files.

Pillow writes no colour of 16 bits, and no text of EXIF into TIFF that is not ASCII.
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrefocus.photograph.carried import Carried

DEEP_SUFFIXES = (".png", ".tif", ".tiff")
"""Of files that may hold 16 bits."""

Samples = NDArray[np.uint8] | NDArray[np.uint16]


def encoded(samples: Samples, suffix: str, carried: Carried, scale: float = 1.0) -> bytes:
    """A file of an image.

    Args:
        samples: (H, W, 3) or (H, W); 16 bits for ``DEEP_SUFFIXES`` alone.
        suffix: of its name, which says the format (JPEG and WebP at quality 95).
        carried: what it takes over from a photograph.
        scale: px of the image for one of the photograph.
    """
    height, width = samples.shape[:2]
    if suffix.lower() in DEEP_SUFFIXES[1:] and samples.ndim == 3:
        return _tiff(samples, carried, scale)
    exif = carried.exif(height, width, scale)
    if samples.dtype == np.uint16 and samples.ndim == 3:
        return _png(samples, exif, carried.profile)
    more = {"exif": exif} if exif else {}
    more |= {"icc_profile": carried.profile} if carried.profile else {}
    buffer, formats = io.BytesIO(), Image.registered_extensions()
    # Formats without quality ignore it.
    Image.fromarray(samples).save(buffer, formats[suffix.lower()], quality=95, **more)
    return buffer.getvalue()


def _tiff(samples: Samples, carried: Carried, scale: float) -> bytes:
    """An EXIF block is a TIFF without an image, which comes behind it."""
    height, width, channels = samples.shape
    # Big-endian, as piexif writes.
    strip = zlib.compress(samples.astype(samples.dtype.newbyteorder(">")).tobytes())

    def block(start: int) -> bytes:
        return carried.exif(
            height,
            width,
            scale,
            ImageWidth=width,
            ImageLength=height,
            BitsPerSample=(8 * samples.itemsize,) * channels,
            Compression=8,  # deflate
            PhotometricInterpretation=2,  # RGB
            StripOffsets=start,
            SamplesPerPixel=channels,
            RowsPerStrip=height,
            StripByteCounts=len(strip),
            PlanarConfiguration=1,
            **({"InterColorProfile": carried.profile} if carried.profile else {}),
        ).removeprefix(b"Exif\0\0")

    return block(len(block(0))) + strip


def _png(samples: Samples, exif: bytes, profile: bytes | None) -> bytes:
    """PNG of 16 bits, each row as the difference to the one above."""
    height, width, _ = samples.shape
    rows = np.frombuffer(samples.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    up = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), up], axis=1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"iCCP": profile and b"ICC profile\0\0" + zlib.compress(profile),
        b"eXIf": exif.removeprefix(b"Exif\0\0"),
        b"IDAT": zlib.compress(filtered.tobytes()),
    }
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in (*chunks.items(), (b"IEND", b"")):
        if content or kind == b"IEND":
            content = content or b""
            whole += struct.pack(">I", len(content)) + kind + content
            whole += struct.pack(">I", zlib.crc32(kind + content))
    return whole
