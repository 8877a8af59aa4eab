"""Bytes that are kept for backward: counted on shapes as they are on a real forward."""

import logging

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.denoiser import image_ids
from genrefocus.preflight.activations import activation_bytes

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
BATCH, GRID, TEXT, RANK = 2, (8, 6), 10, 4


def measured(conditions: int) -> int:
    """Bytes of saved tensors of a real forward on the CPU."""
    transformer = FluxTransformer2DModel(**SMALL).requires_grad_(False)
    lora = Lora.for_transformer(transformer, RANK)
    own = {p.data_ptr() for p in (*transformer.parameters(), *lora.parameters())}
    saved: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x
        return x

    ids, level = image_ids(*GRID), torch.full((BATCH,), 0.5)
    image, *others = (
        Branch(torch.randn(BATCH, len(ids), 16), ids, level, level) for _ in range(1 + conditions)
    )
    text, pooled = torch.randn(BATCH, TEXT, 24), torch.randn(BATCH, 24)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        multi_condition_forward(transformer, text, pooled, image, others, lora=lora)
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in own)


@pytest.mark.parametrize("conditions", [1, 2])
def test_a_real_forward_keeps_as_much(conditions: int) -> None:
    counted = activation_bytes(
        SMALL,
        batch=BATCH,
        grid=GRID,
        text=TEXT,
        conditions=conditions,
        rank=RANK,
        dtype=torch.float32,
        checkpointing=False,
    )
    assert counted == pytest.approx(measured(conditions), rel=0.01)


def test_checkpointing_keeps_less_and_more_than_the_inputs_of_its_blocks() -> None:
    def flux(batch: int, *, checkpointing: bool) -> int:
        return activation_bytes(
            FLUX_DEV_CONFIG,
            batch=batch,
            grid=(32, 32),
            text=512,
            conditions=2,
            rank=64,
            dtype=torch.bfloat16,
            checkpointing=checkpointing,
        )

    whole, less = flux(1, checkpointing=False), flux(1, checkpointing=True)
    inputs = 57 * (512 + 3 * 1024) * 3072 * 2
    assert inputs < less < whole / 5
    double = flux(2, checkpointing=False)
    assert double == pytest.approx(2 * whole, rel=0.1)  # masks and weights in bf16 are kept once


def test_shapes_are_counted_without_warnings_about_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        activation_bytes(
            SMALL,
            batch=BATCH,
            grid=GRID,
            text=TEXT,
            conditions=1,
            rank=RANK,
            dtype=torch.bfloat16,
            checkpointing=True,
        )
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
