"""Local features beside packed pixels, for images too small for an autoencoder.

FLUX reads latents of a convolutional autoencoder, whose channels know their neighbourhood. Packed
pixels do not, and attention is slow to learn what a convolution does at once.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle


class ConvStem(nn.Module):
    """Features of every token from the pixels in and around it.

    Args:
        patch: side of a token in pixels.
        width: channels of the convolutions, which run at half the image's resolution.
        features: channels that are appended to every token.
    """

    def __init__(self, patch: int, width: int, features: int) -> None:
        super().__init__()
        self.patch, self.features = patch, features
        self.convolutions = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, features, patch // 2, stride=patch // 2),
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, 3 patch^2) on ``grid`` -> (B, N, 3 patch^2 + features)."""
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
        local = rearrange(self.convolutions(pixel_unshuffle(image, 2)), "b f h w -> b (h w) f")
        return torch.cat([tokens, local], dim=-1)
