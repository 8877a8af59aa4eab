"""DeblurNet: a blurred photograph to its all-in-focus image."""

from typing import Any

from torch import Tensor

from genrefocus.denoiser import Conditions
from lit_models.flow_matching import FlowMatching
from lit_models.training import Batch


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
        self.variant = "pre_deblur" if pre_deblur else "standard"

    def conditions(self, batch: Batch) -> Conditions:
        if self.pre_deblur and "pre_deblur" not in batch:
            raise ValueError(
                f"sample {batch['key'][0]} has no image 'pre_deblur': prepare shards with one, "
                "or set pre_deblur=false"
            )
        draft = batch["pre_deblur"] if self.pre_deblur else None
        return Conditions(self.prompts(batch), batch["bokeh"], draft=draft)

    def target(self, batch: Batch) -> Tensor:
        return batch["aif"]
