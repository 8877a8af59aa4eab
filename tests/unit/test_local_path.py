"""Convolutions around the tiny transformer: packing, what the head may see, and how far."""

import pytest
import torch

from genrefocus.backbone.codec import PixelCodec, pack, unpack
from genrefocus.backbone.local_path import LocalPath

GRID = (4, 6)  # tokens of 8 px


@pytest.fixture
def path() -> LocalPath:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalPath(8, width=6, features=5, steering=2, head_width=7, head_blocks=2)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def tokens_of(images: torch.Tensor) -> torch.Tensor:
    return pack(PixelCodec(4).encode(images, ()))


def image_of(tokens: torch.Tensor) -> torch.Tensor:
    return PixelCodec(4).decode(unpack(tokens, *GRID))


def test_tokens_enter_with_features_beside_them(path: LocalPath, images: torch.Tensor) -> None:
    entered, maps = path.enter(tokens_of(images), GRID)
    assert entered.shape == (2, 24, path.in_channels) and maps.shape == (2, 6, 16, 24)
    assert torch.equal(entered[..., :192], tokens_of(images))


def test_a_head_at_zero_returns_what_the_transformer_drew(
    path: LocalPath, images: torch.Tensor
) -> None:
    torch.nn.init.zeros_(path.last.weight)
    torch.nn.init.zeros_(path.last.bias)
    _, maps = path.enter(tokens_of(images), GRID)
    steering = torch.randn(2, 24, path.out_channels - 192)
    left = path.leave(torch.cat([tokens_of(images), steering], -1), maps, GRID)
    assert torch.equal(left, tokens_of(images))


def test_steering_acts_where_it_is_said(path: LocalPath, images: torch.Tensor) -> None:
    """A change in one token's steering moves the picture there, and nowhere far from it."""
    _, maps = path.enter(tokens_of(images), GRID)
    output = torch.zeros(2, 24, path.out_channels)
    changed = output.clone()
    changed[:, 0, 192:] = 1.0  # the token at the top left
    difference = image_of(path.leave(changed, maps, GRID) - path.leave(output, maps, GRID)).abs()
    reach = 2 * (1 + 2 * 2 + 1)  # convolutions of the head at half the resolution, in px
    assert difference[..., :8, :8].amax() > 1e-4
    assert difference[..., 8 + reach :, :].amax() < 1e-6
    assert difference[..., 8 + reach :].amax() < 1e-6


def test_features_are_those_of_the_place(path: LocalPath, images: torch.Tensor) -> None:
    """Shifting a picture by one token shifts its features, away from the borders."""
    shifted = tokens_of(images.roll(8, dims=-1))
    both = [path.enter(t, GRID)[0].unflatten(1, GRID) for t in (tokens_of(images), shifted)]
    torch.testing.assert_close(both[0][:, 1:3, 1:3], both[1][:, 1:3, 2:4])
