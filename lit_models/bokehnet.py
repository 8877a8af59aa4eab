"""BokehNet: an all-in-focus image and a defocus map to the photograph with that depth of field."""

from typing import Any

import torch
from torch import Tensor

from genrefocus.baselines import classical_bokeh
from genrefocus.denoiser import Conditions, Latents
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
        self.variant = "direct" if direct else "standard"

    def conditions(self, batch: Batch) -> Conditions:
        return Conditions(self.prompts(batch), self._source(batch), control=batch["defocus"])

    def target(self, batch: Batch) -> Tensor:
        return batch["bokeh"]

    def floor(self, batch: Batch) -> Tensor:
        return _scatter(self._source(batch), batch, batch["k"])

    def is_swept(self, batch: Batch) -> bool:
        return f"sweep_{PROTOCOL_K[0]:g}" in batch

    def sweeps(
        self, batch: Batch, outputs: dict[str, Tensor], latents: Latents
    ) -> dict[str, Tensor]:
        """See :meth:`FlowMatching.sweeps`; the target's too where there is the classical floor."""
        pictures: dict[str, list[Tensor]] = {"model": []}
        if "floor" in outputs:
            pictures |= {"floor": [], "target": []}
            outputs = {**outputs, "target": batch["bokeh"]}
        for level in PROTOCOL_K[:-1]:
            k = batch["k"] * level / PROTOCOL_K[-1]
            generators = self._fixed_generators(batch)
            asked = self.denoiser.with_control(latents, _defocus(batch, k), generators)
            pictures["model"].append(self.denoiser.sample(asked, self.steps))
            if "floor" in outputs:
                pictures["floor"].append(_scatter(self._source(batch), batch, k))
                pictures["target"].append(batch[f"sweep_{level:g}"])
        return {m: torch.stack([*some, outputs[m]], dim=1) for m, some in pictures.items()}

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
