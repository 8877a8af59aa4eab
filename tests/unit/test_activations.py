"""Bytes that are kept for backward: counted on shapes as they are on a real forward."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from genrefocus.activations import Step, activation_bytes
from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.denoiser import image_ids

SMALL = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 3,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
STEP = Step(batch=2, grid=(8, 6), text=10, conditions=1, rank=4, dtype=torch.float32)


def measured(step: Step) -> int:
    """Bytes of saved tensors of a real forward on the CPU."""
    transformer = FluxTransformer2DModel(**SMALL).requires_grad_(False)
    lora = Lora.for_transformer(transformer, step.rank)
    own = {p.data_ptr() for p in (*transformer.parameters(), *lora.parameters())}
    saved: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x
        return x

    ids, level = image_ids(*step.grid), torch.full((step.batch,), 0.5)
    image, *others = (
        Branch(torch.randn(step.batch, len(ids), 16), ids, level, level)
        for _ in range(1 + step.conditions)
    )
    text, pooled = torch.randn(step.batch, step.text, 24), torch.randn(step.batch, 24)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        multi_condition_forward(transformer, text, pooled, image, others, lora=lora)
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in own)


@pytest.mark.parametrize("conditions", [1, 2])
def test_a_real_forward_keeps_as_much(conditions: int) -> None:
    step = replace(STEP, conditions=conditions)
    assert activation_bytes(SMALL, step, checkpointing=False) == pytest.approx(
        measured(step), rel=0.01
    )


def test_checkpointing_keeps_less_and_more_than_the_inputs_of_its_blocks() -> None:
    flux = Step(1, (32, 32), 512, 2, 64, torch.bfloat16)
    whole, less = (activation_bytes(FLUX_DEV_CONFIG, flux, checkpointing=c) for c in (False, True))
    inputs = 57 * (512 + 3 * 1024) * 3072 * 2
    assert inputs < less < whole / 5
    double = activation_bytes(FLUX_DEV_CONFIG, replace(flux, batch=2), checkpointing=False)
    assert double == pytest.approx(2 * whole, rel=0.1)  # masks and weights in bf16 are kept once
