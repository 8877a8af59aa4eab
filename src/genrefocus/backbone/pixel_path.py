"""The U-Net of the tiny backbone, on pixels: kernels for every pixel, of a fixed basis."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional as F

from genrefocus.backbone.branches import ROLES, Role
from genrefocus.render.apertures import disk
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

_NOISE_TO_SIGNAL = 0.1  # power of noise over that of the image, for inverse filters
_INVERSE_RIM = 10  # px
_MAPS = [role for role in ROLES if role != "shape"]
_TOLD = 2.0  # px of radius from which on kernels have the shape
_FINE = 4  # samples of a shape along a pixel of its kernel
# Factors on light are exponentials, of what a convolution says times a constant, which lets it
# learn as fast as the others.
_GLOW, _GAINS = 8.0, (-2.0, 6.0)


class PixelPath(nn.Module):
    """A U-Net at half the image's resolution and below, steered by the transformer.

    It sees every branch at pixel precision: each role has its own convolution into the U-Net, and
    an absent branch adds nothing, its bias included. Beside an image it returns for every pixel the
    weights of a fixed basis: the source through disks, in linear light, and through the regularised
    inverses of disks, each less the source. So a pixel has a kernel of its own that blurs or
    sharpens (kernel prediction with a basis, as Mildenhall et al., CVPR 2018, and Xia et al., CVPR
    2020, do for denoising).

    Where it is shown the shape of an aperture, kernels of this shape take the place of the disks,
    and the light of every pixel is multiplied by a factor first: an image clips what is brighter
    than white, and only that draws the shape. The layer of the factor is zero, and LoRA moves it.

    Args:
        widths: channels of the levels, each at half the resolution of the one before; the lowest
            has one place a token.
        blocks: residual blocks of a level, on the way down and on the way up.
        radii: of the disks, px.
        inverse_radii: of the disks that the source may be deconvolved by, px.
        steering: channels that the transformer hands to every place of the lowest level.
    """

    disks: Tensor
    inverses: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        radii: Sequence[float],
        inverse_radii: Sequence[float],
        steering: int,
    ) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({role: nn.Conv2d(12, widths[0], 3, padding=1) for role in _MAPS})
        self.narrow, self.widen = nn.ModuleList(), nn.ModuleList()
        self.down: Any = nn.ModuleList()
        self.up: Any = nn.ModuleList()
        for width, below, count in zip(widths[:-1], widths[1:], blocks[:-1], strict=True):
            for side in (self.down, self.up):
                side.append(nn.ModuleList(_Steered(width, steering) for _ in range(count)))
            self.narrow.append(nn.Conv2d(width, below, 2, stride=2))
            self.widen.append(nn.Conv2d(below, 4 * width, 1))
        self.middle = nn.ModuleList(_Steered(widths[-1], steering) for _ in range(blocks[-1]))
        self.last = nn.Conv2d(widths[0], 12, 3, padding=1)
        self.mix = nn.Conv2d(widths[0], 4 * (len(radii) + len(inverse_radii)), 3, padding=1)
        self.glow = nn.Conv2d(widths[0], 4, 3, padding=1).requires_grad_(False)
        nn.init.zeros_(self.glow.weight)
        nn.init.zeros_(self.glow.bias)  # type: ignore[arg-type]
        self.radii = tuple(radii)
        self.register_buffer("disks", _stacked(map(_disk, radii)), persistent=False)
        self.register_buffer("inverses", _stacked(map(_inverse, inverse_radii)), persistent=False)

    def forward(
        self,
        maps: Mapping[Role, Tensor],
        steering: Tensor,
        shape: Tensor | None = None,
        drafted: Tensor | None = None,
    ) -> Tensor:
        """Maps (B, 12, H / 2, W / 2) of the branches in [-1, 1], the source among them, steering
        (B, S, rows, columns) of the tokens, the shape of the aperture (B, 1, s, s) in [0, 1] as
        ``Aperture.image`` draws it -> (B, 12, H / 2, W / 2). Where only some images have a draft,
        ``drafted`` (B, 1, 1, 1) is 1 for these and 0 for the others."""
        entered = {role: self.enter[role](part) for role, part in maps.items()}
        if drafted is not None:
            entered["draft"] = entered["draft"] * drafted
        x: Any = sum(entered.values())
        for role in set(_MAPS) - maps.keys():  # a weight without a gradient would stop DDP
            x = x + 0.0 * sum(weight.sum() for weight in self.enter[role].parameters())
        x = x.contiguous(memory_format=torch.channels_last)
        skipped = []
        for blocks, narrow in zip(self.down, self.narrow, strict=True):
            for block in blocks:
                x = block(x, steering)
            skipped.append(x)
            x = narrow(x)
        for block in self.middle:
            x = block(x, steering)
        for blocks, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            x = F.pixel_shuffle(widen(x), 2) + skipped.pop()
            for block in blocks:
                x = block(x, steering)
        x = F.leaky_relu(x)
        weights = F.pixel_shuffle(self.mix(x), 2)[:, None]
        source, kernels, gain = F.pixel_shuffle(maps["source"], 2), self.disks[:, 0][None], None
        if shape is not None:
            gain = torch.exp((_GLOW * F.pixel_shuffle(self.glow(x), 2)).clamp(*_GAINS))
            kernels = _shaped(shape, self.radii, self.disks)
        mixed = (weights * self._basis(source, kernels, gain)).sum(2)
        return self.last(x) + F.pixel_unshuffle(mixed, 2)

    def _basis(self, source: Tensor, kernels: Tensor, gain: Tensor | None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 3, kernels, H, W): through each kernel, less itself.

        Blur adds light. Deconvolution takes display values, in which noise is about even.

        Args:
            kernels: of the blur, (B or 1, M, k, k).
            gain: (B, 1, H, W) on light; None for 1.
        """
        values = (source / 2 + 0.5).clamp(0, 1)
        light = srgb_to_linear(values) if gain is None else srgb_to_linear(values) * gain
        blurred = linear_to_srgb(_filtered(light, kernels))
        sharpened = _filtered(values, self.inverses[:, 0][None]).clamp(0, 1)
        return torch.cat([blurred, sharpened], 2) * 2 - 1 - source[:, :, None]


def _filtered(values: Tensor, kernels: Tensor) -> Tensor:
    """(B, C, H, W) by kernels (B or 1, M, k, k) -> (B, C, M, H, W); conv2d is half as fast."""
    rim = kernels.shape[-1] // 2
    padded = F.pad(values, (rim,) * 4, mode="replicate")
    height, width = padded.shape[-2:]
    size = next_fast_len(height, real=True), next_fast_len(width, real=True)
    spectra = torch.fft.rfft2(padded, s=size)[:, :, None]
    spectra = spectra * torch.fft.rfft2(kernels, s=size)[:, None]
    filtered = torch.fft.irfft2(spectra, s=size)
    return filtered[..., 2 * rim : height, 2 * rim : width]


def _shaped(shape: Tensor, radii: Sequence[float], disks: Tensor) -> Tensor:
    """Kernels (B, M, k, k) of a shape (B, 1, s, s) at these radii in px; small ones are disks.

    An image that covers a pixel adds the second moment of this pixel, so it is drawn smaller.
    """
    edge, size = shape.shape[-1], disks.shape[-1]
    places = (torch.arange(size * _FINE, device=shape.device) + 0.5) / _FINE - size / 2
    made = []
    for radius, round_one in zip(radii, disks, strict=True):
        if radius < _TOLD:
            made.append(round_one.expand(len(shape), -1, -1, -1))
            continue
        along = places / (radius**2 - 1 / 3) ** 0.5 * (1 - 2 / edge)
        grid = torch.stack(torch.meshgrid(along, along, indexing="xy"), -1)
        fine = F.grid_sample(shape, grid.expand(len(shape), -1, -1, -1), align_corners=False)
        kernel = F.avg_pool2d(fine, _FINE)
        made.append(kernel / kernel.sum((2, 3), keepdim=True))
    return torch.cat(made, 1)


def _stacked(kernels: Iterable[Tensor]) -> Tensor:
    """Odd square kernels, in the middle of the largest one's square: (M, 1, k, k)."""
    made = list(kernels)
    size = max((len(kernel) for kernel in made), default=1)
    padded = [F.pad(kernel, ((size - len(kernel)) // 2,) * 4) for kernel in made]
    return torch.stack(padded)[:, None] if padded else torch.zeros(0, 1, size, size)


def _disk(radius: float) -> Tensor:
    return torch.from_numpy(disk().kernel(radius)).float()


def _inverse(radius: float) -> Tensor:
    """Wiener's inverse filter of a disk, of sum 1, cut where little of it is left."""
    kernel = _disk(radius)
    rim = len(kernel) // 2
    size = 64
    spectrum = torch.fft.fft2(F.pad(kernel, (0, size - len(kernel)) * 2).roll((-rim, -rim), (0, 1)))
    inverse = torch.fft.ifft2(spectrum.conj() / (spectrum.abs() ** 2 + _NOISE_TO_SIGNAL)).real
    cut = inverse.roll((_INVERSE_RIM, _INVERSE_RIM), (0, 1))[: 2 * _INVERSE_RIM + 1]
    cut = cut[:, : 2 * _INVERSE_RIM + 1]
    return cut / cut.sum()


class _Steered(nn.Module):
    """A residual block whose inner channels the transformer turns up and down place by place."""

    def __init__(self, width: int, steering: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.steer = nn.Conv2d(steering, 2 * width, 1)
        nn.init.zeros_(self.second.weight)  # an identity at first: there is no normalisation
        nn.init.zeros_(self.steer.weight)  # the transformer knows nothing yet

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        gain, offset = F.interpolate(self.steer(steering), x.shape[-2:]).chunk(2, 1)
        inner = torch.addcmul(offset, self.first(F.leaky_relu(x)), 1 + gain)
        return x + self.second(F.leaky_relu(inner))
