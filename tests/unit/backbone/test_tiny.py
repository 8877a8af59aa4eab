"""The tiny backbone: convolutions around its transformer, its images and its weight file."""

import pytest
import torch

from genrefocus.backbone.codec import pack, unpack
from genrefocus.backbone.tiny import PixelCodec, PixelPath, build_tiny, load_tiny, save_tiny

GRID = (4, 6)  # tokens of 8 px


@pytest.fixture
def path() -> PixelPath:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PixelPath(8, width=6, features=5, steering=2, head_width=7, head_blocks=2)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def tokens_of(images: torch.Tensor) -> torch.Tensor:
    return pack(PixelCodec(4).encode(images, ()))


def image_of(tokens: torch.Tensor) -> torch.Tensor:
    return PixelCodec(4).decode(unpack(tokens, *GRID))


def test_tokens_enter_with_features_beside_them(path: PixelPath, images: torch.Tensor) -> None:
    entered, maps = path.enter(tokens_of(images), GRID)
    assert entered.shape == (2, 24, path.in_channels) and maps.shape == (2, 6, 16, 24)
    assert torch.equal(entered[..., :192], tokens_of(images))


def test_a_head_at_zero_returns_what_the_transformer_drew(
    path: PixelPath, images: torch.Tensor
) -> None:
    torch.nn.init.zeros_(path.last.weight)
    torch.nn.init.zeros_(path.last.bias)
    _, maps = path.enter(tokens_of(images), GRID)
    steering = torch.randn(2, 24, path.out_channels - 192)
    left = path.leave(torch.cat([tokens_of(images), steering], -1), maps, GRID)
    assert torch.equal(left, tokens_of(images))


def test_steering_acts_where_it_is_said(path: PixelPath, images: torch.Tensor) -> None:
    """A change in one token's steering moves the image there, and nowhere far from it."""
    _, maps = path.enter(tokens_of(images), GRID)
    output = torch.zeros(2, 24, path.out_channels)
    changed = output.clone()
    changed[:, 0, 192:] = 1.0  # the token at the top left
    difference = image_of(path.leave(changed, maps, GRID) - path.leave(output, maps, GRID)).abs()
    reach = 2 * (1 + 2 * 2 + 1)  # convolutions of the head at half the resolution, in px
    assert difference[..., :8, :8].amax() > 1e-4
    assert difference[..., 8 + reach :, :].amax() < 1e-6
    assert difference[..., 8 + reach :].amax() < 1e-6


def test_features_are_those_of_the_place(path: PixelPath, images: torch.Tensor) -> None:
    """Shifting an image by one token shifts its features, away from the borders."""
    shifted = tokens_of(images.roll(8, dims=-1))
    both = [path.enter(t, GRID)[0].unflatten(1, GRID) for t in (tokens_of(images), shifted)]
    torch.testing.assert_close(both[0][:, 1:3, 1:3], both[1][:, 1:3, 2:4])


# Images and weights.


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return {**tiny_settings, "pixel_factor": 2, "control_gain": 4.0, "tile": 8, "tile_stride": 6}


@pytest.fixture(scope="module")
def backbone(settings):
    return build_tiny(**settings).requires_grad_(False).eval()


def test_control_is_not_rescaled_but_amplified_as_the_backbone_says(backbone):
    control = torch.full((1, 1, 16, 24), 0.125)
    assert torch.equal(backbone.encode_control(control), torch.full((1, 24, 48), 0.5))
    image = torch.full((1, 3, 16, 24), 0.75)
    assert torch.equal(backbone.encode_image(image), torch.full((1, 24, 48), 0.5))


def test_tiny_images_survive_the_way_there_and_back(backbone):
    image = torch.rand(1, 3, 16, 24)
    decoded = backbone.decode(backbone.encode_image(image), (4, 6))
    torch.testing.assert_close(decoded, image, rtol=0, atol=1e-5)


def test_sizes_that_do_not_fit_are_named(backbone):
    with pytest.raises(ValueError, match="22x16 px: both sides must be multiples of 4"):
        backbone.encode_image(torch.zeros(1, 3, 16, 22))


def test_tiny_weights_round_trip_in_half_precision(backbone, settings, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_tiny(backbone, path, settings=settings, card={"steps": "7"})
    before = torch.get_rng_state()
    loaded = load_tiny(path)
    assert torch.equal(torch.get_rng_state(), before)
    expected = backbone.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name].half().float(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert (loaded.tiling.size, loaded.control_gain) == (8, 4.0)


@pytest.mark.parametrize(
    ("written", "error"),
    [
        (None, FileNotFoundError),
        (lambda settings: {}, ValueError),
        (lambda settings: {**settings, "local": {**settings["local"], "width": 7}}, ValueError),
        (lambda settings: {**settings, "speed": 1}, ValueError),
    ],
    ids=["missing", "no settings", "other shapes", "unknown setting"],
)
def test_wrong_tiny_weights_are_one_line_with_a_remedy(
    written, error, backbone, settings, tmp_path
):
    path = tmp_path / "tiny.safetensors"
    if written is not None:
        save_tiny(backbone, path, settings=written(settings), card={})
    with pytest.raises(error, match="experiment=tiny_base") as raised:
        load_tiny(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
