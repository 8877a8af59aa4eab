"""The reference renderer: a layered scene seen from many positions on the aperture.

Every position is a pinhole camera with its own view of what lies behind edges; the photograph is
the mean of the views in linear light. A point at disparity d moves by K * (d - d_f) * u px when
the pinhole moves to u in the unit disc, so its image is the aperture at blur radius K |d - d_f|.
A lens that is not ideal moves each view as a whole, see `LensCharacter`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.scene import FINENESS, Layer, Scene

_CHUNK_PIXELS = 1 << 17
_APART_PX = 0.05
_BULGE = 2.0 / math.sqrt(27.0)
"""Greatest value of rho - rho^3 for rho in [0, 1]."""


@dataclass(frozen=True)
class LensCharacter:
    """What distinguishes a lens from an ideal one.

    With z = K (d - d_f) px, a ray through the opening at u (the opening has radius 1) lands at
    ``u * (z - K chromatic + s (|u|^2 - 1))``, s = K spherical stop^2, of the point's place.

    Attributes:
        spherical: third-order spherical aberration of the full opening: how much nearer its middle
            focuses than its rim, which is the plane of focus, in 1/m. Above 0 discs are bright at
            the rim behind the plane of focus and soft in front of it; below 0 the reverse.
        chromatic: focus of red, green and blue, from the plane of focus on, in 1/m; a positive
            value is nearer.
        vignetting: shift of the rim of the lens against the full opening in the corners, in radii
            of that opening, 0 to 1: cat's eyes.
        stop: radius of the opening in use in parts of the full one, in (0, 1].
    """

    spherical: float = 0.0
    chromatic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    vignetting: float = 0.0
    stop: float = 1.0

    def moved(self, positions: Tensor, k: float) -> Tensor:
        """Motion (colours, N) in px along u of the views from positions (N, 2) of the opening.

        There is one colour where all three move alike, to 1/20 px.
        """
        apart = k * (max(self.chromatic) - min(self.chromatic)) > _APART_PX
        colours = self.chromatic if apart else (sum(self.chromatic) / 3.0,)
        bent = self.spherical * self.stop**2 * (positions.square().sum(1) - 1.0)
        return k * (bent - positions.new_tensor(colours)[:, None])

    def weights(self, positions: Tensor, height: int, width: int) -> Tensor:
        """Light (N, H, W) in [0, 1] that a frame gets through positions (N, 2) of the opening.

        A pixel at h, with |h| = 1 in the corners, sees u where |stop u + vignetting h| <= 1; the
        rim is as soft as the positions are coarse.
        """
        y = torch.arange(height)[:, None] - (height - 1) / 2.0
        x = torch.arange(width) - (width - 1) / 2.0
        scale = self.vignetting / max(math.hypot(height - 1, width - 1) / 2.0, 1.0)
        u, v = (self.stop * positions).T[..., None, None]
        away = torch.hypot(u + scale * x.to(positions), v + scale * y.to(positions))
        return (0.5 + (1.0 - away) * math.sqrt(len(positions)) / self.stop).clamp(0.0, 1.0)

    @property
    def reach(self) -> float:
        """Motion beyond that of an ideal lens, in px per K, at most."""
        bent = _BULGE * abs(self.spherical) * self.stop**2
        return bent + max(abs(shift) for shift in self.chromatic)


IDEAL = LensCharacter()


def render_lens(
    scene: Scene,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    positions: Tensor,
    character: LensCharacter = IDEAL,
) -> Tensor:
    """Render a scene through a sampled aperture.

    Args:
        scene: layers from back to front.
        focus_disparity: d_f in 1/m.
        strength: K in px at 1/m, stated for the scene's size.
        positions: (N, 2) aperture positions (x, y) in the unit disc, see `apertures`.
        character: of the lens.

    Returns:
        (3, H, W) linear light, >= 0, not clipped at 1. With K = 0 it is `scene_aif(scene)`. Light
        does not fall off towards the corners.

    Raises:
        ValueError: K for another size, positions outside the unit disc, or a blur radius that
            reaches beyond the margin that the scene was drawn with.
    """
    total = scene.layers[0].rgba.new_zeros(3, scene.height, scene.width)
    if character.vignetting + character.stop <= 1.0 or not character.vignetting:
        for views in _views(scene, focus_disparity, strength, positions, character):
            total += views.sum(1)
        return (total / len(positions)).clamp_min(0.0)
    weights = character.weights(positions.to(total), scene.height, scene.width)
    done = 0
    for views in _views(scene, focus_disparity, strength, positions, character):
        total += torch.einsum("cnhw,nhw->chw", views, weights[done : done + views.shape[1]])
        done += views.shape[1]
    return (total / weights.sum(0)).clamp_min(0.0)


def render_views(
    scene: Scene,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    positions: Tensor,
    character: LensCharacter = IDEAL,
) -> Tensor:
    """The pinhole views whose mean is :func:`render_lens`: (N, 3, H, W) linear light, >= 0.

    Surfaces at ``focus_disparity`` are at the same place in all of them. Arguments and errors are
    those of :func:`render_lens`.
    """
    chunks = list(_views(scene, focus_disparity, strength, positions, character))
    return torch.cat(chunks, 1).transpose(0, 1).clamp_min(0.0)


def strongest(
    scene: Scene, focus_disparity: float, character: LensCharacter = IDEAL
) -> BlurStrength:
    """The greatest K that a scene can be rendered with: its margin holds what moves."""
    room = scene.margin - 1.01
    defocus = (scene.planes - focus_disparity).abs().flatten(1).amax(1).tolist()
    moved = [
        away + character.reach + math.hypot(one.plane.slope_x, one.plane.slope_y) * room
        for one, away in zip(scene.layers, defocus, strict=True)
    ]
    return BlurStrength(room / max(*moved, 1e-9), scene.height, scene.width)


def _views(
    scene: Scene,
    focus_disparity: float,
    strength: BlurStrength,
    positions: Tensor,
    character: LensCharacter,
) -> Iterator[Tensor]:
    """Views (3, n, H, W) from the positions, some at a time."""
    if positions.ndim != 2 or positions.shape[1] != 2 or positions.norm(dim=1).max() > 1 + 1e-5:
        raise ValueError("aperture positions must be (N, 2) in the unit disc")
    more = character.reach * strength.k
    defocus = signed_defocus(scene.planes, focus_disparity, strength)
    layers = [
        _Sampler(layer, scene, own, more) for layer, own in zip(scene.layers, defocus, strict=True)
    ]
    reach = max(layer.reach for layer in layers)
    if reach > scene.margin - 1:
        raise ValueError(
            f"blur radius {reach:.1f} px needs a scene with a margin of {reach + 1:.0f} px, "
            f"this one has {scene.margin}; draw it with a larger margin or lower K"
        )
    size = max(1, _CHUNK_PIXELS // (scene.height * scene.width))
    for chunk in positions.to(scene.layers[0].rgba).split(size):
        moved = character.moved(chunk, strength.k)
        views = chunk.new_zeros(3, len(chunk), scene.height, scene.width)
        for layer in layers:
            layer.composite(views, chunk, moved)
        yield views


class _Sampler:
    """One layer, ready to be laid over views from given aperture positions."""

    def __init__(self, layer: Layer, scene: Scene, defocus: Tensor, more: float) -> None:
        self.corner = float(defocus[0, 0])
        self.slope_x = float(defocus[0, -1] - defocus[0, 0]) / (scene.width - 1)
        self.slope_y = float(defocus[-1, 0] - defocus[0, 0]) / (scene.height - 1)
        steepness = (self.slope_x**2 + self.slope_y**2) ** 0.5
        self.reach = (float(defocus.abs().max()) + more) / max(1.0 - steepness, 1e-6)
        rows, columns = layer.extent
        self.rows = _within(rows, self.reach, scene.margin, scene.height)
        self.columns = _within(columns, self.reach, scene.margin, scene.width)
        if self.reach == 0.0:
            m = scene.margin
            self.light = layer.light[:, m : m + scene.height, m : m + scene.width]
            return
        self.origin = layer.rgba.new_tensor([columns.start, rows.start]) - scene.margin
        self.fine = layer.fine

    def composite(self, views: Tensor, positions: Tensor, moved: Tensor) -> None:
        """Lay the layer over views (3, n, H, W), in place, as seen from positions (n, 2)."""
        rows, columns = self.rows, self.columns
        if self.reach == 0.0:
            light = self.light[:, rows, columns]
            views[:, :, rows, columns].mul_(1.0 - light[3]).add_(light[:3, None])
            return
        # Places in `fine` in units of its frame, whose middle is 0 and whose edges are -1 and 1.
        scale = 2.0 * FINENESS / (positions.new_tensor(self.fine.shape[:0:-1]) - 1.0)
        steep = 1.0 + positions @ positions.new_tensor([self.slope_x, self.slope_y])
        at = self._places(positions, scale, steep)
        per_px, done = -positions * scale / steep[:, None], 0.0
        for number, own in enumerate(moved):
            at += ((own - done)[:, None] * per_px)[:, None, None]
            # One colour and alpha; all of them where they move alike.
            seen = self._seen(at, self.fine[number :: 3 - number] if len(moved) > 1 else self.fine)
            colours = slice(number, number + 1) if len(moved) > 1 else slice(None)
            views[colours, :, rows, columns].mul_(1.0 - seen[-1]).add_(seen[:-1])
            done = own

    @staticmethod
    def _seen(at: Tensor, fine: Tensor) -> Tensor:
        """Channels of `fine` (C, h, w) at places (n, rows, columns, 2): (C, n, rows, columns)."""
        flat = at.flatten(0, 1)[None]
        seen = grid_sample(fine[None], flat, padding_mode="zeros", align_corners=True)
        return seen.reshape(len(fine), *at.shape[:-1])

    def _places(self, positions: Tensor, scale: Tensor, steep: Tensor) -> Tensor:
        """What the pixels show of the layer from positions (n, 2): (n, rows, columns, 2).

        A point x of the plane is seen at x' = x + u (s(x) + m) with s(x) = c + g.x, hence at x' one
        sees x = x' - u (c + m + g.x') / (1 + g.u); here m = 0.
        """
        device = positions.device
        y = torch.arange(self.rows.start, self.rows.stop, device=device)[:, None]
        x = torch.arange(self.columns.start, self.columns.stop, device=device)
        at = positions.new_empty(len(positions), len(y), len(x), 2)
        for axis, place in enumerate((x, y)):
            near = (positions[:, axis] * scale[axis] / steep)[:, None, None]
            at[..., axis] = (place - self.origin[axis]) * scale[axis] - 1.0 - near * self.corner
            if self.slope_x:
                at[..., axis] -= near * (self.slope_x * x)
            if self.slope_y:
                at[..., axis] -= near * (self.slope_y * y)
        return at


def _within(extent: slice, reach: float, margin: int, size: int) -> slice:
    """The part of the frame (one axis) that an extent of the canvas reaches when it moves."""
    low, high = extent.start - margin - reach, extent.stop - margin + reach
    return slice(int(min(max(low, 0), size)), int(min(max(high + 1, 0), size)))
