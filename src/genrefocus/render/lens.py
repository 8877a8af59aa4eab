"""The reference renderer: a layered scene seen from many positions on the aperture.

Every position is a pinhole camera with its own view of what lies behind edges; the photograph is
the mean of the views in linear light. A point at disparity d moves by K * (d - d_f) * u px when
the pinhole moves to u in the unit disc, so its image is the aperture at blur radius K |d - d_f|.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from genrefocus.optics import BlurStrength, signed_defocus
from genrefocus.render.scene import Layer, Scene

_UPSAMPLING = 4
_CHUNK_PIXELS = 1 << 18

# Weights (4 neighbours, phase). Cubic convolution (Keys 1981, a = -1/2) leaves second moments
# alone, so that it adds no blur to a radius that has to be exact.
_T = torch.arange(_UPSAMPLING) / _UPSAMPLING
_CUBIC = torch.stack(
    [
        -0.5 * _T**3 + _T**2 - 0.5 * _T,
        1.5 * _T**3 - 2.5 * _T**2 + 1.0,
        -1.5 * _T**3 + 2.0 * _T**2 + 0.5 * _T,
        0.5 * _T**3 - 0.5 * _T**2,
    ]
)
_LINEAR = torch.stack([0.0 * _T, 1.0 - _T, _T, 0.0 * _T])


def render_lens(
    scene: Scene, *, focus_disparity: float, strength: BlurStrength, positions: Tensor
) -> Tensor:
    """Render a scene through a sampled aperture.

    Args:
        scene: layers from back to front.
        focus_disparity: d_f in 1/m.
        strength: K in px at 1/m, stated for the scene's size.
        positions: (N, 2) aperture positions (x, y) in the unit disc, see `apertures`.

    Returns:
        (3, H, W) linear light, >= 0, not clipped at 1. With K = 0 it is `scene_aif(scene)`.

    Raises:
        ValueError: K for another size, positions outside the unit disc, or a blur radius that
            reaches beyond the margin that the scene was drawn with.
    """
    total = scene.layers[0].rgba.new_zeros(3, scene.height, scene.width)
    for views in _views(scene, focus_disparity, strength, positions):
        total += views.sum(1)
    return (total / len(positions)).clamp_min(0.0)


def render_views(
    scene: Scene, *, focus_disparity: float, strength: BlurStrength, positions: Tensor
) -> Tensor:
    """The pinhole views whose mean is :func:`render_lens`: (N, 3, H, W) linear light, >= 0.

    Surfaces at ``focus_disparity`` are at the same place in all of them. Arguments and errors are
    those of :func:`render_lens`.
    """
    chunks = list(_views(scene, focus_disparity, strength, positions))
    return torch.cat(chunks, 1).transpose(0, 1).clamp_min(0.0)


def _views(
    scene: Scene, focus_disparity: float, strength: BlurStrength, positions: Tensor
) -> Iterator[Tensor]:
    """Views (3, n, H, W) from the positions, some at a time."""
    if positions.ndim != 2 or positions.shape[1] != 2 or positions.norm(dim=1).max() > 1 + 1e-5:
        raise ValueError("aperture positions must be (N, 2) in the unit disc")
    layers = [_Sampler(layer, scene, focus_disparity, strength) for layer in scene.layers]
    reach = max(layer.reach for layer in layers)
    if reach > scene.margin - 1:
        raise ValueError(
            f"blur radius {reach:.1f} px needs a scene with a margin of {reach + 1:.0f} px, "
            f"this one has {scene.margin}; draw it with a larger margin or lower K"
        )
    size = max(1, _CHUNK_PIXELS // (scene.height * scene.width))
    for chunk in positions.to(scene.layers[0].rgba).split(size):
        views = scene.layers[0].rgba.new_zeros(3, len(chunk), scene.height, scene.width)
        for layer in layers:
            layer.composite(views, chunk)
        yield views


class _Sampler:
    """One layer, ready to be laid over views from given aperture positions."""

    def __init__(
        self, layer: Layer, scene: Scene, focus_disparity: float, strength: BlurStrength
    ) -> None:
        plane = layer.plane.over(scene.height, scene.width)
        defocus = signed_defocus(plane, focus_disparity, strength)
        self.corner = float(defocus[0, 0])
        self.slope_x = float(defocus[0, -1] - defocus[0, 0]) / (scene.width - 1)
        self.slope_y = float(defocus[-1, 0] - defocus[0, 0]) / (scene.height - 1)
        steepness = (self.slope_x**2 + self.slope_y**2) ** 0.5
        self.reach = float(defocus.abs().max()) / max(1.0 - steepness, 1e-6)
        light = torch.cat([layer.rgba[:3] * layer.rgba[3], layer.rgba[3:]])
        rows, columns = _extent(layer.rgba[3])
        self.rows = _within(rows, self.reach, scene.margin, scene.height)
        self.columns = _within(columns, self.reach, scene.margin, scene.width)
        if self.reach == 0.0:
            m = scene.margin
            self.fixed = light[:, m : m + scene.height, m : m + scene.width]
            return
        self.origin = light.new_tensor([columns.start, rows.start]) - scene.margin
        # Around sources far above white, the negative lobes of a cubic are rings of darkness.
        taps = _CUBIC if float(light.max()) <= 1.0 else _LINEAR
        across = _upsample(light[:, rows, columns], taps)
        self.fine = _upsample(across.transpose(1, 2), taps).transpose(1, 2).contiguous()

    def composite(self, views: Tensor, positions: Tensor) -> None:
        """Lay the layer over views (3, n, H, W), in place, as seen from positions (n, 2)."""
        rows, columns = self.rows, self.columns
        if self.reach == 0.0:
            colour, alpha = self.fixed[:3, None, rows, columns], self.fixed[3, rows, columns]
        else:
            seen = self._seen(positions)
            colour, alpha = seen[:3], seen[3]
        views[:, :, rows, columns].mul_(1.0 - alpha).add_(colour)

    def _seen(self, positions: Tensor) -> Tensor:
        """The layer (4, n, rows, columns), premultiplied, from positions (n, 2).

        A point x of the plane is seen at x' = x + u s(x) with s(x) = c + g.x, hence at x' one sees
        x = x' - u s with s = (c + g.x') / (1 + g.u).
        """
        device = positions.device
        y = torch.arange(self.rows.start, self.rows.stop, device=device)[:, None]
        x = torch.arange(self.columns.start, self.columns.stop, device=device)
        u, v = positions[:, 0, None, None], positions[:, 1, None, None]
        shift = self.corner + self.slope_x * x + self.slope_y * y
        shift = shift / (1.0 + self.slope_x * u + self.slope_y * v)
        at = torch.stack([x - u * shift, y - v * shift], dim=-1) - self.origin
        height, width = self.fine.shape[-2:]
        at = at * (2.0 * _UPSAMPLING / (at.new_tensor([width, height]) - 1.0)) - 1.0
        flat = at.flatten(0, 1)[None]
        seen = grid_sample(self.fine[None], flat, padding_mode="zeros", align_corners=True)
        return seen.reshape(4, *at.shape[:-1])


def _extent(alpha: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a matte that hold all of it, with what interpolation needs around it."""
    slices = []
    for dim in (1, 0):
        covered = torch.nonzero(alpha.amax(dim) > 0.0).flatten().tolist() or [0]
        slices.append(slice(max(covered[0] - 3, 0), min(covered[-1] + 4, alpha.shape[1 - dim])))
    return slices[0], slices[1]


def _within(extent: slice, reach: float, margin: int, size: int) -> slice:
    """The part of the frame (one axis) that an extent of the canvas reaches when it moves."""
    low, high = extent.start - margin - reach, extent.stop - margin + reach
    return slice(int(min(max(low, 0), size)), int(min(max(high + 1, 0), size)))


def _upsample(canvas: Tensor, taps: Tensor) -> Tensor:
    """Interpolate (C, h, w) along w to (C, h, 4 w); the old samples stay at every fourth place."""
    width = canvas.shape[-1]
    padded = pad(canvas, (1, 2), mode="replicate")
    phases = canvas.new_zeros(*canvas.shape, _UPSAMPLING)
    for number, tap in enumerate(taps.to(canvas)):
        phases.addcmul_(padded[..., number : number + width, None], tap)
    return phases.flatten(-2)
