"""DeblurNet: a blurred photograph to its all-in-focus image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.denoiser import Conditions
from genrefocus.noise import to_device
from genrefocus.world.fields import spectral_noise
from lit_models.fidelity import Fidelity
from lit_models.flow_matching import FlowMatching
from lit_models.training import Batch

# Streams of random numbers: whether a batch has its maps, and how wrong the map of a draw is.
_OF_BATCHES, _OF_MAPS = 1, 2
_SLOPE = 2.5  # of the spectrum of local errors, as of estimated depth


@dataclass(frozen=True)
class MapErrors:
    """How wrong defocus maps are, as those from EXIF and estimated depth.

    Attributes:
        k: standard deviation of the logarithm of a factor on the whole map.
        local: the same of a factor that varies slowly over the image.
        smear: largest deviation of the Gaussian that the map is smeared by, px; drawn from 0 on.
    """

    k: float
    local: float
    smear: float

    def on(self, defocus: Tensor, rng: Generator) -> Tensor:
        """A map (1, H, W) in [0, 1] with errors."""
        _, height, width = defocus.shape
        local = self.local * spectral_noise(rng, height, width, _SLOPE)
        factor = torch.from_numpy(np.exp(rng.normal(0.0, self.k) + local)).to(defocus.dtype)
        if self.smear > 0:
            sigma = self.smear * (1.0 - rng.random())
            edge = 2 * math.ceil(2 * self.smear) + 1
            defocus = gaussian_blur(defocus, [edge, edge], [sigma, sigma])
        return (defocus * to_device(factor, defocus.device)).clamp(0, 1)


class DeblurNet(FlowMatching):
    """Conditions: the blurred image; with ``pre_deblur``, a deblurred draft before it; with
    ``told``, at times the defocus map of the blurred image after it.

    Args:
        pre_deblur: condition on ``batch["pre_deblur"]`` too, the output of a non-generative
            network.
        told: share of training micro-batches that see ``batch["defocus"]`` too; a micro-batch over
            all ranks has its maps or has none. Samples without a map are always deblurred blind. 0
            makes a network that takes no map.
        map_errors: of maps in training.
        **training: see :class:`FlowMatching`.

    Raises:
        ValueError: both a draft and a map, or a share outside [0, 1].
    """

    task = "deblur"
    lora_file, adapter = "deblurNet.safetensors", "deblurring"

    def __init__(
        self,
        *args: Any,
        pre_deblur: bool = False,
        told: float = 0.0,
        map_errors: MapErrors | None = None,
        **training: Any,
    ) -> None:
        super().__init__(*args, **training)
        if not 0 <= told <= 1:
            raise ValueError(f"told={told}: give a share of the micro-batches, 0 to 1")
        if pre_deblur and told:
            raise ValueError("DeblurNet takes a draft or a map: set pre_deblur=false or told=0")
        self.pre_deblur, self.told, self.map_errors = pre_deblur, told, map_errors
        self.variant = "pre_deblur" if pre_deblur else "told" if told else "standard"
        self.blind_fidelity = Fidelity("_blind") if told else None

    def conditions(self, batch: Batch) -> Conditions:
        if self.pre_deblur and "pre_deblur" not in batch:
            raise ValueError(
                f"sample {batch['key'][0]} has no image 'pre_deblur': prepare shards with one, "
                "or set pre_deblur=false"
            )
        return Conditions(
            self.prompts(batch),
            batch["bokeh"],
            control=batch.get("defocus") if self.told else None,
            draft=batch["pre_deblur"] if self.pre_deblur else None,
        )

    def target(self, batch: Batch) -> Tensor:
        return batch["aif"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(self.as_estimated(batch) if self.told else batch, batch_idx)

    def as_estimated(self, batch: Batch) -> Batch:
        """The micro-batch with the maps that training sees: wrong ones, or none."""
        draws = batch["draw"]
        first = draws[0] - self.global_rank * len(draws)
        if "defocus" not in batch or self._rng(_OF_BATCHES, first).random() >= self.told:
            return _blind(batch)
        if self.map_errors is None:
            return batch
        maps = [
            self.map_errors.on(one, self._rng(_OF_MAPS, draw))
            for one, draw in zip(batch["defocus"], draws, strict=True)
        ]
        return {**batch, "defocus": torch.stack(maps)}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """As of all networks, with the maps; and images without them beside."""
        shown = super().validation_step(batch, batch_idx)
        if self.blind_fidelity is not None and "defocus" in batch:
            conditions = self.conditions(_blind(batch))
            latents = self.denoiser.encode(conditions, self._fixed_generators(batch))
            output = self.denoiser.sample(latents, self.steps)
            self.blind_fidelity.update(output, self.target(batch))
        return shown

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.blind_fidelity is not None:
            self.log_dict(self.blind_fidelity.compute_and_reset(), sync_dist=False)

    def _rng(self, stream: int, number: int) -> Generator:
        return np.random.default_rng((self.seed, stream, number))


def _blind(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "defocus"}
