"""Codecs and packing against diffusers."""

import pytest
import torch
from diffusers import FluxPipeline

from genrefocus.backbone.codec import PixelCodec, VaeCodec, pack, unpack
from genrefocus.noise import seeded_generators


def test_packing_is_that_of_diffusers():
    latents = torch.randn(2, 5, 6, 8)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, *latents.shape))
    # Its unpacking takes the image's size, 8 pixels a latent.
    assert torch.equal(FluxPipeline._unpack_latents(tokens, 48, 64, 8), latents)
    assert torch.equal(unpack(tokens, 3, 4), latents)


@pytest.fixture
def vae(tiny_vae):
    return VaeCodec(tiny_vae(block_out_channels=(8, 8, 16), latent_channels=6))


def image(rows=2):
    return torch.rand(rows, 3, 24, 32, generator=seeded_generators(0, [0])[0]) * 2 - 1


def test_vae_shapes(vae):
    assert (vae.factor, vae.channels) == (4, 6)
    latents = vae.encode(image(), seeded_generators(0, [1, 2]))
    assert latents.shape == (2, 6, 6, 8) and not latents.requires_grad
    assert vae.decode(latents).shape == (2, 3, 24, 32)


def test_vae_noise_belongs_to_the_row(vae):
    both = vae.encode(image(), seeded_generators(0, [1, 2]))
    second = vae.encode(image()[1:], seeded_generators(0, [2]))
    other = vae.encode(image()[1:], seeded_generators(0, [3]))
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(second, other)
    with pytest.raises(AssertionError, match="one generator a row"):
        vae.encode(image(), ())


def test_vae_takes_any_dtype(vae):
    """The autoencoder may be kept in another precision than the transformer."""
    vae.to(torch.bfloat16)
    latents = vae.encode(image(), seeded_generators(0, [1, 2]))
    assert latents.dtype == torch.bfloat16
    assert vae.decode(latents.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pixel_codec_loses_nothing(factor):
    codec = PixelCodec(factor)
    latents = codec.encode(image(), ())
    assert latents.shape == (2, codec.channels, 24 // factor, 32 // factor)
    assert torch.equal(codec.decode(latents), image())


def test_a_vae_in_tiles_sees_no_more_than_a_tile_at_once(tiny_vae):
    codec, seen = VaeCodec(tiny_vae().bfloat16()), []
    codec.vae.enable_tiling()
    codec.vae.tile_sample_min_size, codec.vae.tile_latent_min_size = 16, 8
    for part in (codec.vae.encoder, codec.vae.decoder):
        part.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape[-2:])))
    latents = codec.encode(image(1), seeded_generators(0, [1]))
    decoded = codec.decode(latents)
    assert latents.shape[-2:] == (12, 16) and decoded.shape[-2:] == (24, 32)
    assert latents.dtype == decoded.dtype == torch.bfloat16
    assert len(seen) == 2 * 2 * 3 and max(map(max, seen)) == 16


def test_posteriors_are_kept_by_image_and_by_autoencoder(tiny_vae, tmp_path):
    settings = {"block_out_channels": (8, 8, 16), "latent_channels": 6}
    plain, keeping = (VaeCodec(tiny_vae(**settings), folder) for folder in (None, tmp_path))
    asked = []
    keeping.vae.encoder.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    for seed in (1, 2):
        noise = seeded_generators(seed, [1, 2])
        kept = keeping.encode(image(), seeded_generators(seed, [1, 2]), keep=True)
        assert torch.equal(kept, plain.encode(image(), noise))
    three = torch.cat([image()[1:], image().flip(-1)])
    keeping.encode(three, seeded_generators(0, [1, 2, 3]), keep=True)
    assert asked == [2, 2]  # both at first, and the two that were new
    other = tiny_vae(**settings)
    other.encoder.conv_in.bias += 1
    other = VaeCodec(other, tmp_path)
    noise = [seeded_generators(0, [1, 2]) for _ in "ab"]
    assert not torch.equal(
        other.encode(image(), noise[0], keep=True), plain.encode(image(), noise[1])
    )


def test_an_autoencoder_that_keeps_posteriors_is_on_the_device_while_it_computes(
    tiny_vae, tmp_path, monkeypatch
):
    codec, moved = VaeCodec(tiny_vae(), tmp_path), []
    codec.to("meta")
    assert {one.device.type for one in codec.vae.parameters()} == {"cpu"}
    monkeypatch.setattr(codec.vae, "to", lambda device: moved.append(torch.device(device).type))
    latents = codec.encode(image(), seeded_generators(0, [1, 2]))
    codec.decode(latents)
    assert moved == ["cpu"] * 4  # there and back, twice
