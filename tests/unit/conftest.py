"""Tiny FLUX transformers and adapters for the tests of the model."""

from collections.abc import Callable

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from genrefocus.backbone import Lora

TINY_FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture
def tiny_flux() -> Callable[..., FluxTransformer2DModel]:
    """Factory of frozen random transformers: (**settings) -> FluxTransformer2DModel."""

    def build(**settings) -> FluxTransformer2DModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FluxTransformer2DModel(**{**TINY_FLUX, **settings})
        return model.requires_grad_(False).eval()

    return build


@pytest.fixture
def random_lora() -> Callable[..., Lora]:
    """Factory of adapters that do something: (transformer, rank, seed) -> Lora with B != 0."""

    def build(transformer: nn.Module, rank: int = 4, seed: int = 0) -> Lora:
        generator = torch.Generator().manual_seed(seed)
        lora = Lora.for_transformer(transformer, rank, generator=generator)
        for b in lora.lora_b.values():
            nn.init.normal_(b, std=0.1, generator=generator)
        return lora

    return build
