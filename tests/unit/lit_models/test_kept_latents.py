"""Training from kept posteriors is training from images: each step still samples them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genrefocus.backbone import Backbone
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.spelling import HashedWords
from genrefocus.flow import Flow, Shift
from genrefocus.sampling import Tiling
from lit_models import BokehNet

Build = Callable[[Path | None], BokehNet]


@pytest.fixture
def build(tiny_flux: Any, tiny_vae: Any, network_settings: dict[str, Any]) -> Build:
    """(folder of posteriors) -> BokehNet on a tiny FLUX with a tiny autoencoder in bf16."""

    def make(folder: Path | None) -> BokehNet:
        backbone = Backbone(
            tiny_flux(joint_attention_dim=16, pooled_projection_dim=16),
            VaeCodec(tiny_vae().bfloat16(), folder),
            HashedWords(4, 16, 16),
            shift=Shift(),
            tiling=Tiling(),
        )
        module = BokehNet(backbone, **{**network_settings, "flow": Flow()})
        for b in module.lora.lora_b.values():
            torch.nn.init.normal_(b, std=0.1, generator=torch.Generator().manual_seed(0))
        return module

    return make


def batch(*draws: int, samples: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    generators = [torch.Generator().manual_seed(n) for n in samples]
    aif, bokeh = (
        torch.stack([torch.rand(3, 16, 24, generator=g) for g in generators]) for _ in "ab"
    )
    defocus = torch.stack([torch.rand(1, 16, 24, generator=g) for g in generators])
    named = {"key": [f"{n}" for n in samples], "prompt": [None] * len(samples)}
    images = {"aif": aif, "bokeh": bokeh, "defocus": defocus}
    return {**named, **images, "route": ["synthetic"] * len(samples), "draw": list(draws)}


def step(module: BokehNet, given: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    loss = module.training_step(given, 0)
    return loss, list(torch.autograd.grad(loss, list(module.lora.parameters())))


def test_a_step_from_kept_posteriors_is_one_from_images(build: Build, tmp_path: Path) -> None:
    plain, first, second = build(None), build(tmp_path), build(tmp_path)
    expected = [step(plain, batch(*draws)) for draws in ((5, 6), (7, 8))]
    assert not torch.equal(expected[0][0], expected[1][0])  # other noise, other posterior samples
    found = [step(first, batch(5, 6))]
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2 * 3  # source, map and target of each sample

    def computed(*_: Any) -> None:
        raise AssertionError("the autoencoder was asked")

    codec = second.backbone.codec
    assert isinstance(codec, VaeCodec)
    codec.vae.encoder.register_forward_pre_hook(computed)
    found.append(step(second, batch(7, 8)))
    for (loss, gradients), (same, others) in zip(found, expected, strict=True):
        assert torch.equal(loss, same)
        for ours, theirs in zip(gradients, others, strict=True):
            assert torch.equal(ours, theirs)
    assert set(tmp_path.rglob("*.safetensors")) == set(files)
    with pytest.raises(AssertionError, match="was asked"):  # of another image it is
        step(second, batch(7, 8, samples=(0, 2)))


def test_images_without_a_target_are_not_kept(build: Build, tmp_path: Path) -> None:
    module = build(tmp_path)
    given = batch(1, 2)
    module.network(given["aif"], [1, 2], maps=given["defocus"])
    assert not list(tmp_path.rglob("*.safetensors"))
