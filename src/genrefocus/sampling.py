"""Denoising: an Euler loop over a velocity function, and tiling as a wrapper around one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from genrefocus.flow import euler_step

Velocity = Callable[[Tensor, float], Tensor]
TileVelocity = Callable[[Tensor, float, Sequence["Tile"]], Tensor]
DraftIds = Literal["shifted", "released"]


def denoise(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Integrate ``velocity(x, sigma)`` from sigmas[0] to sigmas[-1] by Euler steps; x (B, N, C)."""
    for sigma, next_sigma in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = euler_step(x, velocity(x, sigma), sigma, next_sigma)
    return x


@dataclass(frozen=True)
class Tiling:
    """How large images are cut for sampling.

    Args:
        size, stride: of the tiles in tokens; 32 and 28 as released.
        when: ``shorter_edge`` tiles as soon as the shorter edge holds a tile, so that an image of
            exactly one tile counts as tiled (released); ``longer_edge`` tiles when the longer edge
            exceeds one; ``never``.
        batch: tiles of an image in one forward; its activations grow with them.
    """

    size: int = 32
    stride: int = 28
    when: Literal["shorter_edge", "longer_edge", "never"] = "shorter_edge"
    batch: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise ValueError(f"tiles of {self.size} every {self.stride} tokens leave gaps")
        if self.batch < 1:
            raise ValueError(f"{self.batch} tiles in one forward: give 1 or more")
        if self.when not in ("shorter_edge", "longer_edge", "never"):
            raise ValueError(
                f"tiling when '{self.when}' unknown: use shorter_edge, longer_edge or never"
            )

    def applies(self, grid: tuple[int, int]) -> bool:
        """Whether an image of ``grid`` tokens is cut into tiles."""
        if self.when == "shorter_edge":
            return min(grid) >= self.size
        return self.when == "longer_edge" and max(grid) > self.size

    def forwards(self, grid: tuple[int, int]) -> int:
        """Forwards of a step for an image of ``grid`` tokens."""
        windows = len(tiles(grid, self.size, self.stride)) if self.applies(grid) else 1
        return math.ceil(windows / self.batch)


@dataclass(frozen=True)
class Tile:
    """A window of the token grid."""

    row: int
    column: int
    rows: int
    columns: int

    def coarser(self, pitch: int) -> "Tile":
        """The same window of a grid of which a token is ``pitch`` of these wide and high."""
        edges = self.row, self.column, self.rows, self.columns
        assert not any(edge % pitch for edge in edges), edges
        return Tile(*(edge // pitch for edge in edges))

    def cut(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The window's tokens (B, rows * columns, C) of tokens (B, N, C) on ``grid``."""
        x = rearrange(tokens, "b (h w) c -> b h w c", h=grid[0])
        x = x[:, self.row : self.row + self.rows, self.column : self.column + self.columns]
        return rearrange(x, "b h w c -> b (h w) c")


def tiles(grid: tuple[int, int], size: int, stride: int) -> list[Tile]:
    """Windows of ``size`` tokens every ``stride`` tokens; the last is moved back to the border.

    A side shorter than ``size`` is covered by one window of its length.
    """
    rows, columns = min(size, grid[0]), min(size, grid[1])
    return [
        Tile(row, column, rows, columns)
        for row in _starts(grid[0], rows, stride)
        for column in _starts(grid[1], columns, stride)
    ]


def cut(tokens: Tensor, windows: Sequence[Tile], grid: tuple[int, int]) -> Tensor:
    """Tokens (B, N, C) on ``grid`` of some windows of one size: (windows B, rows * columns, C)."""
    return torch.cat([tile.cut(tokens, grid) for tile in windows])


def tiled(
    velocity: TileVelocity, grid: tuple[int, int], *, size: int, stride: int, batch: int = 1
) -> Velocity:
    """Blend the velocities of overlapping tiles with Gaussian weights before each step.

    The weights are ``exp(-u^2)`` over linspace(-2, 2) in both directions (released inference code);
    the sums are fp32.

    Args:
        velocity: of some tiles: (their tokens as :func:`cut` gives them, sigma, tiles) -> the same
            shape.
        grid: token grid (rows, columns) of the whole image.
        size, stride: of the tiles, in tokens.
        batch: tiles that are evaluated together.
    """
    windows = tiles(grid, size, stride)
    batches = [windows[n : n + batch] for n in range(0, len(windows), batch)]

    def blended(x: Tensor, sigma: float) -> Tensor:
        if len(windows) == 1:  # to weight and to normalise would only round
            return velocity(x, sigma, windows)
        total = x.new_zeros(x.shape[0], *grid, x.shape[-1], dtype=torch.float32)
        norm = x.new_zeros(1, *grid, 1, dtype=torch.float32)
        parts = (
            part
            for some in batches
            for part in velocity(cut(x, some, grid), sigma, some).chunk(len(some))
        )
        for tile, part in zip(windows, parts, strict=True):
            weight = _gaussian(tile, x.device)
            where = (
                slice(None),
                slice(tile.row, tile.row + tile.rows),
                slice(tile.column, tile.column + tile.columns),
            )
            total[where] += weight * rearrange(part, "b (h w) c -> b h w c", h=tile.rows)
            norm[where] += weight
        return rearrange(total / norm, "b h w c -> b (h w) c")

    return blended


def _starts(length: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] + size == length else [*starts, length - size]


def _gaussian(tile: Tile, device: torch.device) -> Tensor:
    def profile(n: int) -> Tensor:
        return torch.exp(-torch.linspace(-2, 2, n, device=device).square())

    return (profile(tile.rows)[:, None] * profile(tile.columns)[None, :])[None, :, :, None]
