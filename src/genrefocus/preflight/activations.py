"""Bytes that a training step keeps for its backward pass, counted on shapes alone.

The multi-condition forward runs on the meta device with one block of each kind, then with two of
one kind: what the second adds is what a block keeps, so that any number of blocks follows.
"""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.denoiser import image_ids


def activation_bytes(
    config: dict[str, Any],
    *,
    batch: int,
    grid: tuple[int, int],
    text: int,
    conditions: int,
    rank: int,
    dtype: torch.dtype,
    checkpointing: bool,
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
        checkpointing: keeps the inputs of all blocks, and the rest of one block at a time.
    """

    def kept(doubles: int, singles: int) -> int:
        """Bytes of the distinct tensors that are saved for backward, weights left out."""
        some = {**config, "num_layers": doubles, "num_single_layers": singles}
        with torch.device("meta"):
            transformer = FluxTransformer2DModel(**some).requires_grad_(False)
            torch.nn.Module.to(transformer, dtype)  # diffusers' own warns of loaded weights
            lora = Lora.for_transformer(transformer, rank)
            weights = {_storage(one) for one in (*transformer.parameters(), *lora.parameters())}
            level, ids = torch.zeros(batch), image_ids(*grid, device="meta")
            shape = transformer.config
            tokens = torch.zeros(batch, len(ids), shape.in_channels, dtype=dtype)
            prompt = torch.zeros(batch, text, shape.joint_attention_dim, dtype=dtype)
            pooled = torch.zeros(batch, shape.pooled_projection_dim, dtype=dtype)
            image = Branch(tokens, ids, level, level)
            saved: dict[int, Tensor] = {}

            def pack(x: Tensor) -> Tensor:
                saved.setdefault(_storage(x), x)  # held, so that its address is not used again
                return x

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), _FusedAttention():
                multi_condition_forward(
                    transformer, prompt, pooled, image, [image] * conditions, lora=lora
                )
        return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in weights)

    double, single = int(config["num_layers"]), int(config["num_single_layers"])
    both = kept(1, 1)
    of_double, of_single = kept(2, 1) - both, kept(1, 2) - both
    outside = both - of_double - of_single
    if not checkpointing:
        return outside + double * of_double + single * of_single
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    tokens = text + (1 + conditions) * grid[0] * grid[1]
    inputs = (double + single) * batch * tokens * width * dtype.itemsize
    return outside + inputs + max(of_double, of_single)


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
