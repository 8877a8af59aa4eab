"""ICC profiles of three curves and a matrix (ICC.1:2022, 8.3.3), for colours of more than 8 bits.

Such are those of displays and working spaces. Little CMS converts them too, but Pillow hands it 8
bits only.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Conversion = Callable[[Array], Array]


def to_linear_srgb(profile: bytes, srgb: bytes) -> Conversion | None:
    """What makes linear sRGB, which may leave [0, 1], of colours (..., 3) in [0, 1].

    Args:
        profile: of the colours, whole: it has been read by Little CMS.
        srgb: a profile of sRGB.

    Returns:
        None for a profile of another kind.
    """
    if (own := _read(profile)) is None or (theirs := _read(srgb)) is None:
        return None
    curves, matrix = own
    matrix = matrix @ np.linalg.inv(theirs[1])
    return lambda x: np.stack([curves[n](x[..., n]) for n in range(3)], -1) @ matrix


def _read(profile: bytes) -> tuple[list[Conversion], Array] | None:
    """A curve for each channel, and the matrix (3, 3) from linear channels to CIE XYZ of D50."""
    tags = {}
    for entry in range(int.from_bytes(profile[128:132], "big")):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        tags[name] = profile[start : start + size]
    needed = [tags.get(one + kind, b"") for kind in (b"XYZ", b"TRC") for one in (b"r", b"g", b"b")]
    if b"A2B0" in tags or not all(needed):
        return None
    curves = [one for one in map(_curve, needed[3:]) if one is not None]
    matrix = np.array([_numbers(one, 8, 3) for one in needed[:3]])
    return (curves, matrix) if len(curves) == 3 else None


_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


def _numbers(tag: bytes, start: int, count: int) -> Array:
    """Signed, of 16 bits before the point and 16 behind it."""
    return np.frombuffer(tag, ">i4", count, start) / 65536


def _curve(tag: bytes) -> Conversion | None:
    """Of a channel: a table, a power, or a power with a straight part (10.6, 10.18)."""
    if tag[:4] == b"curv":
        count = int.from_bytes(tag[8:12], "big")
        table = np.frombuffer(tag, ">u2", count, 12)
        if count > 1:
            return lambda x: np.interp(x, np.linspace(0, 1, count), table / 65535)
        return _power(float(table[0]) / 256 if count else 1.0)
    kind = int.from_bytes(tag[8:10], "big")
    if tag[:4] != b"para" or kind not in _PARAMETERS:
        return None
    g, *more = map(float, _numbers(tag, 12, _PARAMETERS[kind]))
    if kind in (0, 3, 4):
        return _power(g, *more)
    a, b, *rest = more
    c = rest[0] if rest else 0.0
    return _power(g, a, b, 0.0, -b / a, c, c)


def _power(
    g: float, a: float = 1.0, b: float = 0.0, c: float = 0.0, d: float = 0.0, *more: float
) -> Conversion:
    """``(a x + b)^g + e`` from ``d`` on, and ``c x + f`` below."""
    e, f = more or (0.0, 0.0)
    return lambda x: np.where(x >= d, (a * x + b).clip(0) ** g + e, c * x + f)
