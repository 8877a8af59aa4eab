"""Bytes that are kept for backward: counted on shapes as they are on a real forward."""

import logging

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genrefocus.backbone import Branch, Checkpointing, Lora, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.denoiser import image_ids
from genrefocus.preflight.activations import activation_bytes
from genrefocus.preflight.memory import CHECKPOINTINGS

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


def measured(conditions: int, checkpointing: Checkpointing, half_control: bool = False) -> int:
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
    if half_control:
        quarter = torch.randn(BATCH, len(ids) // 4, 16)
        others[-1] = Branch(quarter, ids[: len(ids) // 4], level, level)
    text, pooled = torch.randn(BATCH, TEXT, 24), torch.randn(BATCH, 24)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        multi_condition_forward(
            transformer, text, pooled, image, others, lora=lora, checkpointing=checkpointing
        )
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in own)


def counted(
    conditions: int,
    checkpointing: Checkpointing,
    dtype: torch.dtype,
    half_control: bool = False,
) -> int:
    """The same, on shapes alone."""
    return activation_bytes(
        SMALL,
        batch=BATCH,
        grid=GRID,
        text=TEXT,
        conditions=conditions,
        rank=RANK,
        dtype=dtype,
        checkpointing=checkpointing,
        half_control=half_control,
    )


@pytest.mark.parametrize(("conditions", "half"), [(1, False), (2, False), (2, True)])
def test_a_real_forward_keeps_as_much(conditions: int, half: bool) -> None:
    whole = measured(conditions, "none", half)
    assert counted(conditions, "none", torch.float32, half) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize("checkpointing", ["feed_forward", 3, "all"])
def test_of_what_is_computed_again_one_part_is_counted(checkpointing: Checkpointing) -> None:
    """A real forward keeps the rest; what a part adds is at most a block's share of the whole."""
    kept, whole = measured(2, checkpointing), measured(2, "none")
    found = counted(2, checkpointing, torch.float32)
    assert kept < found < kept + whole / 4


def flux_bytes(batch: int, checkpointing: Checkpointing) -> int:
    """FLUX.1-dev with two conditions at 512 px."""
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


def test_checkpointing_keeps_less_and_more_than_the_inputs_of_its_blocks() -> None:
    whole, less = flux_bytes(1, "none"), flux_bytes(1, "all")
    inputs = 57 * (512 + 3 * 1024) * 3072 * 2
    assert inputs < less < whole / 5
    assert flux_bytes(2, "none") == pytest.approx(2 * whole, rel=0.1)  # weights are kept once


def flux_flops(doubles: int, singles: int, checkpointing: Checkpointing) -> int:
    """FLOPs of a training step of FLUX.1-dev with some of its blocks, two conditions, 512 px."""
    some = {**FLUX_DEV_CONFIG, "num_layers": doubles, "num_single_layers": singles}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        transformer = FluxTransformer2DModel(**some).requires_grad_(False)
        lora = Lora.for_transformer(transformer, 64)
        level, ids = torch.zeros(1), image_ids(32, 32, device="meta")
        image = Branch(torch.zeros(1, 1024, 64), ids, level, level)
        inputs = torch.zeros(1, 512, 4096), torch.zeros(1, 768), image, [image] * 2
        out = multi_condition_forward(transformer, *inputs, lora=lora, checkpointing=checkpointing)
        out.sum().backward()
    return counter.get_total_flops()


def test_auto_goes_from_the_fewest_flops_to_the_fewest_bytes() -> None:
    """Of a whole step: FLOPs of a block of each kind are counted, as are those outside of them."""
    both, one_more = {}, {}
    for how in ("none", "feed_forward", "all"):
        both[how] = flux_flops(1, 1, how)
        one_more[how] = flux_flops(2, 1, how) - both[how], flux_flops(1, 2, how) - both[how]
    outside = both["none"] - sum(one_more["none"])

    def step(checkpointing: Checkpointing) -> int:
        if isinstance(checkpointing, str):
            hows = [checkpointing] * 57
        else:
            hows = ["none" if block % checkpointing else "all" for block in range(57)]
        return outside + sum(one_more[how][block >= 19] for block, how in enumerate(hows))

    flops = [step(one) for one in CHECKPOINTINGS]
    kept = [flux_bytes(1, one) for one in CHECKPOINTINGS]
    assert flops == sorted(set(flops)) and kept == sorted(set(kept), reverse=True)
    whole, fed, recomputed = (
        flops[CHECKPOINTINGS.index(x)] for x in ("none", "feed_forward", "all")
    )
    # Forward again is nearly half as much once more; a feed-forward stops before its last layer.
    assert recomputed / whole == pytest.approx(1.47, abs=0.02)
    assert fed / whole == pytest.approx(1.14, abs=0.02)


def test_shapes_are_counted_without_warnings_about_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        counted(1, "all", torch.bfloat16)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
