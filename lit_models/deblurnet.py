"""DeblurNet: a blurred photograph to its all-in-focus image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrefocus.baselines import best_unsharp, unsharp_mask
from genrefocus.editing import Edit, edit_pictures
from lit_models.flow_matching import Batch, FlowMatching


class DeblurNet(FlowMatching):
    """Conditions: the blurred image; with ``pre_deblur``, a deblurred draft before it.

    Args:
        pre_deblur: condition on ``batch["pre_deblur"]`` too, the output of a non-generative
            network.
        **training: see :class:`FlowMatching`.
    """

    task = "deblur"
    lora_file, adapter = "deblurNet.safetensors", "deblurring"

    def __init__(self, *args: Any, pre_deblur: bool = False, **training: Any) -> None:
        super().__init__(*args, **training)
        self.pre_deblur = pre_deblur
        self._floor: dict[str, float] | None = None

    def edit(self, batch: Batch) -> Edit:
        if self.pre_deblur and "pre_deblur" not in batch:
            raise ValueError(
                f"sample {batch['key'][0]} has no picture 'pre_deblur': prepare shards with one, "
                "or set pre_deblur=false"
            )
        draft = batch["pre_deblur"] if self.pre_deblur else None
        return Edit(self.prompts(batch), batch["bokeh"], draft=draft)

    def target(self, batch: Batch) -> Tensor:
        return batch["aif"]

    @torch.no_grad()
    def deblur(self, photographs: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """All-in-focus images of photographs (B, 3, H, W) in [0, 1] of any size, same shape.

        The noise of a photograph is that of its number, see ``editing.edit_pictures``.

        Raises:
            ValueError: the network reads a draft, and a photograph alone has none.
        """
        if self.pre_deblur:
            raise ValueError("a network with pre_deblur=true does not deblur a photograph alone")
        return edit_pictures(
            self.editor,
            photographs,
            prompt=self.prompt,
            steps=self.steps,
            seed=self.seed,
            numbers=numbers,
        )

    def fit_floor(self, blurry: Tensor, sharp: Tensor) -> None:
        """Choose the unsharp mask that the network is compared with: the best on these images."""
        best = best_unsharp(blurry, sharp)
        self._floor = {"sigma": best.sigma, "amount": best.amount}

    def floor(self, batch: Batch) -> Tensor:
        assert self._floor is not None, "fit_floor comes before a test"
        return unsharp_mask(batch["bokeh"], **self._floor)
