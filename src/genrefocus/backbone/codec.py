"""Image codecs: between images and packed latent tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrefocus.noise import noise_like, to_device
from genrefocus.writing import whole

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Codec(Protocol):
    """Between images (B, 3, H, W) and latents (B, C, H / factor, W / factor)."""

    factor: int
    channels: int

    def encode(
        self, image: Tensor, generators: Sequence[torch.Generator], *, keep: bool = False
    ) -> Tensor:
        """Latents of an image as the codec's network expects it (no rescaling happens here).

        ``keep`` says that the image will be encoded again, in other steps or runs.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Image in the codec's range, [-1, 1]."""
        ...


class VaeCodec(nn.Module):
    """FLUX.1's autoencoder: posterior sample, shifted and scaled (released inference code).

    A module, so that it moves with the backbone. Latents have the autoencoder's dtype.

    Args:
        vae: the autoencoder.
        kept: folder of posteriors, by digest of image and autoencoder; None keeps none. With one,
            the autoencoder stays in main memory, and is on the device only while it computes.
    """

    def __init__(self, vae: AutoencoderKL, kept: str | Path | None = None) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = vae.config.latent_channels
        self.kept = None if kept is None else Path(kept) / _digest(*vae.state_dict().values())

    @torch.no_grad()
    def encode(
        self, image: Tensor, generators: Sequence[torch.Generator], *, keep: bool = False
    ) -> Tensor:
        assert len(generators) == len(image), "the posterior is sampled: one generator a row"
        mean, std = self._kept(image) if keep and self.kept else self._posterior(image)
        latents = mean + std * noise_like(mean, generators)
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        scaled = latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor
        with self._on(latents.device):
            return self.vae.decode(scaled, return_dict=False)[0]

    def _posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, C, h, w) each."""
        with self._on(image.device):
            posterior = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    def _kept(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same from files; those that are missing are written first."""
        assert self.kept is not None
        files = [self.kept / f"{_digest(row)}.safetensors" for row in image]
        missing = [row for row, file in enumerate(files) if not file.is_file()]
        if missing:
            self.kept.mkdir(parents=True, exist_ok=True)
            for row, *posterior in zip(missing, *self._posterior(image[missing]), strict=True):
                with whole(files[row]) as part:
                    save_file({"posterior": torch.stack(posterior).cpu()}, str(part))
        rows = torch.stack([load_file(file)["posterior"] for file in files])
        mean, std = to_device(rows, image.device).unbind(1)
        return mean, std

    @contextmanager
    def _on(self, device: torch.device) -> Iterator[None]:
        if self.kept is None:
            yield
            return
        self.vae.to(device)
        try:
            yield
        finally:
            self.vae.to("cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(fn, recurse) if self.kept is None else self


def _digest(*tensors: Tensor) -> str:
    """Of values, shapes and types."""
    digest = hashlib.sha256()
    for one in tensors:
        digest.update(f"{one.dtype} {tuple(one.shape)}".encode())
        digest.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class PixelCodec:
    """Lossless rearrangement of pixels into latents, in place of an autoencoder."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.channels = 3 * factor * factor

    def encode(
        self, image: Tensor, generators: Sequence[torch.Generator], *, keep: bool = False
    ) -> Tensor:
        return F.pixel_unshuffle(image, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.factor)


def pack(latents: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> (B, h w, 4C) tokens, as FLUX packs 2x2 latents."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Inverse of :func:`pack` for a grid of ``rows`` x ``columns`` tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=2, q=2)
