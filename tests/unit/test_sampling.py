"""Tiling: geometry, blending, and what it leaves alone."""

import numpy as np
import pytest
import torch
from einops import rearrange

from genrefocus.sampling import Tiling, denoise, tiled, tiles

GRIDS = [(32, 32), (40, 49), (32, 33), (60, 60), (61, 88), (20, 70), (5, 7)]


def tokens(grid, channels=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, grid[0] * grid[1], channels, generator=generator, dtype=dtype)


@pytest.mark.parametrize("grid", GRIDS)
def test_tiles_cover_every_token_and_end_at_the_border(grid):
    windows = tiles(grid, 32, 28)
    covered = np.zeros(grid, int)
    for tile in windows:
        assert (tile.rows, tile.columns) == (min(32, grid[0]), min(32, grid[1]))
        assert 0 <= tile.row <= grid[0] - tile.rows
        assert 0 <= tile.column <= grid[1] - tile.columns
        covered[tile.row : tile.row + tile.rows, tile.column : tile.column + tile.columns] += 1
    assert covered.min() >= 1
    assert max(tile.row + tile.rows for tile in windows) == grid[0]
    assert max(tile.column + tile.columns for tile in windows) == grid[1]
    assert len({(tile.row, tile.column) for tile in windows}) == len(windows)


def test_last_tile_is_moved_back_rather_than_added_in_the_rhythm():
    assert sorted({tile.row for tile in tiles((70, 32), 32, 28)}) == [0, 28, 38]
    assert sorted({tile.row for tile in tiles((60, 32), 32, 28)}) == [0, 28]


def test_cut_takes_the_window():
    grid = (6, 7)
    plane = torch.arange(42.0).view(1, 42, 1)
    tile = tiles(grid, 4, 2)[-1]
    expected = np.arange(42).reshape(grid)[2:6, 3:7].ravel()
    assert tile.cut(plane, grid).flatten().tolist() == expected.tolist()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_constant_velocity_is_reproduced(grid):
    """Whatever the weights: blended values that agree must come out as they went in."""
    step = tiled(lambda x, sigma, tiles: torch.full_like(x, 0.7), grid, size=32, stride=28)
    torch.testing.assert_close(
        step(tokens(grid), 0.5), torch.full_like(tokens(grid), 0.7), rtol=1e-5, atol=0
    )


def test_a_local_velocity_is_reproduced():
    """If a tile's velocity depends on each token alone, tiles change nothing, over a whole loop."""
    grid, sigmas = (40, 49), [1.0, 0.6, 0.2, 0.0]

    def velocity(x, sigma, *_):
        return x.sin() * sigma

    ours = denoise(tiled(velocity, grid, size=32, stride=28), tokens(grid), sigmas)
    torch.testing.assert_close(ours, denoise(velocity, tokens(grid), sigmas))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grid_no_larger_than_a_tile_is_untouched(dtype):
    """Bit for bit: to weight and to normalise would round in bf16."""
    grid = (20, 32)
    x = tokens(grid, dtype=dtype)
    step = tiled(lambda x, sigma, tiles: x * 0.3, grid, size=32, stride=28)
    assert torch.equal(step(x, 0.5), x * 0.3)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_blend_is_the_gaussian_mean_of_the_tiles(batch):
    """Tiles that answer with their own number, against a double loop in numpy."""
    grid, size = (40, 49), 32
    windows = tiles(grid, size, 28)

    def velocity(x, sigma, some):
        assert x.shape == (2 * len(some), size**2, 2) and len(some) <= batch
        assert torch.equal(x[-2:], some[-1].cut(tokens(grid), grid))
        numbers = torch.tensor([windows.index(tile) + 1.0 for tile in some])
        return numbers.repeat_interleave(2)[:, None, None].expand_as(x)

    step = tiled(velocity, grid, size=size, stride=28, batch=batch)
    ours = rearrange(step(tokens(grid), 0.5), "b (h w) c -> b h w c", h=grid[0])
    u = np.linspace(-2, 2, size)
    total, norm = np.zeros(grid), np.zeros(grid)
    for number, tile in enumerate(windows, 1):
        for i in range(size):
            for j in range(size):
                weight = np.exp(-(u[i] ** 2) - u[j] ** 2)
                total[tile.row + i, tile.column + j] += weight * number
                norm[tile.row + i, tile.column + j] += weight
    np.testing.assert_allclose(ours[1, :, :, 0], total / norm, rtol=1e-5)


def test_bf16_velocities_are_blended_in_fp32():
    grid = (40, 49)
    step = tiled(lambda x, sigma, tiles: x, grid, size=32, stride=28)
    x = tokens(grid, dtype=torch.bfloat16)
    torch.testing.assert_close(step(x, 0.5).float(), x.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "shorter", "longer"),
    [
        ((31, 31), False, False),
        ((31, 200), False, True),
        ((200, 31), False, True),
        ((32, 32), True, False),  # one tile counts as tiled in the released code
        ((32, 33), True, True),
        ((40, 49), True, True),
    ],
)
def test_when_tiling_applies(grid, shorter, longer):
    assert Tiling(when="shorter_edge").applies(grid) is shorter
    assert Tiling(when="longer_edge").applies(grid) is longer
    assert Tiling(when="never").applies(grid) is False
    windows = len(tiles(grid, 32, 28)) if shorter else 1
    for batch in (1, 2, 3, 100):
        assert Tiling(batch=batch).forwards(grid) == -(-windows // batch)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"size": 8, "stride": 9}, "gaps"),
        ({"size": 8, "stride": 0}, "gaps"),
        ({"when": "always"}, "always"),
        ({"batch": 0}, "0 tiles"),
    ],
)
def test_wrong_settings_are_named(settings, names):
    with pytest.raises(ValueError, match=names):
        Tiling(**settings)
