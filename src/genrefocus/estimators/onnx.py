"""Networks in ONNX files, run by onnxruntime (extra ``onnx``) on the CPU."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import normalize

from genrefocus.estimators.pretrained import IMAGENET
from genrefocus.estimators.protocols import InFocus, Photo
from genrefocus.estimators.scale import DepthKind, DepthScale
from genrefocus.geometry import resize_image

_RANGES = {
    "unit": ([0.0], [1.0]),
    "bytes": ([0.0], [1 / 255]),
    "centred": ([0.5], [0.5]),
    "shifted": ([0.5], [1.0]),
    "imagenet": IMAGENET,
}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_PIXELS = f"{', '.join(_RANGES)}; :WxH for its size, and :bgr (--depth-pixels, depth.pixels, ...)"


@dataclass(frozen=True)
class Pixels:
    """How a network reads an image.

    Attributes:
        mean, deviation: of the channels, in [0, 1], which become 0 and 1.
        size: height and width in px, or None where the file says them.
        reverse: blue comes first.
    """

    mean: Sequence[float]
    deviation: Sequence[float]
    size: tuple[int, int] | None
    reverse: bool

    @classmethod
    def named(cls, text: str) -> "Pixels":
        """Of ``RANGE[:WxH][:bgr]``, such as ``imagenet:518x518``.

        RANGE is what 0 to 1 becomes: ``unit`` 0 to 1, ``bytes`` 0 to 255, ``centred`` -1 to 1,
        ``shifted`` -0.5 to 0.5, ``imagenet`` by mean and deviation of the channels of ImageNet.

        Raises:
            ValueError: another text.
        """
        name, *more = text.split(":")
        sizes = [one.split("x") for one in more if one != "bgr"]
        numbers = [int(side) for one in sizes for side in one if side.isdecimal()]
        if name not in _RANGES or len(sizes) > 1 or len(numbers) != 2 * len(sizes):
            raise ValueError(f"pixels {text!r}: give {_PIXELS}")
        size = (numbers[1], numbers[0]) if numbers else None
        return cls(*_RANGES[name], size, "bgr" in more)


class _OnnxFile:
    """A network of one image, whose first output is one map.

    Args:
        file: the network.
        pixels: how it reads an image, see :meth:`Pixels.named`; not needed by one that reads bytes
            and says its size. Images are scaled to its size, whatever their proportions.

    Raises:
        FileNotFoundError: no such file.
        ValueError: onnxruntime is missing or cannot read it; it is not of one image; or ``pixels``
            is missing, or disagrees with it.
    """

    holds_network = True
    what: str

    def __init__(self, file: str | Path, *, pixels: str | None = None) -> None:
        self.file = Path(file)
        self._session = _session(self.file)
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()[:12]
        self.name = f"{self.file.name} (sha256 {digest})"
        given = self._session.get_inputs()
        shape = list(given[0].shape)
        self._channels = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == 3]
        if len(given) != 1 or given[0].type not in _TYPES or not self._channels:
            shown = ", ".join(f"{one.type} {one.shape}" for one in given)
            raise ValueError(
                f"{file} reads {shown}; a network of one colour image reads floats or bytes of "
                "shape [1, 3, H, W] or [1, H, W, 3]"
            )
        self._input, self._type = given[0].name, _TYPES[given[0].type]
        if pixels is None and self._type is np.uint8:
            pixels = "bytes"
        own = tuple(shape[2:] if self._channels[0] == 1 else shape[1:3])
        fixed = all(isinstance(side, int) for side in own)
        if pixels is None:
            size = "" if fixed else ", nor at which size"
            raise ValueError(f"{file} does not say how it reads pixels{size}: give {_PIXELS}")
        self._pixels = Pixels.named(pixels)
        self._size: Any = own if fixed else self._pixels.size
        if self._size is None:
            raise ValueError(f"{file} leaves its size open ({shape}): give {pixels}:WxH")
        if self._pixels.size not in (None, self._size):
            raise ValueError(f"{file} reads {own[1]}x{own[0]} px (WxH), not {pixels}")

    def _answer(self, image: Tensor) -> Tensor:
        """The map of an image (3, H, W) in [0, 1], at its size."""
        ready = normalize(
            resize_image(image, *self._size), list(self._pixels.mean), list(self._pixels.deviation)
        )
        ready = (ready.flip(0) if self._pixels.reverse else ready)[None]
        ready = ready if self._channels[0] == 1 else ready.permute(0, 2, 3, 1)
        ready = ready.round() if self._type is np.uint8 else ready
        try:
            answer, *_ = self._session.run(None, {self._input: ready.numpy().astype(self._type)})
        except Exception as error:  # of classes of its own
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"{self.file} fails at an image of {self._size} px: {first}") from None
        found = torch.from_numpy(np.squeeze(answer).astype(np.float32))
        if found.ndim != 2:
            raise ValueError(
                f"{self.file} answers an array of shape {list(answer.shape)}; export it with one "
                f"map of {self.what} as its first output"
            )
        size = (image.shape[-2], image.shape[-1])
        return interpolate(found[None, None], size, mode="bilinear", align_corners=False)[0, 0]


class OnnxDepth(_OnnxFile):
    """Depth of the sharp image by a network in an ONNX file.

    Args:
        file, pixels: the network, see the base class.
        kind, range: see :class:`DepthScale`; the file does not say them.
    """

    what = "depth"

    def __init__(
        self,
        file: str | Path,
        *,
        pixels: str | None = None,
        kind: DepthKind | None = None,
        range: Sequence[float] | None = None,
    ) -> None:
        wrong = []
        try:
            super().__init__(file, pixels=pixels)
        except ValueError as error:
            wrong.append(str(error))
        try:
            self.scale = DepthScale.stated(str(file), kind, range)
        except ValueError as error:
            wrong.append(str(error))
        if wrong:  # said at once, for opening a file takes seconds
            raise ValueError("; ".join(wrong))
        self.name = f"{self.name}, {self.scale}"

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        return [self.scale.metres(self._answer(photo.aif)) for photo in photos]


class OnnxSaliency(_OnnxFile):
    """The salient object in the photograph, which need not be in focus, by an ONNX file.

    Raises (``mask``):
        ValueError: it answers something other than probabilities.
    """

    what = "saliency"

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks = []
        for photo in photos:
            found = self._answer(photo.image)
            low, high = map(float, found.aminmax())
            if not -0.01 <= low <= high <= 1.01:
                raise ValueError(
                    f"{self.file} answers {low:.3g} to {high:.3g}; export it with its sigmoid, so "
                    "that it answers probabilities"
                )
            masks.append(InFocus(found >= 0.5, self.name))
        return masks


def _session(file: Path) -> Any:
    """
    Raises:
        FileNotFoundError, ValueError: see :class:`_OnnxFile`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give an ONNX file")
    try:
        import onnxruntime
    except ImportError as error:
        remedy = "onnxruntime is not installed; pip install -e '.[onnx]'"
        raise ValueError(f"{file}: {remedy}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes of its own
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{file} is no network that onnxruntime can run: {first}") from None
