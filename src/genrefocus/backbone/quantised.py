"""Frozen weights in 8 or 4 bit: the linear layers of the blocks, all but a few per cent of a base.

The forward computes with them in the dtype of its input. LoRA is outside of them, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

#: 8 bit: whole numbers, or floating-point ones (e4m3), with a scale for each row, by torchao.
#: 4 bit: quantiles of the normal distribution, with a scale in 8 bit for 64 weights, by
#: bitsandbytes (Dettmers et al., QLoRA, arXiv 2305.14314).
Quantise = Literal["int8", "fp8", "nf4"]


class RowScaled(nn.Linear):
    """A frozen linear layer whose weight is codes in 8 bit, with a scale for each row.

    The codes are a plain tensor, not torchao's: that one would make autograd keep the weights of
    every layer in full for the backward pass, and cannot move once a compiled block has seen it.

    Args:
        linear: with a weight that torchao has quantised by rows.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        quantised: Any = linear.weight
        self.weight = nn.Parameter(quantised.qdata, requires_grad=False)
        self.scale = nn.Parameter(quantised.scale.flatten(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _RowScaledProduct.apply(x, self.weight, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _RowScaledProduct(torch.autograd.Function):
    """``x W^T``, which keeps the codes of W alone for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        y = F.linear(x, codes.to(x.dtype))
        return y * scale.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        codes, scale = ctx.saved_tensors
        (of_y,) = gradients
        return (of_y * scale.to(of_y.dtype)) @ codes.to(of_y.dtype), None, None


def quantise_blocks(transformer: FluxTransformer2DModel, how: Quantise) -> None:
    """Replace the linear layers of all blocks, one after the other, where they are.

    Raises:
        ValueError: there is no such way, or its package is not installed.
    """
    made = _layer(how)
    blocks = (transformer.transformer_blocks, transformer.single_transformer_blocks)
    for parent in list(chain.from_iterable(one.modules() for one in blocks)):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # and not one that is quantised
                setattr(parent, name, made(child))


def is_nf4(transformer: nn.Module) -> bool:
    """Whether its weights have a state of bitsandbytes beside them."""
    return any(hasattr(one, "quant_state") for one in transformer.parameters())


def all_weights(module: nn.Module) -> Iterator[Tensor]:
    """All weights, quantised or not, with their scales and tables; on any device."""
    yield from chain(module.parameters(), module.buffers())
    for one in module.parameters():
        state = getattr(one, "quant_state", None)  # of bitsandbytes, in no list of the module
        if state is not None:
            inner = state.state2
            yield from (state.absmax, state.code, state.offset, inner.absmax, inner.code)


def _layer(how: Quantise) -> Callable[[nn.Linear], nn.Linear]:
    """What makes a quantised layer of a plain one."""
    if how not in get_args(Quantise):
        raise ValueError(f"quantise={how}: give null, {', '.join(get_args(Quantise))}")
    package = "bitsandbytes" if how == "nf4" else "torchao.quantization"
    try:
        library = import_module(package)
    except ImportError as error:
        remedy = f"{package.partition('.')[0]} is not installed; pip install -e '.[quantise]'"
        raise ValueError(f"quantise={how}: {remedy}") from error
    if how == "nf4":
        # A table that it would make where the first weight is, and keep: there may be no storage.
        library.functional.name2qmap.setdefault("dynamic", library.functional.create_dynamic_map())
        return lambda linear: _nf4(linear, library)
    kind = library.Int8WeightOnlyConfig if how == "int8" else library.Float8WeightOnlyConfig
    config = kind(set_inductor_config=False)

    def by_rows(linear: nn.Linear) -> nn.Linear:
        library.quantize_(linear, config)
        return RowScaled(linear)

    return by_rows


def _nf4(linear: nn.Linear, library: Any) -> nn.Linear:
    # Its own .to() quantises too, but not on the meta device, where bytes are counted.
    codes, state = library.functional.quantize_4bit(
        linear.weight.data, quant_type="nf4", compress_statistics=True
    )
    state.to(codes.device)
    own = {"bias": linear.bias is not None, "quant_type": "nf4", "device": "meta"}
    made: Any = library.nn.Linear4bit(linear.in_features, linear.out_features, **own)
    made.weight = library.nn.Params4bit(
        codes, quant_type="nf4", quant_state=state, bnb_quantized=True, module=made
    )
    made.quant_state, made.bias = state, linear.bias
    made.support_avx512bf16_for_cpu = False  # repacked for sampling, it would have no gradient
    return made
