"""Floating-point operations of the kernels that run, by torch's formulas."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # which torch has no formula for
    _ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
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
        if (formula := _FORMULAS.get(func._overloadpacket)) is not None:
            flops = formula(*args, **(kwargs or {}), out_val=out)
            self.total += flops
            self.again += flops * torch.is_grad_enabled()
        return out
