"""Convolutions before and after a transformer that works on packed pixels.

FLUX reads and writes the latents of a convolutional autoencoder, whose channels know their
neighbourhood. Packed pixels do not, and attention is slow to learn what a convolution does at once.
The tiny backbone has this local path in place of an autoencoder; FLUX has none.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Grid = tuple[int, int]


class LocalPath(nn.Module):
    """Stem and head of a transformer on packed pixels, at half the image's resolution.

    Args:
        patch: side of a token in pixels.
        width: channels of the convolutions.
        features: channels that the stem appends to every token.
        returned: channels a half-resolution pixel that the head gets from the transformer.
    """

    def __init__(self, patch: int, width: int, features: int, returned: int) -> None:
        super().__init__()
        self.patch, self.features = patch, features
        cells = (patch // 2) ** 2
        self.in_channels = 3 * patch**2 + features
        self.out_channels = returned * cells
        self.stem = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.gather = nn.Conv2d(width, features, patch // 2, stride=patch // 2)
        self.head = nn.Sequential(
            nn.Conv2d(width + returned, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 12, 3, padding=1),
        )

    def enter(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, 3 patch^2) -> (B, N, in_channels), and maps (B, width, H / 2, W / 2)."""
        inner = self.patch // 2
        image = rearrange(
            tokens,
            "b (h w) (c i j p q) -> b c (h p i) (w q j)",
            h=grid[0],
            c=3,
            i=inner,
            j=inner,
            p=2,
            q=2,
        )
        maps = self.stem(F.pixel_unshuffle(image, 2))
        local = rearrange(self.gather(maps), "b f h w -> b (h w) f")
        return torch.cat([tokens, local], dim=-1), maps

    def leave(self, output: Tensor, maps: Tensor, grid: Grid) -> Tensor:
        """Output (B, N, out_channels) and the noisy image's maps -> tokens (B, N, 3 patch^2)."""
        inner = self.patch // 2
        returned = rearrange(
            output, "b (h w) (c y x) -> b c (h y) (w x)", h=grid[0], y=inner, x=inner
        )
        image = F.pixel_shuffle(self.head(torch.cat([maps, returned], dim=1)), 2)
        return rearrange(
            image, "b c (h p i) (w q j) -> b (h w) (c i j p q)", h=grid[0], w=grid[1], p=2, q=2
        )
