"""Pipelines from files: the card's word counts, and what does not fit is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genrefocus import network
from genrefocus.backbone import Backbone, Lora
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.quantised import quantise_blocks
from genrefocus.backbone.spelling import HashedWords
from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.flow import Flow, Shift
from genrefocus.network import MemoryUse, deblurnet_of_lora, deblurnet_of_run, load_networks
from genrefocus.network_card import (
    BOKEH_PROMPT,
    DEBLUR_PROMPT,
    NetworkCard,
    networks_of,
    released_card,
    write_network_card,
)
from genrefocus.noise import seeded_generators
from genrefocus.optics import BlurStrength
from genrefocus.pipeline import RefocusPipeline, load_pipeline
from genrefocus.sampling import Tiling
from lit_models import BokehNet

MakeCard = Callable[..., NetworkCard]
PHOTO = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))


def write_lora(path: Path, backbone: Backbone, rank: int = 2) -> None:
    lora = Lora.for_transformer(
        backbone.transformer, rank, generator=torch.Generator().manual_seed(0)
    )
    lora.save(path)


@pytest.fixture
def run(tmp_path: Path, tiny_settings: dict[str, Any], tiny_card: MakeCard) -> Path:
    base = tmp_path / "base.safetensors"
    backbone = build_tiny(**tiny_settings)
    save_tiny(backbone, base, settings=tiny_settings, card={})
    for task, guidance in (("deblur", 3.0), ("bokeh", 1.5)):
        folder = tmp_path / "run" / f"{task}net"
        folder.mkdir(parents=True)
        write_lora(folder / "lora.safetensors", backbone)
        write_network_card(folder, tiny_card(task, base, guidance=guidance))
    return tmp_path / "run"


def pipeline_from_run(run: Path, **settings: Any) -> RefocusPipeline:
    return load_pipeline(networks_of(run), run, **settings)


def test_a_run_is_asked_as_its_cards_say(run: Path) -> None:
    pipeline = pipeline_from_run(run)
    assert pipeline.deblur is not None
    assert pipeline.deblur.denoiser.backbone is pipeline.bokeh.denoiser.backbone
    assert (pipeline.deblur.prompt, pipeline.bokeh.prompt) == ("deblur please", "bokeh please")
    assert (pipeline.deblur.steps, pipeline.bokeh.steps) == (3, 3)
    for one, guidance in ((pipeline.deblur, 3.0), (pipeline.bokeh, 1.5)):
        assert one.denoiser.guidance == guidance
        assert one.denoiser.flow == Flow("residual")
        lora = one.denoiser.lora
        assert (
            lora is not None
            and lora.rank == 2
            and not any(p.requires_grad for p in lora.parameters())
        )
    prompts = {"deblur_prompt": "a sign that says EXIT", "bokeh_prompt": "a sign at night"}
    chosen = pipeline_from_run(run, **prompts, steps=1)
    assert chosen.deblur is not None and chosen.deblur.prompt == "a sign that says EXIT"
    assert chosen.bokeh.prompt == "a sign at night"
    assert (chosen.deblur.steps, chosen.bokeh.steps) == (1, 1)
    assert pipeline_from_run(run / "bokehnet", deblur=False).deblur is None


def test_a_direct_network_takes_the_photograph_as_it_is(
    run: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    base = tmp_path / "base.safetensors"
    write_network_card(run / "bokehnet", tiny_card("bokeh", base, variant="direct"))
    assert pipeline_from_run(run).deblur is None
    with pytest.raises(ValueError, match="no DeblurNet takes part"):
        pipeline_from_run(run, deblur_prompt="anything")


def test_what_is_missing_or_does_not_fit_is_named(
    run: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    base = tmp_path / "base.safetensors"
    with pytest.raises(FileNotFoundError, match="has no BokehNet"):
        pipeline_from_run(run / "deblurnet")
    with pytest.raises(FileNotFoundError, match="has no DeblurNet.*leave deblurring out"):
        pipeline_from_run(run / "bokehnet")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        pipeline_from_run(run, steps=0)
    write_network_card(run / "bokehnet", tiny_card("bokeh", base, rank=8))
    with pytest.raises(ValueError, match="has rank 2 but its card says 8"):
        pipeline_from_run(run)


def test_a_network_with_a_draft_is_asked_with_one(
    run: Path, tmp_path: Path, tiny_card: MakeCard
) -> None:
    base = tmp_path / "base.safetensors"
    write_network_card(run / "deblurnet", tiny_card("deblur", base, variant="pre_deblur"))
    with pytest.raises(ValueError, match="reads a deblurred draft"):
        deblurnet_of_run(run, outputs=tmp_path)
    pipeline = pipeline_from_run(run)
    torch.manual_seed(0)
    photo, draft, other = torch.rand(3, 3, 40, 48)
    disparity = torch.linspace(0, 1, 48).expand(40, 48)
    given = {"focus": (3, 3), "disparity": disparity}
    with pytest.raises(ValueError, match="give one .--draft FILE."):
        pipeline.prepare(photo, **given)
    with pytest.raises(ValueError, match="the draft is 47x40 px"):
        pipeline.prepare(photo, **given, draft=draft[..., 1:])
    first, second = (pipeline.prepare(photo, **given, draft=one).aif for one in (draft, other))
    assert first.shape == photo.shape and not torch.equal(first, second)
    scaled = pipeline.prepare(photo, **given, draft=draft, long_edge=32)
    assert scaled.aif.shape == (3, 24, 32)
    with pytest.raises(ValueError, match="no DeblurNet takes part that reads a draft"):
        pipeline_from_run(run, deblur=False).prepare(photo, **given, draft=draft)


class CountingWords(HashedWords):
    calls: list[list[str]]

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        return super().__call__(prompts)


@pytest.fixture
def flux(monkeypatch: pytest.MonkeyPatch, tiny_flux: Any, tiny_vae: Any) -> Backbone:
    """Stands in for FLUX.1-dev: its classes, an autoencoder of factor 2, 4 px a token."""
    words = CountingWords(4, 16, 16)
    words.calls = []
    backbone = Backbone(
        tiny_flux(joint_attention_dim=16, pooled_projection_dim=16),
        VaeCodec(tiny_vae(block_out_channels=(8, 8))),
        words,
        shift=Shift(),
        tiling=Tiling(4, 3),
    )
    backbone.words = words  # type: ignore[assignment]
    monkeypatch.setattr(network, "load_flux_dev", lambda path, **settings: backbone)
    return backbone


def test_flux_with_released_loras(flux: Backbone, tmp_path: Path) -> None:
    for name in ("deblurNet", "bokehNet"):
        write_lora(tmp_path / f"{name}.safetensors", flux)
    cards = {
        task: released_card(task, "folder", tmp_path / f"{task}Net.safetensors")  # type: ignore[arg-type]
        for task in ("deblur", "bokeh")
    }
    use = MemoryUse(vae_tiling=True, tile_batch=3, cache_gib=0.5)
    pipeline = load_pipeline(cards, "folder", steps=1, memory=use)  # type: ignore[arg-type]
    assert pipeline.deblur is not None
    assert pipeline.deblur.denoiser.backbone is pipeline.bokeh.denoiser.backbone is flux
    assert flux.codec.vae.use_tiling and flux.tiling.batch == 3  # type: ignore[attr-defined]
    assert pipeline.bokeh.denoiser.cache_gib == pipeline.deblur.denoiser.cache_gib == 0.5
    disparity = torch.linspace(0.1, 1, 15 * 23).reshape(15, 23)
    scene = pipeline.prepare(PHOTO[:, :15, :23], focus=(0, 0), disparity=disparity)
    assert scene.whole_tokens.shape == (3, 16, 24) and scene.aif.isfinite().all()
    # The text encoders are large: they are loaded once, for both prompts.
    assert flux.words.calls == [  # type: ignore[union-attr]
        sorted([DEBLUR_PROMPT, BOKEH_PROMPT])
    ]


def test_captions_of_many_photographs_are_encoded_at_once(flux: Backbone, tmp_path: Path) -> None:
    write_lora(tmp_path / "deblurNet.safetensors", flux)
    deblur = deblurnet_of_lora(
        "folder",
        lora=tmp_path / "deblurNet.safetensors",
        steps=1,
        prompts=["a sign", "a plant"],
        embeddings=tmp_path / "prompts",
    )
    assert flux.words.calls == [sorted([DEBLUR_PROMPT, "a sign", "a plant"])]  # type: ignore[union-attr]
    photos = PHOTO[None, :, :16, :24].repeat(2, 1, 1, 1)
    answers = deblur(photos, [3, 3], prompts=["a sign", None])
    assert len(flux.words.calls) == 1  # type: ignore[union-attr]
    own = replace(deblur, prompt="a sign")(photos[:1], [3])[0]
    generic = deblur(photos[:1], [3])[0]
    torch.testing.assert_close(answers, torch.stack([own, generic]))
    assert (own - generic).abs().max() > 1e-3
    with pytest.raises(ValueError, match="'a tree' has no embedding"):
        deblur(photos[:1], prompts=["a tree"])


def test_the_base_is_quantised_as_in_training_or_as_asked(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao")
    cards = networks_of(run)
    trained = replace(cards["deblur"], backbone=replace(cards["deblur"].backbone, quantise="fp8"))
    write_network_card(run / "deblurnet", trained)
    assert networks_of(run)["deblur"].backbone.quantise == "fp8"
    for one in (None, "none", "int8"):
        networks = load_networks(networks_of(run), memory=MemoryUse(quantise=one))  # type: ignore[arg-type]
        bases = [networks[task].denoiser.backbone.transformer for task in ("deblur", "bokeh")]  # type: ignore[index]
        assert (bases[0] is bases[1]) == (one is not None)
        dtypes = [base.transformer_blocks[0].attn.to_q.weight.dtype for base in bases]
        expected = {None: [torch.float8_e4m3fn, torch.float32], "int8": [torch.int8] * 2}
        assert dtypes == expected.get(one, [torch.float32] * 2)


@pytest.mark.parametrize("how", ["int8", "fp8", "nf4"])
def test_quantised_flux_is_offloaded_where_it_can_be(how: Any, flux: Backbone) -> None:
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    quantise_blocks(flux.transformer, how)
    if how == "nf4":
        with pytest.raises(ValueError, match="nf4 weights cannot be offloaded; take int8 or fp8"):
            flux.offload("cpu")
        return
    conditions = Conditions(["a photo"], torch.rand(1, 3, 16, 16))
    latents = Denoiser(flux, Flow()).encode(conditions, seeded_generators(0, [0]))
    before = Denoiser(flux, Flow()).sample_tokens(latents, 1)
    flux.offload("cpu")
    assert torch.equal(Denoiser(flux, Flow()).sample_tokens(latents, 1), before)
    assert {p.device.type for p in flux.transformer.parameters()} == {"meta"}


@pytest.mark.parametrize("isolated", [False, True])
def test_offloaded_flux_gives_the_same_image(
    isolated: bool, flux: Backbone, tmp_path: Path
) -> None:
    """Between forwards its weights are on the meta device: a layer that misses them would fail."""
    write_lora(tmp_path / "bokehNet.safetensors", flux)
    card = released_card("bokeh", "folder", tmp_path / "bokehNet.safetensors")
    cards = {"bokeh": replace(card, steps=2, isolate_conditions=isolated)}
    image, control = torch.rand(1, 3, 32, 24), torch.rand(1, 1, 32, 24)
    images, names = [], [name for name, _ in flux.transformer.named_parameters()]
    for offload in (False, True):
        network = load_networks(cards, memory=MemoryUse(offload=offload))["bokeh"]  # type: ignore[arg-type]
        noise = seeded_generators(0, [0])
        images.append(network.generate(image, noise, control=control))
    assert torch.equal(*images)
    assert {p.device.type for p in flux.transformer.parameters()} == {"meta"}
    assert names == [name for name, _ in flux.transformer.named_parameters()]
    assert flux.device.type == "cpu" and flux.dtype == torch.float32


def test_a_half_control_network_is_sampled_as_it_was_trained(
    flux: Backbone, tmp_path: Path, network_settings: dict[str, Any]
) -> None:
    """By its card whole and in tiles, at any size; its LoRA file alone is refused."""
    flux.tiling = Tiling(4, 2)
    module = BokehNet(flux, half_control=True, **network_settings)
    torch.nn.init.normal_(module.lora.lora_b["x_embedder"], std=0.5)
    file = tmp_path / "bokehNet.safetensors"
    module.lora.save(file, metadata=module.lora_metadata)
    card = released_card("bokeh", "folder", file, steps=2)
    with pytest.raises(ValueError, match=r"trained with half_control=true.*--run"):
        load_networks({"bokeh": card})
    network = load_networks({"bokeh": replace(card, half_control=True)})["bokeh"]
    assert network.denoiser.half_control
    seen: list[int] = []
    flux.transformer.x_embedder.register_forward_hook(lambda _, __, x: seen.append(x.shape[1]))
    pipeline = RefocusPipeline(None, network)
    for photo, tokens in ((PHOTO, 16 + 16 + 4), (PHOTO[:, :7, :15], 8 + 8 + 2)):
        disparity = torch.linspace(0.1, 1, photo[0].numel()).reshape(photo.shape[1:])
        scene = pipeline.prepare(photo, focus=(0, 0), disparity=disparity)
        assert not any(side % 8 for side in scene.whole_tokens.shape[1:])
        size = photo.shape[-2], photo.shape[-1]
        images = [pipeline.refocus(scene, BlurStrength(k, *size)).image for k in (0.0, 500.0)]
        assert images[0].shape == photo.shape and not torch.equal(*images)
        assert {*seen} == {tokens}
        seen.clear()


def test_the_text_encoders_are_gone_before_flux_moves(
    flux: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lora(tmp_path / "bokehNet.safetensors", flux)
    cards = {"bokeh": released_card("bokeh", "folder", tmp_path / "bokehNet.safetensors")}
    done: list[str] = []
    monkeypatch.setattr(flux.prompts, "learn", lambda *_: done.append("prompts"))
    monkeypatch.setattr(flux, "to", lambda *_: done.append("transformer"))
    load_networks(cards, device="cpu")  # type: ignore[arg-type]
    assert done == ["prompts", "transformer"]


def test_flux_needs_its_lora_files_first(flux: Backbone, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors does not exist"):
        card = released_card("bokeh", "folder", tmp_path / "absent.safetensors")
        load_pipeline({"bokeh": card}, "folder", deblur=False)
