"""The renderer of labels: one image with depth, taken apart at its depth edges and blurred.

1. At every depth edge the picture is separated into what is seen, what the edge hides (filled in
   from the far side) and how much of each pixel on the edge belongs to either side.
2. Pixels of nearly equal signed defocus form a slice, which is convolved with the aperture.
3. Slices are laid behind each other from near to far. Slices of one surface add up; a surface
   farther behind shows as far as those in front leave it uncovered.

Cost grows with the number of slices in a part of the picture and only with the logarithm of the
blur radius, because convolution is by FFT in tiles that grow with the radius.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.apertures import Aperture
from genrefocus.render.scatter import defocus_level

_STEP = 0.25
"""Width of a slice in px of blur radius, up to 5 px; above, it grows in proportion."""
_EDGE = 4.0
"""Neighbours that differ by more slices than this lie on different surfaces."""
_SHARP = 0.1
"""Blur of a radius in px below this is not drawn."""
_BLOCK = 16
_BATCH = 1 << 22
_RIDGE = 1e-3
_PRESENT = 1e-3


def render_layered(
    image: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    aperture: Aperture,
) -> Tensor:
    if image.shape != (3, *disparity.shape):
        raise ValueError(
            f"image is {tuple(image.shape)} but disparity {tuple(disparity.shape)}; "
            "they must be (3, H, W) and (H, W) of one size"
        )
    defocus = signed_defocus(disparity, focus_disparity, strength).to(image.dtype)
    greatest = float(defocus.abs().max())
    if greatest < _SHARP:
        return image.clone()
    margin = math.ceil(greatest) + 3
    rows, columns = (_mirrored(n, margin, image.device) for n in defocus.shape)
    layers = _separate(image[:, rows][:, :, columns], defocus[rows][:, columns], margin)
    return _blend(layers, margin, aperture, *defocus.shape)


class _Layers(NamedTuple):
    """Colours (3, 4, h, w), premultiplied, and their defocus in px (3, h, w), NaN where empty.

    First what is seen, then what is hidden behind it, then the part of a surface that reaches
    into pixels of a farther one.
    """

    rgba: Tensor
    defocus: Tensor


def _mirrored(size: int, margin: int, device: torch.device) -> Tensor:
    """Indices that extend an axis by `margin` on both sides by reflection about its ends."""
    index = torch.arange(-margin, size + margin, device=device)
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, (period - index).abs()).clamp_max(size - 1)


class _Cuts(NamedTuple):
    near: Tensor
    far: Tensor
    inner: Tensor
    outer: Tensor


def _cuts(level: Tensor, mask: Tensor, stride: int) -> _Cuts:
    flat = level.flatten()
    near = torch.nonzero(mask.flatten()).flatten()
    far = near + stride
    deeper, beyond = near - stride, far + stride
    inner = torch.where((flat[deeper] - flat[near]).abs() <= _EDGE, deeper, near)
    outer = torch.where((flat[beyond] - flat[far]).abs() <= _EDGE, beyond, far)
    return _Cuts(near, far, inner, outer)


def _edge_masks(level: Tensor) -> list[tuple[Tensor, int]]:
    """Where a neighbour is farther by more than an edge, and the way to it; not on the border."""
    height, width = level.shape
    inside = torch.zeros_like(level, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    found = []
    for dim, stride in ((1, 1), (0, width)):
        step = level.diff(dim=dim)
        none = torch.zeros_like(level.narrow(dim, 0, 1), dtype=torch.bool)
        found.append((torch.cat([none, step > _EDGE], dim) & inside, -stride))
        found.append((torch.cat([step < -_EDGE, none], dim) & inside, stride))
    return found


def _separate(image: Tensor, defocus: Tensor, margin: int) -> _Layers:
    height, width = defocus.shape
    size = height * width
    level = defocus_level(defocus, _STEP)
    colour = image.flatten(1).T  # (pixels, 3)
    masks = _edge_masks(level)
    cuts = [_cuts(level, mask, stride) for mask, stride in masks]
    rgba = image.new_zeros(3, 4, height, width)
    rgba[0, :3], rgba[0, 3] = image, 1.0
    where = torch.stack(
        [defocus, torch.full_like(defocus, math.nan), torch.full_like(defocus, math.nan)]
    )
    if not any(len(cut.near) for cut in cuts):
        return _Layers(rgba, _within_reach(where, margin))
    joined = _Cuts(*(torch.cat(parts) for parts in zip(*cuts, strict=True)))
    flat_defocus = defocus.flatten()
    # Far side: take out what the nearer surface adds.
    front, share, pixels, _ = _mixture(colour, joined, joined.far, joined.inner)
    share = share.clamp(0.0, 0.5)
    clean = colour.clone()
    clean[pixels] = ((colour[pixels] - share * front) / (1.0 - share)).clamp_min(0.0)
    fringe = torch.cat([share * front, share], 1)
    fringed = share[:, 0] > 0.02
    nearest = torch.full((size,), -math.inf, dtype=defocus.dtype, device=defocus.device)
    nearest = nearest.scatter_reduce(0, joined.far, flat_defocus[joined.near], "amax")
    planes, spots = rgba.view(3, 4, size), where.view(3, size)
    planes[2][:, pixels[fringed]] = fringe[fringed].T
    spots[2][pixels[fringed]] = nearest[pixels[fringed]]
    planes[0, :3] = clean.T
    # Near side.
    _, share, pixels, back = _mixture(clean, joined, joined.near, joined.outer)
    share = 1.0 - share.clamp(0.0, 0.5)
    planes[0][:, pixels] = torch.cat(
        [(clean[pixels] - (1.0 - share) * back).clamp_min(0.0), share], 1
    ).T
    # Hidden.
    pixels, filled, at = _hidden(clean, level, flat_defocus, masks, joined)
    planes[1][:3, pixels] = filled.T
    planes[1][3, pixels] = 1.0
    spots[1][pixels] = at
    return _Layers(rgba, _within_reach(where, margin))


def _mixture(
    colour: Tensor, cuts: _Cuts, mixed: Tensor, _other: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean colour beyond (n, 3), share (n, 1) of the *other* side, for pixels (n,)."""
    pixels, inverse, count = torch.unique(mixed, return_inverse=True, return_counts=True)
    own = cuts.outer if mixed is cuts.far else cuts.inner
    other = cuts.inner if mixed is cuts.far else cuts.outer
    theirs, ours = colour[other], colour[own]
    across = (theirs - ours).detach()
    part = ((colour[mixed] - ours).detach() * across).sum(1)
    total = across.square().sum(1)
    zeros = colour.new_zeros(len(pixels))
    share = zeros.index_add(0, inverse, part) / (
        zeros.index_add(0, inverse, total) + _RIDGE * count
    )
    mean = colour.new_zeros(len(pixels), 3).index_add(0, inverse, theirs) / count[:, None]
    return mean, share[:, None], pixels, mean


def _hidden(
    clean: Tensor, level: Tensor, defocus: Tensor, masks: list[tuple[Tensor, int]], cuts: _Cuts
) -> tuple[Tensor, Tensor, Tensor]:
    """What edges hide: pixels (n,), their colour (n, 3) and defocus (n,)."""
    width = level.shape[1]
    farthest = float(defocus[cuts.far].abs().max())
    flat = level.flatten()
    found = []
    for number, (mask, stride) in enumerate(masks):
        dim = 1 if abs(stride) == 1 else 0
        last = _last_cut(mask, dim, stride > 0)
        size = level.shape[dim]
        position = torch.arange(size, device=level.device)
        position = position[None, :] if dim == 1 else position[:, None]
        away = (position - last).abs()
        near = torch.nonzero(
            (
                (last >= 0)
                & (last < size)
                & (away <= defocus.view_as(level).abs() + (farthest + 2.0))
            ).flatten()
        ).flatten()
        away = away.flatten()[near]
        for _ in range(3):
            far = near - away * (-stride) + stride
            ok = flat[near] - flat[far] > _EDGE
            ok &= away <= defocus[near].abs() + defocus[far].abs() + 2.0
            found.append(
                torch.stack([near[ok], away[ok], far[ok], torch.full_like(near[ok], stride)])
            )
            near, far = near[~ok], far[~ok]
            row, column = far // width, far % width
            cut = last[row, column]
            at = column if dim == 1 else row
            good = (cut >= 0) & (cut < size)
            away = away[~ok] + 1 + (at - cut).abs()
            near, away = near[good], away[good]
            good = away <= defocus[near].abs() + farthest + 2.0
            near, away = near[good], away[good]
    near, away, far, stride = torch.cat(found, 1)
    pixels, inverse = torch.unique(near, return_inverse=True)
    order = away * len(near) + torch.arange(len(near), device=near.device)
    best = torch.full_like(pixels, torch.iinfo(torch.int64).max).scatter_reduce(
        0, inverse, order, "amin"
    )
    chosen = far[best % len(near)]
    similar = (flat[far] - flat[chosen][inverse]).abs() <= _EDGE
    near, away, far, stride, inverse = (x[similar] for x in (near, away, far, stride, inverse))
    source = _source(flat, far, away, stride)
    weight = (away + 1.0).to(clean.dtype).pow(-2)
    total = clean.new_zeros(len(pixels)).index_add(0, inverse, weight)
    filled = clean.new_zeros(len(pixels), 3).index_add(0, inverse, clean[source] * weight[:, None])
    return pixels, filled / total[:, None], defocus[chosen]


FILL = "copy"
SAT = True


def _source(flat: Tensor, far: Tensor, away: Tensor, stride: Tensor) -> Tensor:
    beyond = (far + stride).clamp(0, len(flat) - 1)
    source = torch.where((flat[beyond] - flat[far]).abs() <= _EDGE, beyond, far)
    if FILL == "mirror":
        mirror = (far + stride * (1 + away)).clamp(0, len(flat) - 1)
        source = torch.where((flat[mirror] - flat[far]).abs() <= _EDGE, mirror, source)
    return source


def _last_cut(mask: Tensor, dim: int, backward: bool) -> Tensor:
    """Position along `dim` of the nearest cut at or before each pixel; outside where none."""
    if backward:
        flipped = _last_cut(mask.flip(dim), dim, False).flip(dim)
        return mask.shape[dim] - 1 - flipped
    position = torch.arange(mask.shape[dim], device=mask.device, dtype=torch.int32)
    position = position[None, :] if dim == 1 else position[:, None]
    marked = torch.where(mask, position, -1)
    return marked.cummax(dim).values.long()


def _within_reach(defocus: Tensor, margin: int) -> Tensor:
    """Defocus with NaN for pixels beyond the frame that do not reach into it."""
    away = []
    for size in defocus.shape[1:]:
        position = torch.arange(size, device=defocus.device)
        away.append(torch.maximum(margin - position, position - (size - margin - 1)).clamp_min(0))
    beyond = torch.maximum(away[0][:, None], away[1][None, :])
    return torch.where(beyond > defocus.abs() + 1.0, math.nan, defocus)


def _blend(layers: _Layers, margin: int, aperture: Aperture, height: int, width: int) -> Tensor:
    rgba, defocus = layers
    largest = _tile(margin)
    tall, wide = (-(-n // largest) * largest for n in defocus.shape[1:])
    index, radii = _slices(defocus)
    grow = (0, wide - defocus.shape[2], 0, tall - defocus.shape[1])
    rgba = torch.nn.functional.pad(rgba, grow)
    index = torch.nn.functional.pad(index, grow, value=-1)
    presence = _presence(index, len(radii))
    canvas = _Canvas(rgba, height, width)
    for number in reversed(range(len(radii))):
        radius = radii[number]
        kernel = np.ones((1, 1)) if abs(radius) < _SHARP else aperture.kernel(radius)
        reach = kernel.shape[0] // 2
        tile = _tile(reach)
        here = presence[..., number]
        here = (
            here.view(3, tall // tile, tile // _BLOCK, wide // tile, tile // _BLOCK).any(4).any(2)
        )
        at = torch.nonzero(here.any(0)).tolist()
        if not at:
            continue
        lvl = float(defocus_level(torch.tensor(radius, dtype=torch.float64), _STEP))
        shape = [next_fast_len(tile + 2 * reach, real=True)] * 2
        weights = torch.from_numpy(kernel).to(rgba)
        spectrum = torch.fft.rfft2(weights, s=shape) if reach else None
        held = here.any(2).any(1).tolist()
        for start in range(0, len(at), max(1, _BATCH // (shape[0] * shape[1] * 4))):
            chunk = at[start : start + max(1, _BATCH // (shape[0] * shape[1] * 4))]
            parts = []
            for down, along in chunk:
                box = (
                    slice(down * tile, (down + 1) * tile),
                    slice(along * tile, (along + 1) * tile),
                )
                parts.append(
                    sum(
                        rgba[k][(slice(None), *box)] * (index[k][box] == number)
                        for k in range(3)
                        if held[k] and here[k, down, along]
                    )
                )
            batch = torch.stack(parts)
            if spectrum is not None:
                batch = torch.fft.irfft2(torch.fft.rfft2(batch, s=shape) * spectrum, s=shape)
            for (down, along), part in zip(chunk, batch, strict=True):
                canvas.add(
                    part,
                    tile + 2 * reach,
                    down * tile - reach - margin,
                    along * tile - reach - margin,
                    lvl,
                )
    return canvas.finish()


class _Canvas:
    def __init__(self, like: Tensor, height: int, width: int) -> None:
        self.light = like.new_zeros(3, height, width)
        self.open = like.new_ones(height, width)
        self.group = like.new_zeros(4, height, width)
        self.level = like.new_full((height, width), -math.inf)

    def add(self, part: Tensor, size: int, top: int, left: int, level: float) -> None:
        height, width = self.open.shape
        rows = slice(max(top, 0), min(top + size, height))
        columns = slice(max(left, 0), min(left + size, width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        part = part[
            :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        with torch.no_grad():
            present = part[3] > _PRESENT
            last = self.level[rows, columns]
            apart = present & (last - level > _EDGE)
            any_apart = bool(apart.any())
        if any_apart:
            self._settle(rows, columns, apart)
        group = self.group[:, rows, columns]
        with torch.no_grad():
            room = ((1.0 - group[3]) / part[3].clamp_min(1e-6)).clamp(0.0, 1.0) if SAT else 1.0
        self.group[:, rows, columns] += part * room
        last.masked_fill_(present, level)

    def _settle(self, rows: slice, columns: slice, apart: Tensor) -> None:
        group = self.group[:, rows, columns]
        with torch.no_grad():
            cover = group[3].detach().clamp(0.0, None)
            open_ = self.open[rows, columns]
            factor = open_ / cover.clamp_min(1.0) * apart
            keep = 1.0 - cover.clamp_max(1.0) * apart
        self.light[:, rows, columns] += factor * group[:3]
        open_.mul_(keep)
        group.mul_(~apart)

    def finish(self) -> Tensor:
        everything = torch.ones_like(self.open, dtype=torch.bool)
        self._settle(slice(None), slice(None), everything)
        return (self.light / (1.0 - self.open).clamp_min(1e-6)).clamp_min(0.0)


def _tile(reach: int) -> int:
    """Side of the tiles for blur that reaches so many px: a multiple of all smaller ones."""
    return 64 if reach <= 8 else 128 if reach <= 32 else 256 if reach <= 96 else 512


def _slices(defocus: Tensor) -> tuple[Tensor, list[float]]:
    """Index of the slice of every pixel, -1 where there is none, and their mean defocus in px."""
    level = defocus_level(defocus, _STEP).round()
    empty = level.isnan()
    low = float(level[~empty].min())
    index = torch.where(empty, -1.0, level - low).to(torch.int32)
    flat = index.flatten() + 1
    count = torch.bincount(flat)[1:]
    total = torch.bincount(flat, weights=defocus.nan_to_num(0.0).flatten().double())[1:]
    return index, (total / count.clamp_min(1)).tolist()


def _presence(index: Tensor, slices: int) -> Tensor:
    """Which slices (last axis) occur in each block of pixels, (3, rows, columns, slices) bool."""
    kinds, height, width = index.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    y = torch.arange(height, device=index.device) // _BLOCK
    x = torch.arange(width, device=index.device) // _BLOCK
    block = y[:, None] * columns + x
    found = torch.zeros(kinds, rows * columns * slices, dtype=torch.bool, device=index.device)
    for kind in range(kinds):
        there = index[kind] >= 0
        if kind and not bool(there.any()):
            continue
        found[kind][(block * slices + index[kind])[there]] = True
    return found.view(kinds, rows, columns, slices)
