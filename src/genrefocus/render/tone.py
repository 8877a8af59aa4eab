"""Linear light and its encodings: sRGB (IEC 61966-2-1 transfer curve), plain gamma, none."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Response = Literal["srgb", "gamma", "linear"]
RESPONSES: tuple[Response, ...] = get_args(Response)
GAMMA = 2.2


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Encode linear light, any shape, as sRGB in [0, 1]; values outside [0, 1] are clipped.

    A sensor clips at its white level: a light brighter than 1 is saturated.
    """
    clipped = linear.clamp(0.0, 1.0)
    power = 1.055 * clipped.clamp_min(0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(clipped <= 0.0031308, 12.92 * clipped, power)


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """Decode sRGB values in [0, 1], any shape, to linear light in [0, 1].

    >>> srgb_to_linear(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.2140, 1.0000])
    """
    power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, power)


def encode(linear: Tensor, response: Response) -> Tensor:
    """Encode linear light, any shape, in [0, 1]: by the sRGB curve, as the power 1 / 2.2, or as is.

    Values outside [0, 1] are clipped. Raises ValueError for an unknown response.
    """
    _require_known(response)
    if response == "srgb":
        return linear_to_srgb(linear)
    clipped = linear.clamp(0.0, 1.0)
    return clipped if response == "linear" else clipped.pow(1.0 / GAMMA)


def decode(encoded: Tensor, response: Response) -> Tensor:
    """Decode values in [0, 1], any shape, to linear light in [0, 1]: the inverse of `encode`."""
    _require_known(response)
    if response == "srgb":
        return srgb_to_linear(encoded)
    return encoded if response == "linear" else encoded.pow(GAMMA)


def in_linear_light(
    render: Callable[[Tensor], Tensor], image: Tensor, response: Response = "srgb"
) -> Tensor:
    """Apply what works on linear light to an encoded image; encoded in the same way again.

    Raises ValueError for an unknown response.
    """
    return encode(render(decode(image, response)), response)


def _require_known(response: str) -> None:
    if response not in RESPONSES:
        raise ValueError(f"response {response!r} is unknown; known: {', '.join(RESPONSES)}")


def with_contrast(srgb: Tensor, contrast: float) -> Tensor:
    """A camera's tone curve on sRGB values in [0, 1], any shape: dark and light parts move apart.

    The share ``contrast``, 0 to 1, of a smooth step; 0, 1/2 and 1 stay where they are.

    >>> with_contrast(torch.tensor([0.0, 0.25, 0.5, 1.0]), 0.5)
    tensor([0.0000, 0.2031, 0.5000, 1.0000])
    """
    return srgb + contrast * (srgb.square() * (3.0 - 2.0 * srgb) - srgb)


def to_bytes(linear: Tensor, contrast: float = 0.0) -> Tensor:
    """Linear light to 8-bit sRGB with a tone curve: float (...) to uint8 of the same shape."""
    return (with_contrast(linear_to_srgb(linear), contrast) * 255.0).round().to(torch.uint8)
