"""Picture files of photographs and data sets, always upright."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from genrefocus.decoding import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from genrefocus.decoding import is_picture as is_picture
from genrefocus.decoding import opened, read_file


def load_image(path: str | Path) -> Tensor:
    """A picture file as (3, H, W) float32 sRGB in [0, 1], turned by its EXIF orientation.

    Grey becomes three equal channels, at 16 bits where the file has them; colour is read at 8 bits,
    which is what samples are stored at. Transparency is dropped.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``, ``format_unsupported``, ``not_an_image``,
            ``picture_too_large``, ``image_damaged``.
    """
    return image_of(read_file(path), str(path))


def image_of(data: bytes, name: str) -> Tensor:
    """As :func:`load_image`, of an encoded picture's bytes; ``name`` is for messages."""
    with opened(data, name) as file:
        return _to_tensor(ImageOps.exif_transpose(file))


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
