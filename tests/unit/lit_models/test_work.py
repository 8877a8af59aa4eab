"""FLOPs of training steps, beside closed forms and torch's own count."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from genrefocus.backbone import Backbone, Checkpointing, Lora
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.spelling import HashedWords
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.flow import Flow, Shift
from genrefocus.noise import seeded_generators
from genrefocus.sampling import Tiling
from lit_models.work import Work
from tests.allocator import peak_bytes


@pytest.mark.parametrize("again", [False, True])
def test_linear_layers_count_as_their_products_and_only_once(again: bool) -> None:
    first, second = nn.Linear(8, 16), nn.Linear(16, 4)
    work = Work()
    work.counts_flops = True
    counted = []
    for rows in (3, 3, 5):
        x = torch.ones(rows, 8, requires_grad=True)
        with work.forward(rows):
            hidden = checkpoint(first, x, use_reentrant=False) if again else first(x)
            loss = second(hidden.relu()).sum()
        with work.backward():
            loss.backward()
        counted.append(work.flops)
    of_a_row = 3 * 2 * (8 * 16 + 16 * 4)  # forward, and backward to inputs and to weights
    assert counted == [3 * of_a_row, 6 * of_a_row, 11 * of_a_row]


def test_attention_counts_the_same_fused_and_not() -> None:
    heads, tokens, width = 2, 24, 16

    def counted(kind: SDPBackend) -> tuple[int, int]:
        work = Work()
        work.counts_flops = True
        q, k, v = torch.randn(3, 1, heads, tokens, width).unbind()
        with sdpa_kernel(kind), work.forward(kind):
            loss = scaled_dot_product_attention(q.requires_grad_(), k, v).sum()
        forward = work.flops
        with work.backward():
            loss.backward()
        return forward, work.flops - forward

    product = 2 * heads * tokens**2 * width
    assert counted(SDPBackend.MATH)[0] == counted(SDPBackend.FLASH_ATTENTION)[0] == 2 * product
    assert counted(SDPBackend.FLASH_ATTENTION)[1] == 5 * product  # scores once more, and four


@pytest.mark.parametrize("checkpointing", ["feed_forward", 2, "all"])
def test_a_checkpointed_flux_step_counts_as_one_without(
    checkpointing: Checkpointing, tiny_flux: Any, tiny_vae: Any
) -> None:
    def measured(checkpointing: Checkpointing, counter: Any, compiled: bool = False) -> int:
        text = {"joint_attention_dim": 16, "pooled_projection_dim": 16}
        transformer = tiny_flux(num_layers=1, num_single_layers=2, **text)
        codec, words = VaeCodec(tiny_vae()), HashedWords(4, 16, 16)
        network = {"shift": Shift(), "tiling": Tiling(4, 3), "checkpointing": checkpointing}
        backbone = Backbone(transformer, codec, words, **network, compiled=compiled)
        lora = Lora.for_transformer(transformer, 2, generator=torch.Generator().manual_seed(0))
        denoiser = Denoiser(backbone, Flow(), lora)
        image, generators = torch.rand(2, 3, 16, 16), seeded_generators(0, range(2))
        conditions = Conditions(["a photo"] * 2, image, torch.rand(2, 1, 16, 16))

        def loss() -> torch.Tensor:
            latents = denoiser.encode(conditions, generators, image)
            assert latents.tokens == 4 + 3 * 16
            return denoiser.loss(latents, torch.full((2,), 0.5)).mean()

        with sdpa_kernel(SDPBackend.MATH):  # which torch can count on the CPU
            if isinstance(counter, Work):
                with counter.forward(conditions.shapes):
                    value = loss()
                with counter.backward():
                    value.backward()
                return counter.flops
            with counter:
                loss().backward()
        return counter.get_total_flops()

    work = Work()
    work.counts_flops = True
    plain = measured("none", FlopCounterMode(display=False))
    assert measured(checkpointing, FlopCounterMode(display=False)) > plain
    assert measured(checkpointing, work) == plain
    of_compiled = Work()
    of_compiled.counts_flops = True  # the first block has a gradient more, towards the text
    assert measured(checkpointing, of_compiled, compiled=True) == pytest.approx(plain, rel=0.02)


def test_counting_takes_no_memory() -> None:
    """What gradient checkpointing drops is dropped also where FLOPs are counted."""
    layers = [nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64)) for _ in range(8)]

    def step(counts_flops: bool) -> None:
        work = Work()
        work.counts_flops = counts_flops
        x = torch.ones(256, 64, requires_grad=True)
        with work.forward(None):
            for layer in layers:
                x = checkpoint(layer, x, use_reentrant=False)
            loss = x.sum()
        with work.backward():
            loss.backward()

    step(False)  # gradients are there from now on
    plain = peak_bytes(lambda: step(False))
    assert peak_bytes(lambda: step(True)) == pytest.approx(plain, rel=0.01)
