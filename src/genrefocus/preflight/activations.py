"""Bytes that a training step keeps for its backward pass, counted on shapes alone.

The multi-condition forward runs on the meta device with one block of each kind, then with two of
one kind: what the second adds is what a block keeps, so that any number of blocks follows.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from genrefocus.backbone import Branch, Checkpointing, Lora, multi_condition_forward
from genrefocus.denoiser import image_ids

_Uniform = Literal["none", "feed_forward", "all"]


def activation_bytes(
    config: Mapping[str, Any],
    *,
    batch: int,
    grid: tuple[int, int],
    text: int,
    conditions: int,
    rank: int,
    dtype: torch.dtype,
    checkpointing: Checkpointing,
    half_control: bool = False,
) -> int:
    """Bytes of one micro-batch; attention is taken for fused.

    Args:
        config: of the transformer, as diffusers takes it.
        batch: samples.
        grid: rows and columns of the tokens of one image.
        text: tokens of the prompt.
        conditions: images beside the noisy one; all carry the LoRA.
        rank: of the LoRA.
        dtype: of the base.
        checkpointing: what backward computes again, see :func:`multi_condition_forward`; of that,
            one block or one feed-forward is there at a time.
        half_control: the last condition has a quarter of the tokens.
    """
    lengths = (grid[0] * grid[1],) * conditions
    if half_control:
        lengths = (*lengths[:-1], lengths[-1] // 4)

    def parts(how: _Uniform) -> tuple[int, int, int]:
        """Bytes outside of blocks, of a double block, and of a single one."""

        def kept(doubles: int, singles: int) -> int:
            some = {**config, "num_layers": doubles, "num_single_layers": singles}
            shape = (batch, grid, text, lengths, rank, dtype)
            return _kept(tuple(some.items()), *shape, how)

        both = kept(1, 1)
        of_double, of_single = kept(2, 1) - both, kept(1, 2) - both
        return both - of_double - of_single, of_double, of_single

    double, single = int(config["num_layers"]), int(config["num_single_layers"])
    outside, of_double, of_single = parts("none")
    whole = outside + double * of_double + single * of_single
    if checkpointing == "none":
        return whole
    every, how = (1, checkpointing) if isinstance(checkpointing, str) else (checkpointing, "all")
    _, less_of_double, less_of_single = parts(how)
    saved_by_double, saved_by_single = of_double - less_of_double, of_single - less_of_single
    doubles = len(range(0, double, every))
    singles = len(range(0, double + single, every)) - doubles
    at_a_time = max(saved_by_double, saved_by_single)
    return whole - doubles * saved_by_double - singles * saved_by_single + at_a_time


@cache
def _kept(
    config: tuple[tuple[str, Any], ...],
    batch: int,
    grid: tuple[int, int],
    text: int,
    conditions: tuple[int, ...],
    rank: int,
    dtype: torch.dtype,
    checkpointing: _Uniform,
) -> int:
    """Bytes of the distinct tensors that are saved for backward, weights left out."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**dict(config)).requires_grad_(False)
        torch.nn.Module.to(transformer, dtype)  # diffusers' own warns of loaded weights
        lora = Lora.for_transformer(transformer, rank)
        weights = {_storage(one) for one in (*transformer.parameters(), *lora.parameters())}
        level, ids = torch.zeros(batch), image_ids(*grid, device="meta")
        shape = transformer.config
        tokens = torch.zeros(batch, len(ids), shape.in_channels, dtype=dtype)
        prompt = torch.zeros(batch, text, shape.joint_attention_dim, dtype=dtype)
        pooled = torch.zeros(batch, shape.pooled_projection_dim, dtype=dtype)
        image = Branch(tokens, ids, level, level)
        given = [replace(image, tokens=tokens[:, :n].clone(), ids=ids[:n]) for n in conditions]
        saved: dict[int, Tensor] = {}

        def pack(x: Tensor) -> Tensor:
            saved.setdefault(_storage(x), x)  # held, so that its address is not used again
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), _FusedAttention():
            multi_condition_forward(
                transformer, prompt, pooled, image, given, lora=lora, checkpointing=checkpointing
            )
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in weights)


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps what fused kernels keep; the meta device has the plain one alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args)
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        logsumexp = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out
