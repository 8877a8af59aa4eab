"""The FLUX path at tiny size: a pipeline folder in diffusers' own format, read by the real code."""

import gc
import json
import shutil
import string
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from genrefocus.backbone import Lora, load_flux_dev
from genrefocus.backbone.quantised import all_weights
from genrefocus.denoiser import Conditions, Denoiser, Latents
from genrefocus.flow import Flow
from genrefocus.noise import seeded_generators

PROMPT = "a sharp photo with everything in focus"
OTHER = "an excellent photo with a large aperture"


def tokenizers():
    """Character tokenizers: the real classes, with a vocabulary of letters."""
    letters = string.ascii_lowercase
    clip = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    t5 = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
    return (
        CLIPTokenizer(
            vocab={token: i for i, token in enumerate(clip)}, merges=[], model_max_length=77
        ),
        T5TokenizerFast(
            vocab=[(token, -float(i)) for i, token in enumerate(t5)],
            extra_ids=0,
            model_max_length=512,
        ),
    )


@pytest.fixture(scope="module")
def pipeline(tiny_flux, tiny_vae):
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = tokenizers()
    built = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift=3.0, base_shift=0.4, max_image_seq_len=2048
        ),
        transformer=tiny_flux(
            num_layers=1, num_single_layers=1, joint_attention_dim=24, pooled_projection_dim=20
        ),
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=20,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer_2), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2
            )
        ),
        tokenizer_2=tokenizer_2,
    )
    for model in (built.text_encoder, built.text_encoder_2):
        model.requires_grad_(False).eval()
    built.set_progress_bar_config(disable=True)
    return built


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("flux")
    pipeline.save_pretrained(path)
    return str(path)


@pytest.fixture
def backbone(folder):
    return load_flux_dev(folder, dtype=torch.float32, max_text_length=40)


def images(size=32):
    generator = torch.Generator().manual_seed(1)
    source, target = torch.rand(2, 2, 3, size, size, generator=generator)
    return source, torch.rand(2, 1, size, size, generator=generator), target


# Loading.


def test_it_is_frozen_and_in_its_dtype(folder):
    backbone = load_flux_dev(folder, checkpointing="feed_forward")
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.transformer.modules())
    assert backbone.checkpointing == "feed_forward"
    assert backbone.pixels_per_token == 4  # the tiny autoencoder halves once
    shift = backbone.shift
    assert (shift.base_tokens, shift.max_tokens) == (256, 2048)
    assert (shift.base_mu, shift.max_mu) == (0.4, 1.15)
    # The autoencoder moves with the backbone.
    assert any(name.startswith("codec.vae.") for name, _ in backbone.named_parameters())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        load_flux_dev(str(tmp_path / "nowhere"))


def test_a_schedule_without_shift_is_refused(folder, tmp_path):
    copy = tmp_path / "schnell"
    shutil.copytree(folder, copy)
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dynamic_shifting": False}))
    with pytest.raises(ValueError, match="no dynamic shifting"):
        load_flux_dev(str(copy))


@pytest.mark.parametrize("given", ["auto", "some", 0, -1, True, None])
def test_a_checkpointing_that_is_not_there(given, folder):
    with pytest.raises(ValueError, match=f"checkpointing={given}: give none, feed_forward, all,"):
        load_flux_dev(folder, checkpointing=given)


@pytest.mark.parametrize("how", ["int8", "fp8", "nf4"])
def test_it_is_loaded_quantised(how, folder, backbone):
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    small = load_flux_dev(folder, dtype=torch.float32, max_text_length=40, quantise=how)
    sizes = [sum(x.nbytes for x in all_weights(one.transformer)) for one in (small, backbone)]
    assert sizes[0] < 0.6 * sizes[1]
    assert small.dtype == torch.float32 and not any(p.requires_grad for p in small.parameters())
    source, _, target = images()
    given = Conditions([PROMPT] * 2, source), seeded_generators(0, [0, 1]), target
    losses = []
    for one in (small, backbone):
        denoiser = Denoiser(one, Flow())
        losses.append(denoiser.loss(denoiser.encode(*given), torch.tensor([0.3, 0.7])))
    torch.testing.assert_close(*losses, rtol=0.1, atol=0)
    assert not torch.equal(*losses)


# Against the pipeline.


@torch.no_grad()
def test_prompts_are_embedded_as_in_the_pipeline(pipeline, backbone):
    embedded = backbone.embed([OTHER, PROMPT, OTHER])
    tokens, pooled, _ = pipeline.encode_prompt([OTHER, PROMPT, OTHER], None, max_sequence_length=40)
    assert embedded.tokens.shape == (3, 40, 24) and embedded.pooled.shape == (3, 20)
    torch.testing.assert_close(embedded.tokens, tokens)
    torch.testing.assert_close(embedded.pooled, pooled)
    assert not torch.allclose(embedded.pooled[0], embedded.pooled[1])


def test_text_encoders_are_dropped_after_use(backbone, monkeypatch):
    loaded = []
    load = FluxPipeline.from_pretrained

    def watched(*args, **kwargs):
        pipeline = load(*args, **kwargs)
        loaded.extend(weakref.ref(m) for m in (pipeline.text_encoder, pipeline.text_encoder_2))
        assert pipeline.transformer is None and pipeline.vae is None
        return pipeline

    monkeypatch.setattr(FluxPipeline, "from_pretrained", watched)
    gc.disable()  # without waiting for the collector: the memory is needed at once
    try:
        backbone.embed([PROMPT])
        assert len(loaded) == 2 and all(reference() is None for reference in loaded)
    finally:
        gc.enable()
    backbone.embed([PROMPT, PROMPT])
    assert len(loaded) == 2  # known prompts load nothing


@torch.no_grad()
def test_images_are_encoded_as_in_the_pipeline(pipeline, backbone):
    """Posterior sample, shifted, scaled and packed; the same generator gives the same latents."""
    source, _, _ = images()
    ours = backbone.encode_image(source, seeded_generators(0, [1, 2]))
    preprocessed = pipeline.image_processor.preprocess(source)
    posterior = pipeline.vae.encode(preprocessed).latent_dist
    latents = posterior.sample(seeded_generators(0, [1, 2]))
    latents = (latents - 0.1159) * 0.3611
    torch.testing.assert_close(ours, pipeline._pack_latents(latents, *latents.shape))
    deterministic = (posterior.mean - 0.1159) * 0.3611
    assert not torch.allclose(latents, deterministic)


@torch.no_grad()
def test_decoding_is_that_of_the_pipeline(pipeline, backbone):
    tokens = torch.randn(1, 64, 16)
    ours = backbone.decode(tokens, (8, 8))
    latents = pipeline._unpack_latents(tokens, 32, 32, pipeline.vae_scale_factor)
    decoded = pipeline.vae.decode(latents / 0.3611 + 0.1159, return_dict=False)[0]
    expected = pipeline.image_processor.postprocess(decoded, output_type="pt")
    torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_text_to_image_is_that_of_the_pipeline(pipeline, backbone):
    """The whole of it, from prompt to pixels: without conditions our sampler is the pipeline."""
    noise = torch.randn(1, 64, 16)
    expected = pipeline(
        PROMPT,
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        latents=noise,
        max_sequence_length=40,
        output_type="pt",
    ).images
    denoiser = Denoiser(backbone, Flow(), guidance=3.5)
    latents = Latents(backbone.embed([PROMPT]), [], noise, noise, None, (8, 8))
    torch.testing.assert_close(denoiser.sample(latents, 4), expected, rtol=1e-4, atol=1e-5)


def test_one_process_encodes_and_the_others_read(folder, backbone, tmp_path, monkeypatch):
    settings = {"dtype": torch.float32, "max_text_length": 40, "prompts": tmp_path}
    expected = backbone.embed([PROMPT, OTHER])
    assert load_flux_dev(folder, **settings).prompts.learn([PROMPT, OTHER], backbone.device) == 2
    monkeypatch.setattr(FluxPipeline, "from_pretrained", None)  # nothing can be loaded
    found = load_flux_dev(folder, **settings).embed([PROMPT, OTHER])
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.pooled, expected.pooled)
    other = load_flux_dev(folder, **{**settings, "max_text_length": 20})
    with pytest.raises(ValueError, match="has no embedding"):
        other.embed([PROMPT])  # another encoder, whose embeddings nobody has computed


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says what is mapped")
def test_weights_are_mapped_from_their_file(backbone):
    """Ranks of a machine share its pages; a copy for each would be 24 GB of FLUX.1-dev."""
    mapped = [
        tuple(int(edge, 16) for edge in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith("/transformer/diffusion_pytorch_model.safetensors")
    ]
    for weight in backbone.transformer.parameters():
        assert any(start <= weight.data_ptr() < stop for start, stop in mapped)


# An edit through it, as training and validation do it.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_edit_trains_and_samples(dtype, folder):
    backbone = load_flux_dev(folder, dtype=dtype, max_text_length=40)
    lora = Lora.for_transformer(backbone.transformer, 4, generator=seeded_generators(0, [0])[0])
    denoiser = Denoiser(backbone, Flow(), lora, guidance=3.5)
    source, control, target = images()
    conditions = Conditions([PROMPT, OTHER], source, control, draft=target)
    with torch.inference_mode():  # validation comes first in a Lightning run
        image = denoiser.sample(denoiser.encode(conditions, seeded_generators(7, [1, 2])), 2)
    assert image.shape == (2, 3, 32, 32) and image.dtype == torch.float32
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1

    latents = denoiser.encode(conditions, seeded_generators(7, [1, 2]), target)
    loss = denoiser.loss(latents, torch.tensor([0.3, 0.8]))
    assert loss.shape == (2,) and loss.dtype == torch.float32
    loss.mean().backward()
    assert {p.dtype for p in lora.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in lora.parameters()} == {torch.float32}
    assert all(p.grad.isfinite().all() for p in lora.parameters())
    assert any(p.grad.any() for p in lora.lora_b.values())
    assert all(p.grad is None for p in backbone.parameters())


def test_bf16_loss_is_close_to_fp32(folder):
    source, control, target = images()
    conditions, losses = Conditions([PROMPT, PROMPT], source, control), []
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = Denoiser(load_flux_dev(folder, dtype=dtype, max_text_length=40), Flow())
        latents = denoiser.encode(conditions, seeded_generators(7, [1, 2]), target)
        losses.append(denoiser.loss(latents, torch.tensor([0.3, 0.8])).detach())
    full, half = losses
    torch.testing.assert_close(half, full, rtol=2e-2, atol=0)


def test_conditions_keep_their_released_order_and_shift(backbone):
    source, control, target = images()
    given = Conditions([PROMPT] * 2, source, control, draft=target)
    latents = Denoiser(backbone, Flow()).encode(given, seeded_generators(0, [1, 2]))
    conditions = latents.conditions
    assert [condition.shift for condition in conditions] == [(0, 32), (0, 0), (0, 0)]
    assert latents.source is conditions[1].tokens
    # The map is encoded as it is, three equal channels in [0, 1].
    generators = seeded_generators(0, [1, 2])
    backbone.encode_image(target, generators), backbone.encode_image(source, generators)
    as_image = backbone.encode_image((control.expand(-1, 3, -1, -1) + 1) / 2, generators)
    torch.testing.assert_close(conditions[2].tokens, as_image)
