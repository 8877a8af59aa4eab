"""Picture files of photographs and data sets, always upright."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from genrefocus.rejection import Reason, Rejected

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".heic", ".heif")


def is_picture(path: Path) -> bool:
    """Whether a file's name ends as a picture's."""
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()


def load_image(path: str | Path) -> Tensor:
    """A picture file as (3, H, W) float32 sRGB in [0, 1], turned by its EXIF orientation.

    Grey becomes three equal channels, at 16 bits where the file has them; colour is read at 8 bits,
    which is what samples are stored at. Transparency is dropped.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``, ``not_an_image``, ``image_damaged``.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Rejected(Reason.FILE_MISSING, str(path)) from None
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, f"{path}: {error.strerror}") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Tensor:
    """An encoded picture that was read from ``name``; as :func:`load_image`.

    Raises:
        Rejected: ``not_an_image``, ``image_damaged``.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            return _to_tensor(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise Rejected(Reason.NOT_AN_IMAGE, name, "give a JPEG, PNG or TIFF file") from None
    except (OSError, SyntaxError, ValueError) as error:  # what the decoders raise
        raise Rejected(Reason.IMAGE_DAMAGED, name, str(error)) from error


def load_mask(path: str | Path) -> Tensor:
    """A mask file as (H, W) bool: True where it is at least half white.

    Raises:
        Rejected: as :func:`load_image`.
    """
    return load_image(path).mean(0) >= 0.5


def save_image(picture: Tensor, path: str | Path) -> None:
    """Write (3, H, W) or (H, W) uint8 to a file; its suffix says the format (JPEG quality 95)."""
    pixels = picture.numpy() if picture.ndim == 2 else picture.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, quality=95)  # which formats without quality ignore


def _to_tensor(image: Image.Image) -> Tensor:
    if image.mode.startswith("I"):
        grey = torch.from_numpy(np.array(image).astype(np.float32)) / 65535
        return grey.expand(3, -1, -1).clone()
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
