"""BokehNet: an all-in-focus image and a defocus map to the photograph with that depth of field."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.backbone import Backbone
from genrefocus.backbone.lora import load_lora
from genrefocus.denoiser import Conditions, Denoiser, Latents
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.network_card import FILE_NAME, read_network_card
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


class ApertureShape(BokehNet):
    """A second LoRA beside that of BokehNet, on one more condition: the shape of the aperture.

    Args:
        frozen_lora: BokehNet's LoRA file, which stays as it is and acts on its own conditions.
        **training: see :class:`BokehNet`.
    """

    lora_file, adapter = "apertureShape.safetensors", "aperture_shape"
    shaped = True

    def __init__(self, backbone: Backbone, *, frozen_lora: str | Path, **training: Any) -> None:
        frozen = load_lora(frozen_lora, backbone.transformer).requires_grad_(False)
        # In a function, as the backbone: it is neither trained nor averaged.
        self._frozen, self.frozen_lora = lambda: frozen, Path(frozen_lora)
        super().__init__(backbone, **training)

    @property
    def denoiser(self) -> Denoiser:
        return replace(super().denoiser, lora=self._frozen(), shape_lora=self.lora)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._frozen().to(self.device)

    def conditions(self, batch: Batch) -> Conditions:
        return replace(super().conditions(batch), shape=batch["shape"])

    def panel(self, batch: Batch, output: Tensor) -> dict[str, Tensor | None]:
        shown = super().panel(batch, output)
        return {"aperture": batch["shape"].expand(-1, 3, -1, -1), **shown}

    def export(self, folder: Path) -> dict[str, Any]:
        """Beside a copy of the frozen LoRA, with what the card beside that says of it."""
        own = super().export(folder)
        frozen: dict[str, Any] = {"lora": BokehNet.lora_file}
        shutil.copyfile(self.frozen_lora, folder / BokehNet.lora_file)
        if (self.frozen_lora.parent / FILE_NAME).is_file():
            frozen |= {
                "restored_radius": read_network_card(self.frozen_lora.parent).restored_radius
            }
        return {**frozen, "rank": self._frozen().rank, "shape_lora": own["lora"]}


def _defocus(batch: Batch, k: Tensor) -> Tensor:
    rows = zip(batch["disparity"], batch["focus_disparity"].tolist(), k.tolist(), strict=True)
    return torch.stack([defocus_map(d, f, BlurStrength(one, *d.shape[-2:])) for d, f, one in rows])
