"""BokehNet: an all-in-focus image and a defocus map to the photograph with that depth of field."""

from typing import Any

import torch
from torch import Tensor

from genrefocus.baselines import classical_bokeh
from genrefocus.editing import Edit
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.optics import BlurStrength, defocus_map
from lit_models.flow_matching import Batch, FlowMatching


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

    def edit(self, batch: Batch) -> Edit:
        return Edit(self.prompts(batch), self._source(batch), control=batch["defocus"])

    def target(self, batch: Batch) -> Tensor:
        return batch["bokeh"]

    def floor(self, batch: Batch) -> Tensor:
        return _scatter(self._source(batch), batch, batch["k"])

    def sweep(self, batch: Batch, method: str) -> Tensor | None:
        """Scenes at the protocol's K, where the largest is the sample's own; None without truth."""
        if f"sweep_{PROTOCOL_K[0]:g}" not in batch:
            return None
        if method == "target":
            lower = [batch[f"sweep_{k:g}"] for k in PROTOCOL_K[:-1]]
            return torch.stack([*lower, batch["bokeh"]], dim=1)
        pictures = []
        for level in PROTOCOL_K:
            k = batch["k"] * level / PROTOCOL_K[-1]
            if method == "floor":
                pictures.append(_scatter(self._source(batch), batch, k))
            else:
                pictures.append(self.generate({**batch, "defocus": _defocus(batch, k)}))
        return torch.stack(pictures, dim=1)

    def _source(self, batch: Batch) -> Tensor:
        name = "blurry" if self.direct else "aif"
        if name not in batch:
            raise ValueError(
                f"sample {batch['key'][0]} has no picture '{name}' that direct=true reads"
            )
        return batch[name]


def _defocus(batch: Batch, k: Tensor) -> Tensor:
    rows = zip(batch["disparity"], batch["focus_disparity"].tolist(), k.tolist(), strict=True)
    return torch.stack([defocus_map(d, f, BlurStrength(one, *d.shape[-2:])) for d, f, one in rows])


def _scatter(source: Tensor, batch: Batch, k: Tensor) -> Tensor:
    rows = zip(
        source, batch["disparity"], batch["focus_disparity"].tolist(), k.tolist(), strict=True
    )
    return torch.stack(
        [
            classical_bokeh(
                image,
                d[0],
                focus_disparity=f,
                strength=BlurStrength(one, *d.shape[-2:]),
            )
            for image, d, f, one in rows
        ]
    )
