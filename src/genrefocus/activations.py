"""Bytes that a training step keeps for its backward pass, counted on shapes alone.

The multi-condition forward runs on the meta device with one block of each kind, then with two of
one kind: what the second adds is what a block keeps, so that any number of blocks follows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.denoiser import image_ids


@dataclass(frozen=True)
class Step:
    """Shapes of a micro-batch.

    Attributes:
        batch: samples.
        grid: rows and columns of the tokens of one picture.
        text: tokens of the prompt.
        conditions: pictures beside the noisy one; all carry the LoRA.
        rank: of the LoRA.
        dtype: of the base.
    """

    batch: int
    grid: tuple[int, int]
    text: int
    conditions: int
    rank: int
    dtype: torch.dtype


def activation_bytes(config: dict[str, Any], step: Step, *, checkpointing: bool) -> int:
    """Of the transformer that diffusers builds from ``config``; attention is taken for fused.

    With checkpointing the inputs of all blocks are kept, and the rest of one block at a time.
    """
    double, single = int(config["num_layers"]), int(config["num_single_layers"])
    both = _kept(config, (1, 1), step)
    of_double = _kept(config, (2, 1), step) - both
    of_single = _kept(config, (1, 2), step) - both
    outside = both - of_double - of_single
    if not checkpointing:
        return outside + double * of_double + single * of_single
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    tokens = step.text + (1 + step.conditions) * step.grid[0] * step.grid[1]
    inputs = (double + single) * step.batch * tokens * width * step.dtype.itemsize
    return outside + inputs + max(of_double, of_single)


def _kept(config: dict[str, Any], blocks: tuple[int, int], step: Step) -> int:
    """Bytes of the distinct tensors that are saved for backward, weights left out."""
    from diffusers import FluxTransformer2DModel

    some = {**config, "num_layers": blocks[0], "num_single_layers": blocks[1]}
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**some).requires_grad_(False)
        for parameter in transformer.parameters():
            parameter.data = parameter.data.to(step.dtype)
        lora = Lora.for_transformer(transformer, step.rank)
        weights = {_storage(one) for one in (*transformer.parameters(), *lora.parameters())}
        saved: dict[int, Tensor] = {}

        def pack(x: Tensor) -> Tensor:
            saved.setdefault(_storage(x), x)  # held, so that its address is not used again
            return x

        level = torch.zeros(step.batch)
        ids = image_ids(*step.grid, device="meta")
        channels = transformer.config.in_channels
        tokens = torch.zeros(step.batch, len(ids), channels, dtype=step.dtype)
        text = torch.zeros(
            step.batch, step.text, transformer.config.joint_attention_dim, dtype=step.dtype
        )
        pooled = torch.zeros(step.batch, transformer.config.pooled_projection_dim, dtype=step.dtype)
        conditions = [Branch(tokens, ids, level, level)] * step.conditions
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), _FusedAttention():
            multi_condition_forward(
                transformer, text, pooled, Branch(tokens, ids, level, level), conditions, lora=lora
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
            return _Attention.apply(*args[:3], (kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = torch.empty_like(q)
        logsumexp = q.new_empty(q.shape[:-1], dtype=torch.float32)
        # A mask of truth values is kept as numbers of the queries' dtype.
        masks = () if mask is None else (torch.empty_like(mask, dtype=q.dtype),)
        ctx.save_for_backward(q, k, v, out, logsumexp, *masks)
        return out
