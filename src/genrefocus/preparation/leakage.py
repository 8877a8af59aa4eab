"""Images that occur on both sides of a border: two splits, or a set and a benchmark.

Files are compared by content and images by a perceptual hash, the signs of the 16 x 16 lowest
frequencies of their grey (pHash). Distances in bits, of 256, in 150 images
(``benchmarks/hash_distances.py``)::

    different images (11175 pairs)   median 128, least 94
    JPEG quality 30                    median   6, 99 %  36, greatest  46
    half size                          median   2, 99 %  18, greatest  22
    brightness x 1.3, clipped          median   6, 99 %  44, greatest  50
    brightness x 0.6                   median   2, 99 %  11, greatest  12
    2 % cropped                        median  12, 99 %  35, greatest  42
    5 % cropped                        median  42, 99 %  75, greatest  88
    10 % cropped                       median  76, 99 % 115, greatest 128

A distance of up to 64 finds all of these but 5 % of the crops by 5 % and 83 % of those by 10 %.
Were the bits of different images coins, it would pair fewer than one in 10^15 by chance.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import imagehash
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from genrefocus.photograph.colours import pixels_of
from genrefocus.photograph.decoding import opened
from genrefocus.terminal import counted

HASH_SIDE = 16
"""Frequencies per axis, so that a hash has 256 bits."""

DISTANCE = 64
"""Bits in which the hashes of two copies differ at most; see the module's docstring."""

STRUCTURE = 2.0
"""Least median magnitude of the hashed frequencies in grey levels of 255 (orthonormal DCT of
64 x 64 px). It is 5 or more in all images above; in grey gradients with noise, whose hashes are
signs of rounding errors, it is about 0.5."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_DECODED = 256  # px; JPEG files are decoded at an eighth to the whole of their size, no smaller
_SHOWN = 10
_TILE = 64, 4096  # pairs compared at a time: 2 MB of 64-bit words, which stay in the cache

Words = NDArray[np.uint64]


class Fingerprint(NamedTuple):
    """What reading an image once tells.

    Attributes:
        sha256: of the file's content, hexadecimal.
        phash: 256-bit perceptual hash, 64 hexadecimal digits; None for an image without
            structure, which nothing but its content tells from others.
        space: colour space of the file, see ``colours.Pixels``.
    """

    sha256: str
    phash: str | None
    space: str


@dataclass(frozen=True)
class PlacedImage:
    """An image by its name, unique within its set, with its scene and its split."""

    name: str
    scene: str
    split: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Leak:
    """Two images that are one: by ``content``, or ``perceptual`` at a distance in bits."""

    a: PlacedImage
    b: PlacedImage
    kind: Literal["content", "perceptual"]
    distance: int

    def __str__(self) -> str:
        how = "equal content" if self.kind == "content" else f"{self.distance} bits apart"
        a, b = (f"{x.name} ({x.split}, scene {x.scene})" for x in (self.a, self.b))
        return f"{a} and {b}: {how}"


def fingerprint_of(data: bytes, name: str) -> Fingerprint:
    """Hashes and colour space of an encoded image; ``phash`` is of the upright one.

    Raises:
        Rejected: as :func:`genrefocus.photograph.decoding.read_pixels`.
    """
    with opened(data, name) as file:
        if file.format in ("JPEG", "MPO"):
            file.draft(file.mode, (_DECODED, _DECODED))  # small, and faster by far
        pixels = pixels_of(file, name)
    levels = (pixels.colour @ _LUMA * 255).round().astype(np.uint8)
    grey = Image.fromarray(levels)
    phash = str(imagehash.phash(grey, hash_size=HASH_SIDE)) if _has_structure(grey) else None
    return Fingerprint(hashlib.sha256(data).hexdigest(), phash, pixels.space)


def find_leaks(
    images: Sequence[PlacedImage],
    against: Sequence[PlacedImage] = (),
    *,
    distance: int = DISTANCE,
) -> list[Leak]:
    """Pairs of one image in two splits of a set, or in the set and in another.

    All pairs that cross are compared, in tiles, so that memory grows with the leaks only. Time
    grows with the product of the sides: pairs within a split are never compared.

    Args:
        images: of the set.
        against: of a benchmark; whatever the splits, every pair with one from the set counts.
        distance: most bits in which perceptual hashes of one image differ.

    Returns:
        Leaks, those within the set first.

    Raises:
        ValueError: distance outside 0 to 255.
    """
    if not 0 <= distance < HASH_SIDE**2:
        raise ValueError(f"distance of hashes of {HASH_SIDE**2} bits must be 0 to 255: {distance}")
    splits: dict[str, list[PlacedImage]] = {}
    for one in images:
        splits.setdefault(one.split, []).append(one)
    sides = [*combinations(splits.values(), 2), (images, against)]
    return [leak for a, b in sides for leak in _between(a, b, distance)]


def unexcused(leaks: Sequence[Leak], allow: Collection[str]) -> list[Leak]:
    """Leaks between two images that are both not in ``allow``, a list of names.

    Raises:
        ValueError: a name that is in no leak, so that an allowance does not outlive its reason.
    """
    named = {x.name for leak in leaks for x in (leak.a, leak.b)}
    if unknown := sorted(set(allow) - named):
        raise ValueError(
            f"leakage.allow names {', '.join(unknown[:_SHOWN])}, which no leak has "
            f"({len(unknown)} such names); take them out"
        )
    return [leak for leak in leaks if not {leak.a.name, leak.b.name} & set(allow)]


def account(leaks: Sequence[Leak]) -> str:
    """Lines about the nearest leaks, one for each two items, and what to do about them."""
    nearest: dict[tuple[str, str], Leak] = {}
    for leak in sorted(leaks, key=lambda one: one.distance):
        nearest.setdefault((leak.a.name, leak.b.name), leak)
    lines = [f"{counted(len(nearest), 'pair')} in different splits, or sets:"]
    lines += [f"  {leak}" for leak in list(nearest.values())[:_SHOWN]]
    if len(nearest) > _SHOWN:
        lines.append(f"  and {len(nearest) - _SHOWN} more")
    lines.append(
        "put both into one split or take one out; to accept a pair all the same, give the name of "
        "one of its images in leakage.allow"
    )
    return "\n".join(lines)


def _has_structure(grey: Image.Image) -> bool:
    side = 4 * HASH_SIDE  # as the hash scales it
    pixels = np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS), np.float64)
    frequencies = np.abs(scipy.fft.dctn(pixels, norm="ortho")[:HASH_SIDE, :HASH_SIDE])
    return float(np.median(frequencies)) >= STRUCTURE


def _between(
    left: Sequence[PlacedImage], right: Sequence[PlacedImage], distance: int
) -> Iterator[Leak]:
    by_content: dict[str, list[PlacedImage]] = {}
    for one in right:
        by_content.setdefault(one.fingerprint.sha256, []).append(one)
    for one in left:
        copies = by_content.get(one.fingerprint.sha256, ())
        yield from (Leak(one, other, "content", 0) for other in copies)
    left, right = ([x for x in side if x.fingerprint.phash is not None] for side in (left, right))
    for i, j, bits in _near(_words(left), _words(right), distance):
        if left[i].fingerprint.sha256 != right[j].fingerprint.sha256:
            yield Leak(left[i], right[j], "perceptual", bits)


def _words(images: Sequence[PlacedImage]) -> Words:
    """(4, N) uint64: the hashes."""
    digits = "".join(one.fingerprint.phash or "" for one in images)
    words = np.frombuffer(bytes.fromhex(digits), np.uint64)
    return np.ascontiguousarray(words.reshape(-1, HASH_SIDE**2 // 64).T)


def _near(left: Words, right: Words, distance: int) -> Iterator[tuple[int, int, int]]:
    """Positions on both sides of hashes that differ in no more bits, and in how many."""
    tall, wide = _TILE
    for row in range(0, left.shape[1], tall):
        for column in range(0, right.shape[1], wide):
            ones, others = left[:, row : row + tall, None], right[:, None, column : column + wide]
            bits = np.zeros((ones.shape[1], others.shape[2]), np.uint16)
            for one, other in zip(ones, others, strict=True):
                bits += np.bitwise_count(one ^ other)
            for i, j in np.argwhere(bits <= distance):
                yield row + int(i), column + int(j), int(bits[i, j])
