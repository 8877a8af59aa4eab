"""Convolutions before and after a transformer on packed pixels, in place of an autoencoder.

FLUX reads and writes the latents of a convolutional autoencoder, whose channels know their
neighbourhood. Packed pixels do not, and attention is slow to learn what a convolution does at once.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, pixel_shuffle, pixel_unshuffle

Grid = tuple[int, int]


class LocalPath(nn.Module):
    """Stem of every branch, and head of the noisy image, at half the image's resolution.

    The transformer's output is an image and, beside it, channels that steer the head; the head
    refines the image from the stem's maps of the noisy image. Condition images reach it through the
    transformer alone, as they do in FLUX.

    Args:
        patch: side of a token in pixels.
        width: channels of the stem.
        features: channels that the stem appends to every token.
        steering: channels that the transformer hands to every place of the head.
        head_width, head_blocks: channels and residual blocks of the head.
    """

    def __init__(
        self,
        patch: int,
        *,
        width: int,
        features: int,
        steering: int,
        head_width: int,
        head_blocks: int,
    ) -> None:
        super().__init__()
        self.patch, self.features = patch, features
        self.in_channels = 3 * patch**2 + features
        self.out_channels = (12 + steering) * (patch // 2) ** 2
        self.stem = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.gather = nn.Conv2d(width, features, patch // 2, stride=patch // 2)
        self.first = nn.Conv2d(width + 12 + steering, head_width, 3, padding=1)
        self.blocks = nn.ModuleList(_Steered(head_width, steering) for _ in range(head_blocks))
        self.last = nn.Conv2d(head_width, 12, 3, padding=1)

    def enter(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, 3 patch^2) -> (B, N, in_channels), and maps (B, width, H / 2, W / 2)."""
        maps = self.stem(self._halved(tokens, grid))
        local = rearrange(self.gather(maps), "b f h w -> b (h w) f")
        return torch.cat([tokens, local], dim=-1), maps

    def leave(self, output: Tensor, maps: Tensor, grid: Grid) -> Tensor:
        """Output (B, N, out_channels), maps of the noisy image -> tokens (B, N, 3 patch^2)."""
        side = self.patch // 2
        pixels = 3 * self.patch**2
        tokens, steering = output[..., :pixels], output[..., pixels:]
        steering = rearrange(
            steering, "b (h w) (c y x) -> b c (h y) (w x)", h=grid[0], y=side, x=side
        )
        coarse = self._halved(tokens, grid)
        x = self.first(torch.cat([maps, coarse, steering], dim=1))
        for block in self.blocks:
            x = block(x, steering)
        fine = pixel_shuffle(coarse + self.last(gelu(x)), 2)
        return rearrange(
            fine, "b c (h p i) (w q j) -> b (h w) (c i j p q)", h=grid[0], w=grid[1], p=2, q=2
        )

    def _halved(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens of packed pixels -> (B, 12, H / 2, W / 2)."""
        side = self.patch // 2
        image = rearrange(
            tokens,
            "b (h w) (c i j p q) -> b c (h p i) (w q j)",
            h=grid[0],
            c=3,
            i=side,
            j=side,
            p=2,
            q=2,
        )
        return pixel_unshuffle(image, 2)


class _Steered(nn.Module):
    """A residual block whose inner channels the transformer turns up and down place by place."""

    def __init__(self, width: int, steering: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.gain, self.offset = (nn.Conv2d(steering, width, 1) for _ in range(2))

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        inner = self.first(gelu(x)) * (1 + self.gain(steering)) + self.offset(steering)
        return x + self.second(gelu(inner))
