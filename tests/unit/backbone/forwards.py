"""Forwards and gradients of one transformer with its LoRA."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.denoiser import image_ids

GRID, TEXT = (3, 4), 5


class Forwards:
    """Of inputs that are always the same."""

    def __init__(self, transformer: nn.Module, lora: Lora) -> None:
        self.transformer, self.lora = transformer, lora

    def __call__(self, conditions: int = 2, rows: int = 2, **options: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator)
        ids, level = image_ids(*GRID), torch.full((rows,), 0.5)
        text, pooled = draw(rows, TEXT, 12), draw(rows, 10)
        image, *others = (
            Branch(draw(rows, len(ids), 16), ids, level, level) for _ in range(1 + conditions)
        )
        given = self.transformer, text, pooled, image, others
        return multi_condition_forward(*given, lora=self.lora, **options)  # type: ignore[arg-type]

    def gradients(self, **options: Any) -> list[Tensor]:
        """The output, and the gradients of all of the LoRA."""
        self.lora.zero_grad()
        output = self(**options)
        output.square().mean().backward()
        return [output.detach(), *(one.grad.clone() for one in self.lora.parameters())]  # type: ignore[union-attr]
