"""What training steps compute: samples, tokens and floating-point operations."""

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop, sdpa_flop

from genrefocus.denoiser import Latents

Formula = Callable[..., int]

_ATEN = torch.ops.aten
_REGISTERED: dict[Any, Formula] = {
    **flop_registry,
    # which torch has no formula for
    _ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class Work:
    """Work of the micro-batches of this process.

    FLOPs are counted by torch on the first micro-batch of each shape, and taken from there for the
    others. Those of gradient checkpointing's second forward do not count.

    Attributes:
        samples, tokens: so far; tokens are all that the transformer sees: text, image, conditions.
        flops: so far, of encoding, forward and backward pass, if ``counts_flops``.
    """

    def __init__(self) -> None:
        self.samples, self.tokens, self.flops = 0, 0, 0
        self.counts_flops = False
        self._known: dict[Hashable, int] = {}
        self._shape: Hashable = None

    def see(self, latents: Latents) -> None:
        """Add the samples and tokens of a micro-batch."""
        rows = len(latents.noise)
        self.samples += rows
        self.tokens += rows * latents.tokens

    @contextmanager
    def forward(self, shape: Hashable) -> Iterator[None]:
        """The block encodes a micro-batch and computes its loss.

        Args:
            shape: micro-batches of equal shape have equal FLOPs.
        """
        self._shape = shape
        with self._counted(("forward", shape), _FORWARD):
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The block is the backward pass of the last :meth:`forward`."""
        with self._counted(("backward", self._shape), _BACKWARD):
            yield

    @contextmanager
    def _counted(self, part: Hashable, formulas: dict[Any, Formula]) -> Iterator[None]:
        if not self.counts_flops:
            yield
            return
        if part in self._known:
            yield
        else:
            counter = FlopCounterMode(display=False, custom_mapping=formulas)
            with torch.compiler.set_stance("force_eager"), counter:  # it sees no compiled program
                yield
            self._known[part] = counter.get_total_flops()
        self.flops += self._known[part]


def _counting(formula: Formula, *, again: bool) -> Formula:
    """A registered formula for a counter.

    Args:
        formula: takes tensors.
        again: count what runs with gradients enabled; in a backward pass, that is what gradient
            checkpointing computes again.
    """

    @functools.wraps(formula)
    def count(*args: Any, **kwargs: Any) -> int:
        return formula(*args, **kwargs) if again or not torch.is_grad_enabled() else 0

    count._get_raw = True  # type: ignore[attr-defined]  # it takes tensors
    return count


_FORWARD, _BACKWARD = (
    {operator: _counting(formula, again=again) for operator, formula in _REGISTERED.items()}
    for again in (True, False)
)
