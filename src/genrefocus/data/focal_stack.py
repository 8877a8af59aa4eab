"""Focal stacks: photographs of one scene from one place, each focused at another distance.

The index map says in which frame a pixel is in focus. A lens at distance v from the sensor blurs a
point whose image lies at v_p by a radius proportional to |v - v_p|, and the disparity of the point
is 1 / f - 1 / v_p. Focus drives step v evenly, so the blur in frame j is K * |index - j| px, and
the index counts disparity in frames, up to an unknown scale and offset, where v changes little.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter
from torch import Tensor

from genrefocus.data.images import load_image
from genrefocus.data.sample import to_float, to_uint8
from genrefocus.rejection import Reason, Rejected

LEAST = 3
"""Frames of a stack."""

_WINDOW = 0.005  # standard deviation of what a sharpness is summed over, in parts of the long edge
_NOISE = 0.7  # standard deviation in px of the blur before second differences


@dataclass(frozen=True)
class FocalStack:
    """The files of a stack.

    Attributes:
        frames: in the order of focus; all of one size.
        index: image of the index map, grey; None: it is found by the sharpness of the frames, as
            are pixels whose value is below ``first``.
        first: number of the first frame in the index map.
        near_first: whether the first frame is the one focused nearest.
    """

    frames: tuple[Path, ...]
    index: Path | None = None
    first: int = 1
    near_first: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are read."""
        return self.frames if self.index is None else (*self.frames, self.index)

    def read(self) -> tuple[Tensor, Tensor]:
        """All frames, nearest focus first, (N, 3, H, W) uint8, and the index map (H, W) float32.

        The index is in [0, N - 1].

        Raises:
            Rejected: a file cannot be read, ``sizes_differ``, ``metadata_invalid`` for an index map
                that is not grey.
        """
        images: list[Tensor] = []
        for path in self.frames:
            images.append(to_uint8(load_image(path)))
            _require_size(path, images[-1].shape[-2:], images[0].shape[-2:])
        frames, index = torch.stack(images), None
        if self.index is not None:
            index = _read_index(self.index, frames.shape[-2:]) - self.first
        if index is None or bool((index < 0).any()):
            found = sharpest(frames)
            index = found if index is None else torch.where(index < 0, found, index)
        index = index.clamp(0, len(frames) - 1)
        return (frames, index) if self.near_first else (frames.flip(0), len(frames) - 1 - index)


def all_in_focus(frames: Tensor, index: Tensor) -> Tensor:
    """The frames (N, 3, H, W) uint8 at the index map, as (3, H, W) in [0, 1].

    Between two frames, both count by their distance.
    """
    before = index.floor().long().clamp(max=len(frames) - 2)
    near, far = (to_float(frames.gather(0, (before + n).expand(1, 3, -1, -1))[0]) for n in (0, 1))
    return torch.lerp(near, far, index - before)


def sharpest(frames: Tensor) -> Tensor:
    """The index map (H, W) of frames (N, 3, H, W) uint8 by their sharpness.

    That is the magnitude of second differences, summed over a Gaussian window (Nayar and Nakagawa,
    1994); its maximum is refined by a parabola through its logarithms, and single pixels that
    differ from all around them are taken from there.
    """
    window = max(1.0, _WINDOW * max(frames.shape[-2:]))
    scores = np.stack([gaussian_filter(_detail(frame), window) for frame in frames])
    logarithms = np.log(scores + 1e-6)
    index = logarithms.argmax(0)
    inner = index.clip(1, len(frames) - 2)
    low, top, high = (np.take_along_axis(logarithms, (inner + n)[None], 0)[0] for n in (-1, 0, 1))
    bend = 2.0 * top - low - high
    offset = np.where(bend > 1e-9, 0.5 * (high - low) / np.maximum(bend, 1e-9), 0.0)
    refined = np.where(index == inner, inner + offset.clip(-0.5, 0.5), index)
    return torch.from_numpy(median_filter(refined, 2 * round(window) + 1).astype(np.float32))


def _detail(frame: Tensor) -> NDArray[np.float32]:
    grey = gaussian_filter(to_float(frame).mean(0).numpy(), _NOISE)
    detail: NDArray[np.float32] = np.zeros_like(grey)
    detail[1:-1] += np.abs(np.diff(grey, 2, axis=0))
    detail[:, 1:-1] += np.abs(np.diff(grey, 2, axis=1))
    return detail


def _read_index(path: Path, size: torch.Size) -> Tensor:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, str(path), str(error)) from None
    if values.ndim != 2:
        raise Rejected(Reason.METADATA_INVALID, str(path), "an index map is grey: frame numbers")
    index = torch.from_numpy(values.astype(np.float32))
    _require_size(path, index.shape, size)
    return index


def _require_size(path: Path, size: torch.Size, expected: torch.Size) -> None:
    if size != expected:
        raise Rejected(
            Reason.SIZES_DIFFER,
            f"{size[1]}x{size[0]}",
            f"{path}: the stack is {expected[1]}x{expected[0]} px (WxH)",
        )
