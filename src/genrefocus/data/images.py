"""Files of photographs and data sets: images, always upright, masks, and maps of depth."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genrefocus.photograph.carried import Carried, carried_by
from genrefocus.photograph.decoding import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from genrefocus.photograph.decoding import image_size as image_size
from genrefocus.photograph.decoding import is_image as is_image
from genrefocus.photograph.decoding import read_file, read_pixels
from genrefocus.photograph.encoding import DEEP_SUFFIXES, encoded
from genrefocus.rejection import Rejected

_FAR = 200.0


def load_image(path: str | Path) -> Tensor:
    """An image file as (3, H, W) float32 sRGB in [0, 1], turned by its EXIF orientation.

    Grey becomes three equal channels, at 16 bits where the file has them; colour is read at 8 bits,
    which is what samples are stored at, and converted from the file's colour space. Transparency
    is dropped.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``, ``format_unsupported``, ``not_an_image``,
            ``image_too_large``, ``image_damaged``.
    """
    return image_of(read_file(path), str(path))


def image_of(data: bytes, name: str) -> Tensor:
    """As :func:`load_image`, of an encoded image's bytes; ``name`` is for messages."""
    return torch.from_numpy(read_pixels(data, name).colour).permute(2, 0, 1)


@dataclass(frozen=True)
class Photograph:
    """A photograph for images that carry on its EXIF and profile.

    Attributes:
        image: (3, H, W) float32 sRGB in [0, 1], upright.
        bits: of the samples of its file, 8 or 16.
        carried: EXIF and profile.
        notices: what was done to the image, or to its EXIF, in words.
    """

    image: Tensor
    bits: int
    carried: Carried
    notices: list[str]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[-2], self.image.shape[-1]

    def save(self, image: Tensor, path: str | Path, *, bits: int = 8, scale: float = 1.0) -> None:
        """Write an image (3, H, W) in [0, 1] that was made of it.

        Args:
            image: values outside are clipped.
            path: its suffix says the format.
            bits: 16 is for PNG and TIFF; other files get 8.
            scale: px of the image for one of the photograph.
        """
        bits = bits if Path(path).suffix.lower() in DEEP_SUFFIXES else 8
        levels = (image.clamp(0, 1) * (2**bits - 1)).round().permute(1, 2, 0).numpy()
        samples = levels.astype(np.uint16 if bits == 16 else np.uint8)
        Path(path).write_bytes(encoded(samples, Path(path).suffix, self.carried, scale))


def load_photograph(path: str | Path, *, deep: bool = False) -> Photograph:
    """As :func:`load_image`, with what images that are made of it carry on.

    Args:
        path: of the file.
        deep: read colour at 16 bits where the file has them.
    """
    data = read_file(path)
    pixels = read_pixels(data, str(path), deep=deep)
    carried = carried_by(data, str(path), pixels)
    notices = pixels.conversions + [carried.lost] * (carried.lost is not None)
    image = torch.from_numpy(pixels.colour).permute(2, 0, 1)
    return Photograph(image, pixels.bits, carried, [str(one) for one in notices])


def load_mask(path: str | Path) -> Tensor:
    """A mask file as (H, W) bool: True where it is half white or more, and not transparent.

    Raises:
        Rejected: as :func:`load_image`.
    """
    return torch.from_numpy(read_pixels(read_file(path), str(path)).light >= 0.5)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, also through links to folders, but for hidden ones.

    Each folder is visited once, however many links lead to it.
    """
    seen: set[Path] = set()
    files: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        if Path(place).resolve() in seen:
            folders.clear()
            continue
        seen.add(Path(place).resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def images_below(folder: Path) -> list[Path]:
    """All images below a folder by the names of files, see :func:`files_below`."""
    return [path for path in files_below(folder) if is_image(path)]


def load_map(path: str | Path, what: str) -> Tensor:
    """A .npy file of one map, (H, W) float32; ``what`` it holds is for messages.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``.
        ValueError: not one 2-D floating point array with entries.
    """
    values = load_array(path)
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
        raise ValueError(
            f"{path} holds {values.dtype} {values.shape}; {what} is a 2-D floating point array"
        )
    return torch.from_numpy(values.astype(np.float32))


def load_array(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        Rejected: ``file_missing``, ``file_unreadable``.
        ValueError: no whole .npy file.
    """
    try:
        # Not numpy.load, which takes archives and pickles for what they are, whatever their name.
        return np.lib.format.read_array(io.BytesIO(read_file(path)), allow_pickle=False)
    except Rejected:
        raise
    except Exception as error:  # a damaged header ends in TokenError, MemoryError and others
        raise ValueError(f"{path} is no whole .npy array; write it with numpy.save") from error


def not_in_metres(depth: Tensor) -> str | None:
    """What to tell of depth (H, W) whose median is beyond 200 m, else None."""
    measured = depth[depth > 0]
    if not len(measured) or (median := float(measured.median())) <= _FAR:
        return None
    return f"half of the depth is beyond {median:.0f} m; millimetres must be divided by 1000"


def save_image(image: Tensor, path: str | Path) -> None:
    """Write (3, H, W) or (H, W) uint8 to a file; its suffix says the format (JPEG quality 95)."""
    pixels = image.numpy() if image.ndim == 2 else image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, quality=95)  # which formats without quality ignore


def save_animation(frames: Sequence[NDArray[np.uint8]], path: Path, fps: int) -> None:
    """Write frames (H, W, 3) as GIF or WebP that repeat, or as MP4 (H.264, needs PyAV)."""
    if path.suffix.lower() == ".mp4":
        import imageio.v3

        # The usual 4:2:0 colour needs even sides.
        height, width = (side + side % 2 for side in frames[0].shape[:2])
        even = [
            np.pad(f, ((0, height - len(f)), (0, width - f.shape[1]), (0, 0)), "edge")
            for f in frames
        ]
        imageio.v3.imwrite(path, np.stack(even), plugin="pyav", codec="libx264", fps=fps)
        return
    images = [Image.fromarray(frame) for frame in frames]
    if path.suffix.lower() == ".gif":
        # Dithered, for smooth areas; by octree, for median cut greys small things of strong colour.
        palettes = [image.quantize(method=Image.Quantize.FASTOCTREE) for image in images]
        images = [i.quantize(palette=own) for i, own in zip(images, palettes, strict=True)]
    first, *rest = images
    first.save(
        path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=90
    )


def save_map(defocus: Tensor, path: str | Path) -> None:
    """Write a defocus map (H, W) in [0, 1] as a PNG in 16 bit grey, 65535 for 1."""
    Image.fromarray((defocus * 65535).round().numpy().astype(np.uint16)).save(path)
