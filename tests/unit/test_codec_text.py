"""Codecs and packing against diffusers; prompt embeddings that never change."""

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline

from genrefocus.backbone import TextEmbedding
from genrefocus.backbone.codec import PixelCodec, VaeCodec, pack, unpack
from genrefocus.backbone.text import HashedWords, PromptCache
from genrefocus.noise import seeded_generators


def test_packing_is_that_of_diffusers():
    latents = torch.randn(2, 5, 6, 8)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, *latents.shape))
    # Its unpacking takes the image's size, 8 pixels a latent.
    assert torch.equal(FluxPipeline._unpack_latents(tokens, 48, 64, 8), latents)
    assert torch.equal(unpack(tokens, 3, 4), latents)


# Codecs.


@pytest.fixture
def vae():
    return VaeCodec(
        AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=6,
            shift_factor=0.1,
            scaling_factor=0.4,
        )
    )


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


# Text.


def test_hashed_words_are_the_same_for_ever():
    """Weights trained with them are shipped, so the numbers are pinned, not only repeatable."""
    embedded = HashedWords(2, 16, 20)(["blur image"])
    assert embedded.tokens[0, 0, :3].tolist() == pytest.approx(
        [0.771978, -0.665574, -1.514921], abs=1e-5
    )
    assert embedded.tokens[0, 1, -2:].tolist() == pytest.approx([-0.551643, -0.044535], abs=1e-5)
    assert embedded.pooled[0, :2].tolist() == pytest.approx([-0.326747, 0.189754], abs=1e-5)


def test_hashed_words_tell_prompts_apart():
    prompts = ["restore this image", "blur this image", "", "one two three four five six"]
    before = torch.get_rng_state()
    embedded = HashedWords(4, 64, 32)(prompts)
    assert torch.equal(torch.get_rng_state(), before)
    assert embedded.tokens.shape == (4, 4, 64) and embedded.pooled.shape == (4, 32)
    assert not embedded.tokens[2].any() and not embedded.pooled[2].any()
    # Equal words are equal vectors, whatever stands before them; upper case makes no difference.
    assert torch.equal(embedded.tokens[0, 2], embedded.tokens[1, 2])
    assert torch.equal(HashedWords(4, 64, 32)(["Restore THIS image"]).pooled[0], embedded.pooled[0])
    assert not torch.equal(embedded.tokens[0, 0], embedded.tokens[1, 0])
    # Words beyond the last token still count in the pooled vector.
    shorter = HashedWords(4, 64, 32)(["one two three four five"])
    assert torch.equal(shorter.tokens[0], embedded.tokens[3])
    assert not torch.equal(shorter.pooled[0], embedded.pooled[3])


class Counting:
    """An encoder that embeds a prompt as its length, and counts."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return TextEmbedding(lengths.view(-1, 1, 1).expand(-1, 3, 2), lengths[:, None])


def test_every_prompt_is_encoded_once():
    encoder = Counting()
    cache = PromptCache(encoder)
    rows = cache(["bb", "a", "bb"], torch.device("cpu"), torch.bfloat16)
    assert rows.pooled.flatten().tolist() == [2, 1, 2]
    assert rows.tokens.shape == (3, 3, 2)
    assert rows.tokens.dtype == rows.pooled.dtype == torch.bfloat16
    again = cache(["ccc", "a"], torch.device("cpu"), torch.bfloat16)
    assert again.pooled.flatten().tolist() == [3, 1]
    assert encoder.calls == [["a", "bb"], ["ccc"]]


def test_prompts_known_from_inference_serve_training():
    cache = PromptCache(Counting())
    with torch.inference_mode():
        cache(["a"], torch.device("cpu"), torch.float32)
    weight = torch.ones(2, requires_grad=True)
    (cache(["a"], torch.device("cpu"), torch.float32).tokens * weight).sum().backward()
    assert weight.grad.tolist() == pytest.approx([3, 3], rel=1e-5)
