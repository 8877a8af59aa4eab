"""The renderer of labels: one image with depth, taken apart at its edges and blurred in slices.

1. The image is separated at its depth edges (`edges`): visible surface, hidden one, and how much
   of an edge pixel belongs to the surface in front.
2. Pixels of nearly equal signed defocus form a slice, which is convolved with the aperture.
3. Slices are laid behind each other from near to far. Those of one surface add up; a surface
   behind it shows as far as it is left uncovered.

Convolution is by FFT in tiles that grow with the radius, so that cost per slice and pixel grows
with its logarithm only.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from genrefocus.optics import BlurStrength, require_one_size, signed_defocus
from genrefocus.render.apertures import Aperture, vignetted
from genrefocus.render.edges import Layers, separate, snap_ramps
from genrefocus.render.scatter import convolve, defocus_level, defocus_of_level

_STEP = 0.2
"""Width of a slice in px of blur radius, up to _KNEE; above, it grows in proportion."""
_KNEE = 3.0
_EDGE = 3.0
"""Surfaces are told apart by a gap of so many slices: 0.6 px of blur radius, or 22 % of it."""
_SHARP = 0.1
"""Blur of a radius below this, in px, is not drawn: its variance is below 1/400 px^2."""
_PRESENT = 1e-3
"""Coverage from which a slice counts as the last one seen at a pixel."""
_MIN_WITHIN = 0.05
"""Least share of a kernel that has to lie in the frame to say what lies beyond it."""
_BLOCK = 16
_BATCH_ELEMENTS = 1 << 22


def render_layered(
    image: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    aperture: Aperture,
    vignetting: float = 0.0,
    edge_width: int = 0,
) -> Tensor:
    """Render depth of field into a sharp image with disparity, occlusion included.

    Differentiable in ``image``, with the coverage of edge pixels held constant; not in the others.
    Float32 and float64, on the device of ``image``.

    Args:
        image: (3, H, W) linear light, >= 0; above 1 are highlights, which keep their energy.
        disparity: (H, W) in 1/m, on the same device.
        focus_disparity: d_f in 1/m.
        strength: K in px at 1/m, stated for H x W.
        aperture: the shape that a point is spread into, at radius K |d - d_f|.
        vignetting: 0 to 1, how far the rim of the lens is shifted against the aperture in the
            corners, in aperture radii: cat's eyes. Kernels are cut, light does not fall off.
        edge_width: px to either side of a depth edge over which an estimator smears it; those ramps
            are made steps. 0 takes disparity as it is, which is right for exact disparity; 2 suits
            estimates whose edges are some px wide.

    Returns:
        (3, H, W) linear light, >= 0; the image itself where no radius reaches 0.1 px.

    Raises:
        ValueError: sizes that disagree, vignetting or edge_width out of range, or what
            ``optics.signed_defocus`` rejects.
    """
    require_one_size(image, disparity)
    if edge_width < 0:
        raise ValueError(f"edge_width is a width in px, 0 or more, got {edge_width}")
    if not 0.0 <= vignetting <= 1.0:
        raise ValueError(f"vignetting must lie in [0, 1], got {vignetting}")
    defocus = signed_defocus(disparity.detach(), focus_disparity, strength).to(image.dtype)
    reach = defocus.abs()
    if float(reach.max()) < _SHARP:
        return image.clone()
    level = defocus_level(defocus, _STEP, _KNEE)
    if edge_width:
        level = snap_ramps(level, edge_width, _EDGE)
        defocus = defocus_of_level(level, _STEP, _KNEE)
    layers = separate(image, level, defocus.abs(), _EDGE)
    radii = _mean_radii(layers.level[0], defocus)
    slices = _Slices(layers, radii, _side(float(reach.max())))
    kernels = _Kernels(aperture, vignetting, image)
    canvas = _Canvas(image)
    # The nearest, with the largest signed radius, first.
    for number, radius in sorted(radii.items(), reverse=True):
        side = _side(abs(radius))
        for pieces in slices.pieces(number, side):
            kernel = kernels.at(radius, pieces, side)
            blurred = convolve(slices.cut(number, pieces), kernel)
            margin = kernel.shape[-1] // 2
            for i, piece in enumerate(pieces):
                part = blurred[i, :, : piece.tall + 2 * margin, : piece.wide + 2 * margin]
                corner = piece.top - margin, piece.left - margin
                canvas.lay(part, kernel[i % len(kernel)], corner, number)
    return canvas.finish()


def _mean_radii(level: Tensor, defocus: Tensor) -> dict[int, float]:
    """The whole levels that occur, with the mean signed radius in px of their pixels."""
    whole = level.round().to(torch.int64)
    low = int(whole.min())
    flat = (whole - low).flatten()
    count = torch.bincount(flat).tolist()
    total = torch.bincount(flat, weights=defocus.flatten().double()).tolist()
    return {low + i: total[i] / n for i, n in enumerate(count) if n}


def _side(radius: float) -> int:
    """Side of the tiles for a blur radius in px: powers of two, so that tiles nest."""
    for side, largest in ((64, 16.0), (128, 48.0), (256, 128.0)):
        if radius <= largest:
            return side
    return 512


class _Piece(NamedTuple):
    """Part of a tile (row, column) that holds all that the tile has at a level, in px.

    `lists` says which lists of the layers have anything there.
    """

    tile: tuple[int, int]
    top: int
    left: int
    tall: int
    wide: int
    lists: tuple[int, ...]


class _Slices:
    """The layers by level, cut into tiles."""

    def __init__(self, layers: Layers, levels: Iterable[int], largest: int) -> None:
        self.low, high = min(levels), max(levels)
        height, width = layers.level.shape[1:]
        grow = (0, -width % largest, 0, -height % largest)
        self.rgba = pad(layers.rgba, grow) if any(grow) else layers.rgba
        index = torch.where(layers.level.isnan(), -1.0, layers.level.round() - self.low)
        self.index = pad(index.to(torch.int32), grow, value=-1)
        self.blocks = self._occupied_blocks(high - self.low + 1)

    def _occupied_blocks(self, count: int) -> NDArray[np.bool_]:
        """Which lists have anything in which blocks of pixels: (levels, 3, rows, columns)."""
        height, width = self.index.shape[1:]
        columns = width // _BLOCK
        y = torch.arange(height, device=self.index.device) // _BLOCK
        x = torch.arange(width, device=self.index.device) // _BLOCK
        first = ((y[:, None] * columns + x) * count).flatten()
        found = self.rgba.new_zeros(3, height // _BLOCK * columns * count, dtype=torch.bool)
        for marks, index in zip(found, self.index.flatten(1), strict=True):
            filled = torch.nonzero(index >= 0).flatten()
            marks[first[filled] + index[filled]] = True
        shape = (3, height // _BLOCK, columns, count)
        return np.ascontiguousarray(np.moveaxis(found.view(shape).cpu().numpy(), -1, 0))

    def pieces(self, level: int, side: int) -> Iterator[list[_Piece]]:
        """What there is at a level in tiles of a side, in batches of pieces equally tall."""
        lists = self.blocks[level - self.low]
        down, along = np.nonzero(lists.any(0))
        step = side // _BLOCK
        tile = down // step * lists.shape[2] + along // step
        order = np.argsort(tile, kind="stable")
        down, along = down[order], along[order]
        first = np.unique(tile[order], return_index=True)[1]
        spans = [np.minimum.reduceat(x, first) for x in (down, along)]
        spans += [np.maximum.reduceat(x, first) + 1 for x in (down, along)]
        held = np.logical_or.reduceat(lists[:, down, along], first, axis=1)
        found = [
            _Piece(
                (top // step, left // step),
                top * _BLOCK,
                left * _BLOCK,
                (bottom - top) * _BLOCK,
                (right - left) * _BLOCK,
                tuple(np.flatnonzero(held[:, i]).tolist()),
            )
            for i, (top, left, bottom, right) in enumerate(np.stack(spans, 1).tolist())
        ]
        found.sort(key=lambda piece: piece.tall)
        for tall, group in groupby(found, key=lambda piece: piece.tall):
            alike, size = list(group), max(1, _BATCH_ELEMENTS // (16 * tall * side))
            yield from (alike[i : i + size] for i in range(0, len(alike), size))

    def cut(self, level: int, pieces: list[_Piece]) -> Tensor:
        """Colours (n, 4, h, w) of equally tall pieces at a level, all lists together."""
        widest = max(piece.wide for piece in pieces)
        cuts = self.rgba.new_zeros(len(pieces), 4, pieces[0].tall, widest)
        for number, piece in enumerate(pieces):
            rows = slice(piece.top, piece.top + piece.tall)
            columns = slice(piece.left, piece.left + piece.wide)
            for i in piece.lists:
                here = self.index[i, rows, columns] == level - self.low
                cuts[number, ..., : piece.wide] += self.rgba[i, :, rows, columns] * here
        return cuts


class _Kernels:
    """Blur kernels, one for the whole image or, with vignetting, one per tile."""

    def __init__(self, aperture: Aperture, vignetting: float, like: Tensor) -> None:
        self.aperture, self.vignetting, self.like = aperture, vignetting, like
        self.cut: dict[tuple[int, int, int], Aperture] = {}

    def at(self, radius: float, pieces: list[_Piece], side: int) -> Tensor:
        """Kernels (n or 1, 2 r + 1, 2 r + 1) of a signed radius in px for pieces of tiles."""
        if abs(radius) < _SHARP:
            return self.like.new_ones(1, 1, 1)
        if self.vignetting == 0.0:
            return torch.from_numpy(self.aperture.kernel(radius))[None].to(self.like)
        margin = math.ceil(max(abs(radius), 1.0) + 0.5)
        drawn = [self._cut(side, *piece.tile).kernel(radius) for piece in pieces]
        stack = [np.pad(kernel, margin - kernel.shape[0] // 2) for kernel in drawn]
        return torch.from_numpy(np.stack(stack)).to(self.like)

    def _cut(self, side: int, down: int, along: int) -> Aperture:
        key = (side, down, along)
        if key not in self.cut:
            height, width = self.like.shape[1:]
            # From the middle of the image; tiles may stand out of it.
            y = min((down + 0.5) * side, height) - 0.5 * height
            x = min((along + 0.5) * side, width) - 0.5 * width
            shift = self.vignetting / (0.5 * math.hypot(height, width))
            self.cut[key] = vignetted(self.aperture, shift * x, shift * y)
        return self.cut[key]


class _Canvas:
    """Slices laid behind each other; all on it is out of the graph but colour.

    Attributes:
        light: (3, H, W) light of the surfaces that are complete.
        gap: (H, W) what they leave uncovered.
        surface: (4, H, W) colour and coverage of the surface that slices are being added to.
        last: (H, W) level of the last slice that belongs to it.
    """

    def __init__(self, like: Tensor) -> None:
        height, width = like.shape[1:]
        self.light = like.new_zeros(3, height, width)
        self.gap = like.new_ones(height, width)
        self.surface = like.new_zeros(4, height, width)
        self.last = like.new_full((height, width), -math.inf)

    def lay(self, part: Tensor, kernel: Tensor, corner: tuple[int, int], level: int) -> None:
        """Lay part of a slice (4, h, w), blurred by a kernel, behind all so far.

        `corner` (row, column) of the part may lie outside the image.
        """
        (rows, down), (columns, along) = (
            _overlap(at, size, full)
            for at, size, full in zip(corner, part.shape[1:], self.gap.shape, strict=True)
        )
        part = self._completed(part[:, down, along], kernel, rows, columns)
        last, surface = self.last[rows, columns], self.surface[:, rows, columns]
        cover = part[3].detach()
        present = cover > _PRESENT
        apart = present & (last - level > _EDGE)
        if bool(apart.any()):
            self._complete(rows, columns, apart)
        # Nearer slices of a surface cover first: it never covers more than everything.
        room = (1.0 - surface[3].detach()) / cover.clamp_min(1e-6)
        surface += part * room.clamp(0.0, 1.0)
        last.masked_fill_(present, level)

    def finish(self) -> Tensor:
        """The image (3, H, W), divided by its coverage."""
        self._complete(slice(None), slice(None), torch.ones_like(self.gap, dtype=torch.bool))
        return (self.light / (1.0 - self.gap).clamp_min(1e-6)).clamp_min(0.0)

    def _complete(self, rows: slice, columns: slice, where: Tensor) -> None:
        """Add the surface to the light where it is complete, and begin the next one there."""
        surface, gap = self.surface[:, rows, columns], self.gap[rows, columns]
        self.light[:, rows, columns] += surface[:3] * (gap * where)
        gap *= 1.0 - surface[3].detach().clamp(0.0, 1.0) * where
        surface *= ~where

    def _completed(self, part: Tensor, kernel: Tensor, rows: slice, columns: slice) -> Tensor:
        """A part near the border as if its slice went on beyond, the same as within reach."""
        margin = kernel.shape[0] // 2
        height, width = self.gap.shape
        inside = min(rows.start, columns.start) >= margin
        if inside and rows.stop <= height - margin and columns.stop <= width - margin:
            return part
        within = pad(kernel.cumsum(0).cumsum(1), (1, 0, 1, 0))
        for dim, span, size in ((0, rows, height), (1, columns, width)):
            at = torch.arange(span.start, span.stop, device=kernel.device) + margin + 1
            high, low = at.clamp_max(2 * margin + 1), (at - size).clamp_min(0)
            within = within.index_select(dim, high) - within.index_select(dim, low)
        return part / within.clamp_min(_MIN_WITHIN)


def _overlap(start: int, size: int, full: int) -> tuple[slice, slice]:
    """The span start to start + size within 0 to full, and the same counted from its start."""
    low, high = min(max(start, 0), full), max(min(start + size, full), 0)
    return slice(low, high), slice(low - start, high - start)
