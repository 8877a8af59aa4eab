"""BokehNet: an all-in-focus image and a defocus map to the photograph with that depth of field."""

from typing import Any

import torch
from torch import Tensor

from genrefocus.denoiser import Conditions, Latents
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, defocus_map
from lit_models.flow_matching import FlowMatching
from lit_models.training import Batch


class BokehNet(FlowMatching):
    """Conditions: the all-in-focus image, then the defocus map.

    Args:
        direct: take the blurred photograph in place of the all-in-focus image, which makes one
            network of the two (the paper's "direct refocusing" ablation).
        **training: see :class:`FlowMatching`.
    """

    task = "bokeh"
    lora_file, adapter = "bokehNet.safetensors", "bokeh"

    def __init__(self, *args: Any, direct: bool = False, **training: Any) -> None:
        super().__init__(*args, **training)
        self.direct = direct
        self.variant = "direct" if direct else "standard"

    def conditions(self, batch: Batch) -> Conditions:
        return Conditions(self.prompts(batch), self._source(batch), control=batch["defocus"])

    def target(self, batch: Batch) -> Tensor:
        return batch["bokeh"]

    def is_swept(self, batch: Batch) -> bool:
        return f"sweep_{PROTOCOL_K[0]:g}" in batch

    def series(self, batch: Batch, output: Tensor, latents: Latents) -> Tensor:
        images = []
        for level in PROTOCOL_K[:-1]:
            control = _defocus(batch, batch["k"] * level / PROTOCOL_K[-1])
            asked = self.denoiser.with_control(latents, control, self._fixed_generators(batch))
            images.append(self.denoiser.sample(asked, self.steps))
        return torch.stack([*images, output], dim=1)

    def _source(self, batch: Batch) -> Tensor:
        name = "blurry" if self.direct else "aif"
        if name not in batch:
            raise ValueError(
                f"sample {batch['key'][0]} has no image '{name}' that direct=true reads"
            )
        return batch[name]


def _defocus(batch: Batch, k: Tensor) -> Tensor:
    rows = zip(batch["disparity"], batch["focus_disparity"].tolist(), k.tolist(), strict=True)
    return torch.stack([defocus_map(d, f, BlurStrength(one, *d.shape[-2:])) for d, f, one in rows])
