"""Image codecs: between images and packed latent tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from genrefocus.noise import noise_like

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Codec(Protocol):
    """Between images (B, 3, H, W) and latents (B, C, H / factor, W / factor)."""

    factor: int
    channels: int

    def encode(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Latents of an image as the codec's network expects it (no rescaling happens here)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Image in the codec's range, [-1, 1]."""
        ...


class VaeCodec(nn.Module):
    """FLUX.1's autoencoder: posterior sample, shifted and scaled (released inference code).

    A module, so that it moves with the backbone. Latents have the autoencoder's dtype.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = vae.config.latent_channels

    @torch.no_grad()
    def encode(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        assert len(generators) == len(image), "the posterior is sampled: one generator a row"
        posterior = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        latents = posterior.mean + posterior.std * noise_like(posterior.mean, generators)
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        scaled = latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor
        return self.vae.decode(scaled, return_dict=False)[0]


def pack(latents: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> (B, h w, 4C) tokens, as FLUX packs 2x2 latents."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Inverse of :func:`pack` for a grid of ``rows`` x ``columns`` tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=2, q=2)
