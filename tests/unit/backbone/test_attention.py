"""Attention of the branches: one masked call is the independent check, and FLOPs are counted."""

import random
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from genrefocus.backbone import Branch, Lora, branches, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.denoiser import image_ids


def visible(text: int, lengths: list[int], *, isolated: bool) -> torch.Tensor:
    """(L, L): whether a query, of the rows, may see a key, of the columns."""
    owner = torch.tensor([0] * text + [i for i, n in enumerate(lengths) for _ in range(n)])
    query, key = owner[:, None], owner[None, :]
    mask = (query == 0) | (query == key)
    return mask if isolated else mask | (key == 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("conditions", [0, 1, 2, 3])
def test_it_equals_one_call_with_a_mask(conditions: int, isolated: bool, seed: int) -> None:
    drawn = random.Random(seed)
    torch.manual_seed(seed)
    text, lengths = drawn.randint(0, 9), [drawn.randint(1, 40) for _ in range(1 + conditions)]
    total, head = text + sum(lengths), 8
    still = torch.ones(total, head), torch.zeros(total, head)  # a rotation by nothing
    layout = branches._Layout(text, tuple(lengths), still, isolated, recomputes_feed_forward=False)
    leaves = [torch.randn(2, total, 3, head, requires_grad=True) for _ in "qkv"]
    ours = branches._attention(*leaves, layout)

    q, k, v = (x.transpose(1, 2) for x in leaves)
    mask = visible(text, lengths, isolated=isolated)
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    weight = torch.randn_like(masked)
    torch.testing.assert_close(ours, masked, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), leaves),
        torch.autograd.grad((masked * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    """FLUX.1-dev's transformer without storage."""
    with torch.device("meta"):
        return FluxTransformer2DModel(**FLUX_DEV_CONFIG).requires_grad_(False)


@pytest.mark.parametrize(
    ("conditions", "isolated", "share"),
    [(2, False, 0.837), (2, True, 0.592)],
)
@torch.no_grad()
def test_flops_of_flux_fall_with_what_nobody_sees(
    conditions: int, isolated: bool, share: float, flux: FluxTransformer2DModel
) -> None:
    """Both products of attention, at 512 px: the share is that of pairs that see each other."""
    text, tokens = 512, 32 * 32
    pairs = int(visible(text, [tokens] * (1 + conditions), isolated=isolated).sum())
    assert pairs / (text + (1 + conditions) * tokens) ** 2 == pytest.approx(share, abs=1e-3)
    counter = counted(flux, text, tokens, conditions, isolated=isolated)
    # Not fused on the meta device: nothing else there multiplies batches of matrices.
    found = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    assert found == 4 * 24 * 128 * pairs * (19 + 38)


def counted(
    flux: FluxTransformer2DModel,
    text: int,
    tokens: int,
    conditions: int,
    *,
    half_control: bool = False,
    **options: Any,
) -> FlopCounterMode:
    """FLOPs of a forward of a square image; of the last condition at half resolution if asked."""
    side = round(tokens**0.5)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        level = torch.zeros(1)
        whole, half = (
            Branch(torch.zeros(1, n * n, 64), image_ids(n, n, device="meta"), level, level)
            for n in (side, side // 2)
        )
        given = [whole] * (conditions - 1) + [half if half_control else whole]
        inputs = torch.zeros(1, text, 4096), torch.zeros(1, 768)
        multi_condition_forward(flux, *inputs, whole, given, **options)
    return counter


@torch.no_grad()
def test_flops_of_a_step_with_the_control_map_at_half_resolution(
    flux: FluxTransformer2DModel,
) -> None:
    """At 512 px with rank 64: a quarter of the map's tokens run through all layers."""
    text, lengths, width = 512, [1024, 1024, 256], 24 * 128
    options = {"lora": Lora.for_transformer(flux, 64), "half_control": True}
    found = counted(flux, text, 1024, 2, **options).get_total_flops()
    pairs = int(visible(text, lengths, isolated=False).sum())
    blocks = (19 + 38) * (24 * (text + sum(lengths)) * width**2 + 4 * pairs * width)
    assert 0 < found - blocks < 0.02 * blocks  # LoRA, modulation, embeddings
    assert found / 1e12 == pytest.approx(42.0, abs=0.05)


@pytest.mark.parametrize(("conditions", "teraflops"), [(1, 22.6), (2, 23.7)])
@torch.no_grad()
def test_flops_of_a_step_with_cached_conditions(
    conditions: int, teraflops: float, flux: FluxTransformer2DModel
) -> None:
    """At 512 px: linear layers run on text and image alone, which attend to all keys."""
    text, tokens, width = 512, 32 * 32, 24 * 128
    names = [f"transformer_blocks.{n}" for n in range(19)]
    names += [f"single_transformer_blocks.{n}" for n in range(38)]
    keys = torch.zeros(1, conditions * tokens, 24, 128, device="meta")
    options = {"lora": Lora.for_transformer(flux, 64), "isolated": True}
    options["cache"] = dict.fromkeys(names, (keys, keys))
    found = counted(flux, text, tokens, conditions, **options).get_total_flops()

    own, every = text + tokens, text + (1 + conditions) * tokens
    blocks = (19 + 38) * (24 * own * width**2 + 4 * own * every * width)
    modulation = 19 * 2 * 12 * width**2 + 38 * 6 * width**2 + 4 * width**2
    embedding = 2 * width * (text * 4096 + 2 * tokens * 64 + 2 * 256 + 768 + 3 * width)
    assert found == blocks + modulation + embedding
    assert found / 1e12 == pytest.approx(teraflops, abs=0.05)
