"""Floating-point operations of the kernels that run, by torch's formulas."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop


def _nf4_flop(x: Tensor, codes: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Of a product with a weight (out, in) in nf4, see bitsandbytes."""
    return 2 * x.numel() * shape[0]


_FORMULAS: dict[str, Callable[..., int]] = {
    **{str(kernel): formula for kernel, formula in flop_registry.items()},
    # which torch has no formula for
    "aten._scaled_dot_product_flash_attention_for_cpu": sdpa_flop,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop,
    "bitsandbytes.gemm_4bit": _nf4_flop,
}


class FlopCount(TorchDispatchMode):
    """Counts what runs within.

    Torch's ``FlopCounterMode`` also follows modules, by hooks that keep what gradient checkpointing
    would drop until the backward pass has ended.

    Attributes:
        total: FLOPs so far.
        again: those of it that ran with gradients enabled; in a backward pass that is what
            gradient checkpointing computes again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.again = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := _FORMULAS.get(str(func._overloadpacket))) is not None:
            flops = formula(*args, **(kwargs or {}), out_val=out)
            self.total += flops
            self.again += flops * torch.is_grad_enabled()
        return out
